# SPDX-License-Identifier: Apache-2.0
"""Which operations of a captured graph become layers, what they are called, and which tensors calibration must see.

What this file does not do: build commands (`builder.py`, `lower.py`).
"""

from __future__ import annotations

import torch
from torch.fx import Node

from ditto_cosim.host.compiler.capture import Captured

PRODUCTS = {"aten.matmul.default", "aten.bmm.default", "aten.mm.default"}
LAYER_TARGETS = {"aten.conv2d.default", "aten.linear.default", *PRODUCTS}
SOFTMAXES = {"aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default"}
ALIASES = {
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.dropout.default",
    "aten.alias.default",
    "aten.lift_fresh_copy.default",
    "aten.detach_.default",
}
"""Operations that change nothing once the network is not training."""


def example(node: object) -> torch.Tensor:
    """A node's result as it was at capture: shape and type, no numbers."""
    assert isinstance(node, Node)
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor), f"{node.name} makes no tensor"
    return value


def is_layer(node: Node) -> bool:
    """Whether a node multiplies operands on 8-bit grids. A product whose sums have one term each is elementwise."""
    target = str(node.target)
    if node.op != "call_function" or target not in LAYER_TARGETS:
        return False
    if not example(node.args[0]).numel():
        return False
    return target not in PRODUCTS or example(node.args[0]).shape[-1] != 1


def module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    name = str(next(reversed(stack.values()))[0]) if stack else ""
    return name.removeprefix("inner.").removeprefix("inner")


def name_layers(captured: Captured) -> dict[str, str]:
    """Graph node -> layer name, for every node that becomes a layer. Names follow the denoiser's modules."""
    names: dict[str, str] = {}
    taken: dict[str, int] = {}
    softmaxed = softmax_results(captured)
    for node in captured.module.graph.nodes:
        if not is_layer(node):
            continue
        name = module_path(node) or node.name
        if str(node.target) in PRODUCTS:
            name += ".pv" if node.args[0].name in softmaxed else ".qk"
        taken[name] = taken.get(name, 0) + 1
        names[node.name] = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return names


def softmax_results(captured: Captured) -> set[str]:
    found: set[str] = set()
    for node in captured.module.graph.nodes:
        target = str(node.target)
        is_alias = target in ALIASES and isinstance(node.args[0], Node) and node.args[0].name in found
        if target in SOFTMAXES or is_alias:
            found.add(node.name)
    return found


def quantization_points(captured: Captured) -> dict[str, tuple[str, bool]]:
    """Point (`layer:operand`) -> (graph node, symmetric), for every tensor that calibration must see."""
    points: dict[str, tuple[str, bool]] = {}
    softmaxed = softmax_results(captured)
    nodes = {n.name: n for n in captured.module.graph.nodes}
    for node_name, layer in name_layers(captured).items():
        node = nodes[node_name]
        if str(node.target) in PRODUCTS:
            for operand, argument in zip("ab", node.args[:2], strict=True):
                assert isinstance(argument, Node)
                if operand == "b" or argument.name not in softmaxed:
                    points[f"{layer}:{operand}"] = (argument.name, True)
        else:
            assert isinstance(node.args[0], Node)
            points[f"{layer}:x"] = (node.args[0].name, False)
    return points
