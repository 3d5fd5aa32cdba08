# SPDX-License-Identifier: Apache-2.0
"""Caching between steps in fp32 on the live module: the published algorithm, hook by hook, with nothing of the accelerator's.

    with increments(denoiser, {"…attn1.to_q": (A, B), …}, period=3):   y = y₀ + (x − x₀)·Bᵀ·Aᵀ between full steps
        pipe(…)
    with increments(denoiser, {"…attn1.to_out.0": None, …}, period=3):  y = y₀: reuse

What int8 costs is told against it, and tests hold the compiled programs against it. Calls at one timestep (guidance may be a
call of its own) each have their own full step. What this file does not do: make factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


class _Steps:
    """Which step a call of the denoiser is, and which of its calls at that timestep."""

    def __init__(self, period: int) -> None:
        self.period = period
        self.step = -1
        self.branch = 0
        self._timestep: float | None = None

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        time = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        value = float(time.flatten()[0]) if isinstance(time, Tensor) else float(time or 0)
        if value == self._timestep:
            self.branch += 1
        else:
            self.step, self.branch, self._timestep = self.step + 1, 0, value

    @property
    def full(self) -> bool:
        return self.step % self.period == 0


@contextmanager
def increments(denoiser: nn.Module, layers: Mapping[str, Pair | None], period: int) -> Iterator[None]:
    """Inside, the named linear layers compute in full in every `period`-th step alone."""
    steps = _Steps(period)

    def hook(pair: Pair | None) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        held: dict[int, Pair] = {}

        def corrected(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
            if steps.full:
                held[steps.branch] = args[0], y
                return None
            x0, y0 = held[steps.branch]
            if pair is None:
                return y0
            a, b = pair
            return y0 + (args[0] - x0) @ b.to(y.dtype).t() @ a.to(y.dtype).t()

        return corrected

    with ExitStack() as stack:
        stack.callback(denoiser.register_forward_pre_hook(steps.begin, with_kwargs=True).remove)
        for name, pair in layers.items():
            stack.callback(denoiser.get_submodule(name).register_forward_hook(hook(pair)).remove)
        yield
