# SPDX-License-Identifier: Apache-2.0
"""Factors of a model's layers for increment-calibrated caching: `ditto factor`.

    factors = factor_denoiser(call, denoiser, "cd", 43)

The pipeline runs twice in fp32 on the same seeds: first every layer's magnitudes are taken (`ca`: of its operand and its result;
`cd`: of their changes from one step to the next; `svd` needs none), then, with the factors in 8 bits, the size of B·(x − x₀) at
every distance from a full step. Magnitudes may be taken elsewhere (`factor_data.py`). What this file does not do: decide which
layers (`compiler/cache.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ditto_cosim.host.compiler.cache import METHODS, CacheError, places
from ditto_cosim.host.compiler.factors import Factors, LayerFactors, check_rank, weight_digest
from ditto_cosim.host.compiler.lowrank import Magnitudes, factorize, quantized
from ditto_cosim.host.compiler.quantize import Grid, Histogram, choose

LONGEST_PERIOD = 8
USUAL_SHARE = 128 / 1152
"""Of a layer's width: the authors' usual rank on DiT-XL/2."""
SEEN_PICTURES = 4
"""Of a batch, whose increments are measured."""

Call = Callable[[], object]
Tell = Callable[[str, int], None]
"""(what, calls of the denoiser so far)"""


def usual_rank(denoiser: nn.Module) -> int:
    """The authors' share of the narrowest layer."""
    return max(
        1, round(USUAL_SHARE * min(min(m.in_features, m.out_features) for m in places(denoiser).values()))
    )


def factor_denoiser(
    call: Call,
    denoiser: nn.Module,
    method: str,
    rank: int,
    *,
    model: str = "",
    grids: Mapping[str, Grid] | None = None,
    longest_period: int = LONGEST_PERIOD,
    about: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
    seen: Iterable[Call] | None = None,
) -> Factors:
    """Factors of rank `rank` (0: the usual share) of every layer that increments correct, to be met by operands on `grids`.
    `call` runs the pipeline in fp32, from the same seed every time; magnitudes are taken there, or of what is `seen`."""
    if method not in METHODS:
        raise CacheError(f"factors {method!r} are unknown; they are {', '.join(METHODS)}")
    layers = places(denoiser)
    pairs = factor_pairs([call] if seen is None else seen, denoiser, method, rank, tell)
    made: dict[str, LayerFactors] = {}
    for name, layer in layers.items():
        grid = (grids or {}).get(f"{name}:x")
        divisors = () if grid is None else grid.channels
        a, b = pairs[name]
        if divisors:
            b = b * torch.tensor(divisors, dtype=b.dtype)
        (qa, a_scale), (qb, b_scale) = quantized(a), quantized(b)
        made[name] = LayerFactors(qa, a_scale, qb, b_scale, (), weight_digest(layer.weight), divisors)
    made = _measured(call, denoiser, layers, made, longest_period, tell)
    return Factors(model, method, made, {"rank": max(f.rank for f in made.values()), **(about or {})})


def factor_pairs(
    seen: Iterable[Call], denoiser: nn.Module, method: str, rank: int, tell: Tell | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer in binary64, before any grid. Changes are taken inside each of the calls that are `seen`."""
    layers = places(denoiser)
    rank = rank or usual_rank(denoiser)
    check_rank(rank, layers)
    weighed: Mapping[str, tuple[Tensor | None, Tensor | None]] = dict.fromkeys(layers, (None, None))
    if method != "svd":
        weighed = _weights(seen, denoiser, layers, method == "cd", tell)
    return {name: factorize(layer.weight, rank, *weighed[name]) for name, layer in layers.items()}


def _weights(
    seen: Iterable[Call],
    denoiser: nn.Module,
    layers: Mapping[str, nn.Linear],
    of_changes: bool,
    tell: Tell | None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> (left, right) weights of its channels."""
    found = {name: (Magnitudes(), Magnitudes()) for name in layers}
    before: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def see(name: str, branch: int, x: Tensor, y: Tensor) -> None:
        last = before.get((name, branch))
        before[name, branch] = x, y
        if not of_changes:
            pair: tuple[Tensor, Tensor] | None = (y, x)
        else:
            pair = None if last is None else (y - last[1], x - last[0])
        for magnitudes, values in zip(found[name], pair or (), strict=pair is not None):
            magnitudes.add(values)

    for call in seen:
        before.clear()
        _watched(call, denoiser, layers, see, tell, "magnitudes")
    return {name: (left.weights(), right.weights()) for name, (left, right) in found.items()}


def _measured(
    call: Call,
    denoiser: nn.Module,
    layers: Mapping[str, nn.Linear],
    made: Mapping[str, LayerFactors],
    longest_period: int,
    tell: Tell | None,
) -> dict[str, LayerFactors]:
    """The factors with the scales of what B makes, for periods up to the longest."""
    projections = {name: _projection(factors) for name, factors in made.items()}
    seen: dict[str, list[list[Histogram]]] = {
        name: [[] for _ in range(longest_period - 1)] for name in layers
    }
    before: dict[tuple[str, int], deque[Tensor]] = {}

    def see(name: str, branch: int, x: Tensor, y: Tensor) -> None:
        past = before.setdefault((name, branch), deque(maxlen=longest_period - 1))
        some = x[:SEEN_PICTURES]
        for lag, then in enumerate(past):
            seen[name][lag].append(Histogram.of((some - then) @ projections[name], f"{name}.B"))
        past.appendleft(some)

    _watched(call, denoiser, layers, see, tell, "increments")
    found = {}
    for name, factors in made.items():
        by_lag = [Histogram.merge(lag) for lag in seen[name] if lag]
        if not by_lag:
            raise CacheError(
                "factors: the pipeline called its denoiser once, so there are no increments to measure"
            )
        grids = [choose(by_lag[: i + 1], symmetric=True, policy="static") for i in range(len(by_lag))]
        found[name] = replace(factors, h_scales=tuple(float(grid.scales[0]) for grid in grids))
    return found


def _projection(factors: LayerFactors) -> Tensor:
    """What B's integers stand for, transposed, for an operand that is not yet divided by its channels' factors."""
    b = factors.b.float() * factors.b_scale[:, None]
    return (b / torch.tensor(factors.channels) if factors.channels else b).t().contiguous()


def _watched(
    call: Call,
    denoiser: nn.Module,
    layers: Mapping[str, nn.Linear],
    see: Callable[[str, int, Tensor, Tensor], None],
    tell: Tell | None,
    what: str,
) -> None:
    """One call; `see` meets every layer's operand and result, with the number of the denoiser's call at its timestep (guidance
    may be a call of its own)."""
    state: dict[str, Any] = {"timestep": None, "branch": 0, "calls": 0}

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        time = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        time = float(time.flatten()[0]) if isinstance(time, Tensor) else time
        state["branch"] = state["branch"] + 1 if time == state["timestep"] else 0
        state["timestep"] = time
        state["calls"] += 1
        if tell is not None:
            tell(what, state["calls"])

    def of(name: str) -> Callable[..., None]:
        return lambda module, args, y: see(name, state["branch"], args[0].float(), y.float())

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(_hooked(denoiser.register_forward_pre_hook(begin, with_kwargs=True)))
        for name, layer in layers.items():
            stack.enter_context(_hooked(layer.register_forward_hook(of(name))))
        call()


@contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
