# SPDX-License-Identifier: Apache-2.0
"""Which residual blocks bear 4 bits: measured block by block, and the plan that follows.

    plan = find_plan(captured, trajectory)      what `ditto calibrate --plan sq_dm` keeps

With every layer at 8 bits one block at a time is put at 4, and the denoiser's output is held against fp32 along a real
trajectory. From the most sensitive on, blocks stay at 8 bits as long as `LEAST_SHARE` of the convolutions behind a ReLU keep 4;
the first and the last always do (published: those are the sensitive ones; the procedure is ours, after S2's description).

    with on_numbers(denoiser, "int4_vsq", plan): …      a denoiser that computes on other numbers, for whole pictures

What this file does not do: place formats in a program (`compiler/plan.py`), or execute them exactly (golden, the device).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, fx, nn

from ditto_cosim.host.compiler.blocks import Baseline, as_seen, baseline_as_seen
from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.plan import (
    BlockSensitivity,
    FormatPlan,
    PlanError,
    draft,
    residual_blocks,
    shares,
    weighted_layers,
)
from ditto_cosim.protocol.blocks import BLOCK, FORMATS, BlockFormat

LEAST_SHARE = 0.80
"""Of the MACs behind a ReLU, at 4 bits. Published machines reach 0.94 of 33 blocks; with the nine of a small net two ends
are more than 6 %."""

Numbers = Literal["mxint8", "sq_dm", "sq_dm_signed", "int4_vsq", "int4_tensor"]

Seen = Callable[[Tensor, Tensor, str, int], tuple[Tensor, Tensor]]
"""(input, weights, layer, channel axis) -> what is left of both on the layer's formats."""


class Quantized(fx.Interpreter):
    """Runs a captured denoiser with the inputs and weights of its layers as quantization leaves them, in fp32."""

    def __init__(self, captured: Captured, seen: Seen) -> None:
        super().__init__(captured.module)
        self.seen = seen
        self.layers = {layer.node.name: layer for layer in weighted_layers(captured)}

    def run_node(self, n: fx.Node) -> Any:
        layer = self.layers.get(n.name)
        if layer is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x, weight = args[0], args[1]
        axis = 1 if layer.is_conv else x.ndim - 1
        return n.target(*self.seen(x, weight, layer.name, axis), *args[2:], **kwargs)  # type: ignore[operator]  # an aten operator


def on_formats(layers: Mapping[str, BlockFormat], block: int, *, each: bool = False) -> Seen:
    """Layers on the formats of a plan; others as they are. `each`: a picture's second-level scale is its own, not its batch's."""
    kept: dict[tuple[str, BlockFormat], Tensor] = {}

    def seen(x: Tensor, weight: Tensor, layer: str, axis: int) -> tuple[Tensor, Tensor]:
        form = layers.get(layer)
        if form is None:
            return x, weight
        if (layer, form) not in kept:
            kept[layer, form] = as_seen(weight, FORMATS[form].weights, block, 1, of_each=True)
        return as_seen(x, form, block, axis, of_each=each), kept[layer, form]

    return seen


def on_baseline(kind: Baseline, layers: Collection[str], *, each: bool = False) -> Seen:
    """These layers in signed 4 bits, as SQ-DM's baselines have them; others as they are."""
    kept: dict[str, Tensor] = {}

    def seen(x: Tensor, weight: Tensor, layer: str, axis: int) -> tuple[Tensor, Tensor]:
        if layer not in layers:
            return x, weight
        if layer not in kept:
            kept[layer] = baseline_as_seen(weight, kind, 1, of_each=True)
        return baseline_as_seen(x, kind, axis, of_each=each), kept[layer]

    return seen


def numbers_named(name: str) -> Numbers:
    """Refuses a name that is none."""
    for known in get_args(Numbers):
        if name == known:
            return cast(Numbers, known)
    raise PlanError(f"no formats {name!r}; known: {', '.join(get_args(Numbers))}")


def numbers(kind: Numbers, plan: FormatPlan, *, each: bool = False) -> Seen:
    """What a plan's layers see of their operands, by name.

    `sq_dm` is the plan; `sq_dm_signed` has int4 where it has uint4; the baselines have signed 4
    bits in the plan's layers of 4, the others at 8.
    """
    four = {name for name, form in plan.layers.items() if FORMATS[form].bits == 4}
    eight: dict[str, BlockFormat] = dict.fromkeys(plan.layers, "mxint8")
    formats: dict[Numbers, Mapping[str, BlockFormat]] = {
        "mxint8": eight,
        "sq_dm": plan.layers,
        "sq_dm_signed": {**eight, **dict.fromkeys(four, "int4")},
    }
    if kind in formats:
        return on_formats(formats[kind], plan.block, each=each)
    baseline: Baseline = "int4_vsq" if kind == "int4_vsq" else "int4_tensor"
    others = on_formats({n: f for n, f in eight.items() if n not in four}, plan.block, each=each)
    inner = on_baseline(baseline, four, each=each)
    return lambda x, w, layer, axis: (inner if layer in four else others)(x, w, layer, axis)


