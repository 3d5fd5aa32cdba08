# SPDX-License-Identifier: Apache-2.0
"""Format plans: which layer of a denoiser computes on which numbers.

Interface
    draft(captured, block) -> FormatPlan     SQ-DM's plan by its rules alone
    check(plan, captured)                    a plan that does not fit the model is refused, in a sentence
    residual_blocks(captured), shares(…)     what a plan is made of, and how much of the work has 4 bits
    save_plan, load_plan                     a `ditto_plan.json` beside the scales; PLANS has the names

Rules (classes of the published scheme as its readers tell it; where they are silent, ours)
    uint4    convolutions fed by a ReLU, weights in int4, in all residual blocks but the sensitive ones at both ends
    mxint8   those at the ends, and every other convolution and linear layer: input, output, skips, projections, embeddings
    int8     products of two activations (attention): on per-tensor grids, as everywhere else in this product (ours)

What this file does not do: find the sensitive blocks (`analysis/formats.py` measures them), or quantize (`blocks.py`).
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch.fx import Node

from ditto_cosim.host.compiler.capture import Captured
from ditto_cosim.host.compiler.points import ALIASES, PRODUCTS, example, name_layers
from ditto_cosim.protocol.blocks import BLOCK, BLOCKS, FORMATS, BlockFormat
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import write_text

PLAN_FILE = "ditto_plan.json"


@dataclass(frozen=True, slots=True)
class Named:
    """A plan that can be asked for by name."""

    file: str
    """Beside a model's weights; without it the plan is drafted by its rules."""
    block: int


PLANS: Mapping[str, Named] = {
    "sq_dm": Named(PLAN_FILE, BLOCK),
    "sq_dm_16": Named("ditto_plan_16.json", 16),
}
"""By name: blocks of 32, with which the published saving of memory comes out and the arrays are faster, or of 16, with which
pictures are closer to fp32's (docs/sq_dm.md has both measured)."""


class PlanError(DittoError):
    """A plan that cannot be read or does not fit its model; the message names the layer and what to do."""


@dataclass(frozen=True, slots=True)
class BlockSensitivity:
    """What one residual block at 4 bits does to the denoiser's output, all else at 8."""

    block: str
    snr_db: float


@dataclass(frozen=True, slots=True)
class FormatPlan:
    """Formats by layer; a layer that is not named stays on its 8-bit grid."""

    name: str
    layers: Mapping[str, BlockFormat]
    block: int = BLOCK
    """Neighbouring input channels that share a scale."""
    sensitivity: tuple[BlockSensitivity, ...] = ()
    """In the order of execution, as measured for this plan."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Share of MACs at 4 bits and what else the plan's making found."""


@dataclass(frozen=True, slots=True)
class Fed:
    """A layer that multiplies activations by parameters."""

    name: str
    node: Node
    channels: int
    """Of its input."""
    macs: int
    by_relu: bool
    block: str
    """Module it belongs to."""

    @property
    def is_conv(self) -> bool:
        return str(self.node.target) == "aten.conv2d.default"


def weighted_layers(captured: Captured) -> list[Fed]:
    """Convolutions of one group and linear layers, in the order of execution."""
    nodes = {n.name: n for n in captured.module.graph.nodes}
    found = []
    for node_name, layer in name_layers(captured).items():
        node = nodes[node_name]
        if str(node.target) in PRODUCTS:
            continue
        if len(node.args) > 6 and node.args[6] != 1:
            continue
        weight = example(node.args[1])
        positions = example(node).numel() // weight.shape[0]
        macs = positions * weight.numel()
        found.append(Fed(layer, node, weight.shape[1], macs, _by_relu(node), layer.rpartition(".")[0]))
    return found


def all_macs(captured: Captured) -> int:
    """Of every layer, products of two activations too."""
    nodes = {n.name: n for n in captured.module.graph.nodes}
    products = (nodes[n] for n in name_layers(captured) if str(nodes[n].target) in PRODUCTS)
    between = sum(example(n).numel() * example(n.args[0]).shape[-1] for n in products)
    return between + sum(layer.macs for layer in weighted_layers(captured))


