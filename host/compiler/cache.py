# SPDX-License-Identifier: Apache-2.0
"""Caching between steps: which layers a step between full ones does not compute in full, and what it computes instead.

    reuse   an increment gives the outputs of attention and MLP as the last full step had them (FORA's rule)
    icc     increment-calibrated caching (arXiv 2505.05829): q, k, v, the attention's output and both layers of the MLP give
            y₀ + A·(B·(x − x₀)), x₀ and y₀ of the last full step, A·B ≈ W of low rank. All else is computed in every step.

Step i is full if i mod period = 0. `Cache` is what a user asks for, `CachePlan` what lowering follows: layers and factors. On the
accelerator B is a layer whose reference is the anchor's operand, A one whose reference is 0; `projected` has B compute B·x and
subtract B·x₀, the same integers. What this file does not do: make factors (`factor.py`), lower (`builder.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from torch import nn

from ditto_cosim.host.compiler.factors import Factors, LayerFactors
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.program import MAX_PERIOD

Kind = Literal["icc", "reuse"]
Method = Literal["svd", "ca", "cd"]
METHODS: tuple[Method, ...] = get_args(Method)
Part = Literal["attention", "mlp"]

_ATTENTION = r"attn\d*\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)"
_MLP = r"ff(_context)?\.net\.(0\.proj|2)"
CORRECTED = re.compile(rf"(^|\.)({_ATTENTION}|{_MLP})$")
"""Layers of transformer blocks that increments correct, by their diffusers names."""
_OUTPUTS: Mapping[Part, re.Pattern[str]] = {
    "attention": re.compile(r"(^|\.)attn\d*\.(to_out\.0|to_add_out)$"),
    "mlp": re.compile(r"(^|\.)ff(_context)?\.net\.2$"),
}
MOST_CONVOLUTIONS = 2
"""Of a transformer: patches in, pixels out. A denoiser with more is a UNet."""


class CacheError(DittoError):
    """A cache that cannot be; the message says what was asked, what is there, and what to do."""


@dataclass(frozen=True)
class Cache:
    """What is asked for. What is wrong whatever the model is refused here."""

    kind: Kind = "icc"
    period: int = 3
    """A full step, and the increments behind it up to the next."""
    rank: int = 0
    """Of the factors; 0: as the file has it. `icc` alone."""
    factors: str = "cd"
    """`svd`, `ca` or `cd`, or the file that `ditto factor` wrote. `icc` alone."""
    projected: bool = False
    """B meets x, and B·x₀ is subtracted: the same bits, other work. `icc` alone."""
    parts: tuple[Part, ...] = ("attention", "mlp")
    """Whose outputs `reuse` gives again."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise CacheError(f"cache {self.kind!r} is unknown; it is icc or reuse")
        if type(self.period) is not int or not 1 <= self.period <= MAX_PERIOD:
            raise CacheError(
                f"cache: a period of {self.period} has no full step; it is the number of steps from one full step to the next, "
                "1 (every step is full) or more"
            )
        if type(self.rank) is not int or self.rank < 0:
            raise CacheError(f"cache: rank {self.rank} is none; it is a positive number")
        if not self.parts or any(part not in _OUTPUTS for part in self.parts):
            raise CacheError(f"cache: parts {self.parts} are none of {', '.join(_OUTPUTS)}")

    @property
    def idle(self) -> bool:
        """Every step is full: as if there were none."""
        return self.period == 1

    def plain(self) -> dict[str, Any]:
        """Numbers and text, for a record; `Cache.of` takes it."""
        return asdict(self)

    @classmethod
    def of(cls, asked: Any) -> Cache | None:
        """From a cache, its name, its plain form, or a cache configuration of diffusers."""
        if asked is None or isinstance(asked, cls):
            return asked
        if isinstance(asked, str):
            return cls(asked)  # type: ignore[arg-type]  # refused there
        if isinstance(asked, Mapping):
            known = [f.name for f in fields(cls)]
            if unknown := [str(key) for key in asked if key not in known]:
                raise CacheError(
                    f"cache: {', '.join(unknown)} is none of its settings, which are {', '.join(known)}"
                )
            return cls(**{**asked, "parts": tuple(asked.get("parts", cls.parts))})
        return _of_diffusers(asked)


def _of_diffusers(config: Any) -> Cache:
    """The cache that computes what diffusers would under a configuration of its own."""
    name = type(config).__name__
    if name == "TaylorSeerCacheConfig":
        chosen = (config.skip_predict_identifiers, config.cache_identifiers, config.disable_cache_after_step)
        plain = config.max_order == 0 and config.disable_cache_before_step == 0 and not config.use_lite_mode
        if plain and chosen == (None, None, None):
            return Cache("reuse", config.cache_interval, parts=("attention",))
        why = "it corresponds to reuse with max_order=0, disable_cache_before_step=0 and nothing else chosen"
    elif name == "PyramidAttentionBroadcastConfig":
        low, high = config.spatial_attention_timestep_skip_range
        others = config.temporal_attention_block_skip_range, config.cross_attention_block_skip_range
        period = config.spatial_attention_block_skip_range
        if period and others == (None, None) and low <= 0 and high >= 1000:
            return Cache("reuse", period, parts=("attention",))
        why = "it corresponds to reuse with a spatial range alone, over all timesteps (−1, 1001)"
    else:
        why = "nothing of ours does as it says"
    raise CacheError(f"{name}: {why}; ask for cache='icc' or cache='reuse' with a period instead")


@dataclass(frozen=True)
class CachePlan:
    """What lowering follows."""

    cache: Cache
    layers: frozenset[str]
    """Whose full steps are remembered."""
    factors: Mapping[str, LayerFactors] = field(default_factory=dict)
    """Of each of them; empty: their outputs are given again."""


def places(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """The layers that increments correct, by name; a UNet is refused."""
    convolutions = sum(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in denoiser.modules())
    if convolutions > MOST_CONVOLUTIONS:
        raise CacheError(
            f"{type(denoiser).__name__} has {convolutions} convolutions: caching is for transformers (DiT, PixArt), where it has "
            "been shown to work; on a UNet it stays off. Run with fewer --steps instead"
        )
    found = {n: m for n, m in denoiser.named_modules() if isinstance(m, nn.Linear) and CORRECTED.search(n)}
    if not found:
        raise CacheError(
            f"{type(denoiser).__name__} has no transformer blocks as diffusers names them (attn1.to_q … ff.net.2), so there is "
            "nothing to cache"
        )
    return found


def outputs(names: Sequence[str], parts: Sequence[Part]) -> frozenset[str]:
    """Those of the layers whose results leave attention or MLP."""
    return frozenset(n for n in names if any(_OUTPUTS[part].search(n) for part in parts))


def plan_of(cache: Cache, denoiser: nn.Module, factors: Factors | None) -> CachePlan:
    """The plan of a cache for this denoiser; factors that are not this model's, or too few, are refused."""
    found = places(denoiser)
    if cache.kind == "reuse":
        return CachePlan(cache, outputs(list(found), cache.parts))
    if factors is None:
        raise CacheError("cache icc needs factors; `ditto factor MODEL` makes them")
    return CachePlan(cache, frozenset(factors.layers), factors.for_run(found, cache.rank, cache.period))