def on_numbers(denoiser: nn.Module, kind: Numbers, plan: FormatPlan) -> None:
    """From now on this denoiser computes in fp32 on what these numbers leave of its layers' operands, each picture by itself."""
    seen, modules = numbers(kind, plan, each=True), dict(denoiser.named_modules())
    for name in plan.layers:
        layer = modules.get(name)
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            raise PlanError(
                f"plan {plan.name}: layer {name!r} is not in this model; make another: `ditto calibrate MODEL --plan sq_dm`"
            )
        layer.register_forward_pre_hook(_look(seen, name))


def _look(seen: Seen, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    whole: list[Tensor] = []

    def look(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        whole[:] = whole or [layer.weight.data]
        x, layer.weight.data = seen(
            args[0], whole[0], name, 1 if isinstance(layer, nn.Conv2d) else args[0].ndim - 1
        )
        return (x, *args[1:])

    return look


def compare_formats(
    captured: Captured, inputs: Sequence[Mapping[str, Tensor]], plan: FormatPlan | None
) -> dict[str, float]:
    """Decibels of the denoiser's output over its quantization noise, by what its layers compute on.

    Those of `numbers`, and `sq_dm_all_4_bits`: no ends at 8.
    """
    plan = plan or draft(captured)
    wanted = outputs(captured, inputs)
    asked = {kind: numbers(kind, plan) for kind in get_args(Numbers)}
    blocks = residual_blocks(captured, plan.block)
    every: dict[str, BlockFormat] = dict.fromkeys(plan.layers, "mxint8")
    every |= dict.fromkeys(sum(blocks.values(), ()), "uint4")
    return {
        name: round(snr_db(captured, inputs, wanted, seen), 2)
        for name, seen in (*asked.items(), ("sq_dm_all_4_bits", on_formats(every, plan.block)))
    }


def snr_db(
    captured: Captured, inputs: Sequence[Mapping[str, Tensor]], wanted: Sequence[Tensor], seen: Seen
) -> float:
    """Of the denoiser's first output over all these calls."""
    signal = noise = 0.0
    runner = Quantized(captured, seen)
    with torch.no_grad():
        for call, right in zip(inputs, wanted, strict=True):
            got = runner.run(*captured.interpreter_args(call))[0]
            signal += float(right.double().square().sum())
            noise += float((got.double() - right.double()).square().sum())
    return 10 * math.log10(signal / noise) if noise else math.inf


def outputs(captured: Captured, inputs: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """In fp32."""
    runner = Quantized(captured, lambda x, weight, layer, axis: (x, weight))
    with torch.no_grad():
        return [runner.run(*captured.interpreter_args(call))[0] for call in inputs]


def find_plan(
    captured: Captured,
    inputs: Sequence[Mapping[str, Tensor]],
    block: int = BLOCK,
    tell: Callable[[str, float], None] = lambda block, snr: None,
) -> FormatPlan:
    """The plan that a sensitivity sweep over these calls of the denoiser leads to."""
    blocks = residual_blocks(captured, block)
    ends = draft(captured, block)  # also refuses a model without any
    eight: dict[str, BlockFormat] = dict.fromkeys(ends.layers, "mxint8")
    wanted = outputs(captured, inputs)
    measured = []
    for name, layers in blocks.items():
        four: dict[str, BlockFormat] = {**eight, **dict.fromkeys(layers, "uint4")}
        found = snr_db(captured, inputs, wanted, on_formats(four, block))
        measured.append(BlockSensitivity(name, round(found, 2)))
        tell(name, found)
    kept = {next(iter(blocks)), list(blocks)[-1]}
    for at in sorted(measured, key=lambda s: s.snr_db):
        more = kept | {at.block}
        if len(more) == len(blocks):
            break
        if draft(captured, block, more).figures["four_bit_share_of_conv_activation"] < LEAST_SHARE:
            break
        kept = more
    plan = draft(captured, block, kept)
    all_four: dict[str, BlockFormat] = {**eight, **dict.fromkeys(sum(blocks.values(), ()), "uint4")}
    figures = {
        **shares(captured, plan.layers),
        "snr_db": snr_db(captured, inputs, wanted, on_formats(plan.layers, block)),
        "snr_db_all_8_bits": snr_db(captured, inputs, wanted, on_formats(eight, block)),
        "snr_db_all_4_bits": snr_db(captured, inputs, wanted, on_formats(all_four, block)),
    }
    return FormatPlan(
        plan.name, plan.layers, block, tuple(measured), {k: round(v, 4) for k, v in figures.items()}
    )