def residual_blocks(captured: Captured, block: int = BLOCK) -> dict[str, tuple[str, ...]]:
    """Module -> its convolutions that may have 4 bits, in the order of execution; the denoiser's last layer is none of them,
    though a ReLU may feed it."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in weighted_layers(captured)[:-1]:
        if layer.is_conv and layer.by_relu and layer.channels % block == 0:
            found[layer.block] = (*found.get(layer.block, ()), layer.name)
    return found


def draft(captured: Captured, block: int = BLOCK, eight_bits: Collection[str] | None = None) -> FormatPlan:
    """SQ-DM's plan; `eight_bits` are the residual blocks that stay at mxint8: without being told, the first and the last."""
    found = residual_blocks(captured, block)
    if not found:
        raise PlanError(
            f"no convolution is fed by a ReLU and has a multiple of {block} input channels, so nothing can have 4 bits; "
            "SQ-DM needs a model such as fashion-ddpm-relu"
        )
    ends = {next(iter(found)), list(found)[-1]} if eight_bits is None else set(eight_bits)
    four = {layer for name, layers in found.items() if name not in ends for layer in layers}
    layers: dict[str, BlockFormat] = {
        layer.name: "uint4" if layer.name in four else "mxint8" for layer in weighted_layers(captured)
    }
    return FormatPlan("sq_dm", layers, block, figures=shares(captured, layers))


def shares(captured: Captured, layers: Mapping[str, BlockFormat]) -> dict[str, float]:
    """Of all MACs: those at 4 bits, and those of convolutions fed by a ReLU; and the first of the second."""
    known, total = weighted_layers(captured), all_macs(captured)
    four = sum(x.macs for x in known if layers.get(x.name) in ("uint4", "int4"))
    conv_act = sum(x.macs for x in known if x.is_conv and x.by_relu)
    return {
        "four_bit_share": four / total,
        "conv_activation_share": conv_act / total,
        "four_bit_share_of_conv_activation": four / max(1, conv_act),
    }


def check(plan: FormatPlan, captured: Captured) -> None:
    """Refuses a plan that this model cannot follow, before anything is made of it."""
    known = {layer.name: layer for layer in weighted_layers(captured)}
    for name, form in plan.layers.items():
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, 3, 0.3) or list(known)[:3])
            raise PlanError(
                f"plan {plan.name}: layer {name!r} is not in this model, which has {len(known)} such as {near}; "
                "make the plan again: `ditto calibrate MODEL --plan sq_dm`"
            )
        layer = known[name]
        if FORMATS[form].bits == 4 and layer.channels % plan.block:
            raise PlanError(
                f"plan {plan.name}: layer {name!r} has {layer.channels} input channels, which blocks of {plan.block} do not "
                f"fill ({layer.channels % plan.block} left over); give it mxint8, or the plan another block "
                f"({', '.join(map(str, BLOCKS))})"
            )
        if form == "uint4" and not layer.by_relu:
            raise PlanError(
                f"plan {plan.name}: layer {name!r} has uint4, but no ReLU before it: every negative input would be lost; give it "
                "int4 or mxint8"
            )


def _by_relu(node: Node) -> bool:
    source = node.args[0]
    while isinstance(source, Node) and str(source.target) in ALIASES:
        source = source.args[0]
    return isinstance(source, Node) and str(source.target) in ("aten.relu.default", "aten.relu_.default")


# --- files --------------------------------------------------------------------------------------------------------------


def save_plan(plan: FormatPlan, path: Path) -> None:
    data = {
        "plan": plan.name,
        "block": plan.block,
        "layers": dict(plan.layers),
        "figures": dict(plan.figures),
    }
    data["sensitivity"] = [asdict(s) for s in plan.sensitivity]
    write_text(path, json.dumps(data, indent=1) + "\n")


def load_plan(path: Path) -> FormatPlan:
    """A plan as `save_plan` wrote it, or as a user wrote it by hand."""
    try:
        return _plan_of(json.loads(path.read_text(encoding="utf-8")), path)
    except FileNotFoundError:
        raise PlanError(f"{path}: no such file; `ditto calibrate MODEL --plan sq_dm` makes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PlanError(f"{path}: not a format plan ({type(error).__name__}: {error})") from None


def _plan_of(data: Any, path: Path) -> FormatPlan:
    block = data.get("block", BLOCK)
    if block not in BLOCKS:
        raise PlanError(f"{path}: blocks of {block!r}, expected one of {', '.join(map(str, BLOCKS))}")
    for layer, form in data["layers"].items():
        if form not in FORMATS:
            raise PlanError(f"{path}: {layer} has format {form!r}, expected one of {', '.join(FORMATS)}")
    measured: Sequence[Any] = data.get("sensitivity", ())
    figures = {str(k): float(v) for k, v in data.get("figures", {}).items()}
    if not all(math.isfinite(v) for v in figures.values()):
        raise PlanError(f"{path}: its figures are not finite")
    return FormatPlan(
        str(data.get("plan", "sq_dm")),
        dict(data["layers"]),
        block,
        tuple(BlockSensitivity(str(s["block"]), float(s["snr_db"])) for s in measured),
        figures,
    )
