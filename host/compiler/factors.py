# SPDX-License-Identifier: Apache-2.0
"""Low-rank factors of a model's layers as a file: int8 with scales, one safetensors file beside its `ditto_scales.json`.

Of a layer y = W·x + b, W [N, K]: `A` int8 [N, R] and `B` int8 [R, K] with a scale a row, A·B ≈ W, and the scale of
B·(x − x₀) for every period that was seen. Components are in the order of their weight, so that a run of lower rank takes
the first ones. Each layer carries the digest of the weights that it was made of, and the factors of its input's channels.
What this file does not do: make them (`pipeline/factor.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ditto_cosim.host.compiler.seal import seal_of
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import replacing

FORMAT = "ditto-factors-2"
RUN_FACTORS = "factors.safetensors"
"""Those of a run, beside its record."""


class FactorsError(DittoError):
    """Factors that cannot be used; the message says of what they are and what was expected."""


def weight_digest(weight: torch.Tensor) -> str:
    """Identity of a layer's weights, in binary32."""
    plain = weight.detach().to(torch.float32).cpu().contiguous()
    return hashlib.blake2b(plain.numpy().tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class LayerFactors:
    """Of one layer."""

    a: torch.Tensor
    """int8 [N, R]"""
    a_scale: torch.Tensor
    """f32 [N]"""
    b: torch.Tensor
    """int8 [R, K], to be met by the quantized operand (after `channels`)."""
    b_scale: torch.Tensor
    """f32 [R]"""
    h_scales: tuple[float, ...]
    """Of B·(x − x₀) for a period of 2, 3, …"""
    digest: str
    channels: tuple[float, ...] = ()
    """What the operand's channels are divided by before (`smooth.py`); B has them multiplied in."""

    @property
    def rank(self) -> int:
        return self.b.shape[0]

    def truncated(self, rank: int) -> LayerFactors:
        return replace(
            self, a=self.a[:, :rank].contiguous(), b=self.b[:rank].contiguous(), b_scale=self.b_scale[:rank]
        )

    def h_scale(self, period: int) -> float:
        return self.h_scales[min(period, len(self.h_scales) + 1) - 2]


@dataclass(frozen=True)
class Factors:
    """Of a model."""

    model: str
    method: str
    layers: Mapping[str, LayerFactors]
    about: Mapping[str, Any]
    """How they were made: pictures, steps, seeds."""

    @property
    def _whose(self) -> str:
        return f"factors of {self.model!r}" if self.model else "factors"

    @property
    def rank(self) -> int:
        return max(f.rank for f in self.layers.values())

    @property
    def longest_period(self) -> int:
        return min(len(f.h_scales) for f in self.layers.values()) + 1

    def for_run(self, found: Mapping[str, nn.Linear], rank: int, period: int) -> dict[str, LayerFactors]:
        """Factors of these layers at a rank (0: their own), if that is what they are of."""
        if unknown := self.layers.keys() - found.keys():
            raise FactorsError(
                f"{self._whose} are of another model: it has a layer {min(unknown)!r}, the denoiser has none"
            )
        for name, factors in self.layers.items():
            if weight_digest(found[name].weight) != factors.digest:
                raise FactorsError(
                    f"{self._whose} were made from other weights than this denoiser's (layer {name!r}, digest "
                    f"{factors.digest}); make them again with `ditto factor`"
                )
        if period > self.longest_period:
            raise FactorsError(
                f"{self._whose} were measured for periods up to {self.longest_period}, {period} is asked; "
                f"`ditto factor --longest-period {period}` measures them"
            )
        if rank > self.rank:
            check_rank(rank, found)
            raise FactorsError(
                f"{self._whose} have rank {self.rank}, {rank} is asked; `ditto factor --rank {rank}` makes them"
            )
        return {n: f.truncated(rank) if 0 < rank < f.rank else f for n, f in self.layers.items()}

    def save(self, path: Path) -> None:
        tensors: dict[str, torch.Tensor] = {}
        told: dict[str, Any] = {}
        for name, f in self.layers.items():
            tensors |= {
                f"{name}.A": f.a,
                f"{name}.A_scale": f.a_scale,
                f"{name}.B": f.b,
                f"{name}.B_scale": f.b_scale,
            }
            told[name] = {"h_scales": f.h_scales, "digest": f.digest, "channels": f.channels}
        metadata = {
            "format": FORMAT,
            "model": self.model,
            "method": self.method,
            "about": json.dumps(dict(self.about)),
            "layers": json.dumps(told),
        }
        metadata["digest"] = seal_of(metadata, tensors)
        with replacing(path) as unfinished:
            save_file({n: t.contiguous() for n, t in tensors.items()}, unfinished, metadata)

    @classmethod
    def load(cls, path: Path) -> Factors:
        """The inverse of `save`; a file that is not one is refused in a sentence."""
        try:
            with safe_open(path, "pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise FactorsError(f"{path}: not a file of factors (format {metadata.get('format')!r})")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if metadata.get("digest") != seal_of(metadata, tensors):
                raise FactorsError(
                    f"{path}: damaged, its content is not what was written (checksum); make them again with `ditto factor`"
                )
            layers = {
                name: LayerFactors(
                    tensors[f"{name}.A"],
                    tensors[f"{name}.A_scale"],
                    tensors[f"{name}.B"],
                    tensors[f"{name}.B_scale"],
                    tuple(map(float, of["h_scales"])),
                    str(of["digest"]),
                    tuple(map(float, of["channels"])),
                )
                for name, of in json.loads(metadata["layers"]).items()
            }
            for name, f in layers.items():
                _check(path, name, f)
            return cls(metadata["model"], metadata["method"], layers, json.loads(metadata["about"]))
        except FileNotFoundError:
            raise FactorsError(f"{path}: no such file; `ditto factor` makes one") from None
        except (
            *(SafetensorError, KeyError, TypeError, ValueError, AttributeError),
            *(OverflowError, RecursionError),
        ) as error:
            raise FactorsError(f"{path}: not a file of factors ({type(error).__name__}: {error})") from None


def check_rank(rank: int, layers: Mapping[str, nn.Linear]) -> None:
    """Refuses a rank that some layer cannot have."""
    for name, layer in layers.items():
        most = min(layer.in_features, layer.out_features)
        if not 1 <= rank <= most:
            raise FactorsError(
                f"rank {rank} is outside 1…{most}: layer {name!r} is {layer.out_features}×{layer.in_features}"
            )


def _check(path: Path, name: str, f: LayerFactors) -> None:
    (n, rank), (rows, k) = f.a.shape, f.b.shape
    shapes = (
        rows == rank and f.a_scale.shape == (n,) and f.b_scale.shape == (rank,) and len(f.channels) in (0, k)
    )
    types = f.a.dtype == f.b.dtype == torch.int8 and f.a_scale.dtype == f.b_scale.dtype == torch.float32
    finite = bool(torch.isfinite(f.a_scale).all() and torch.isfinite(f.b_scale).all())
    positive = all(0 < s < 1e30 for s in (*f.h_scales, *f.channels)) and bool(f.h_scales)
    if not (
        shapes and types and finite and positive and bool((f.a_scale > 0).all() and (f.b_scale > 0).all())
    ):
        raise FactorsError(f"{path}: the factors of layer {name!r} do not fit together; make them again")
