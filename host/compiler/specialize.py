# SPDX-License-Identifier: Apache-2.0
"""A denoiser whose shapes depend on what an input holds, traced with those inputs as constants.

Some denoisers ask a mask how many tokens are open and go on with so many. No graph of fixed shapes has that; but such inputs stay
the same for a whole generation, so the denoiser is run once on the example and what it did is taken down, with every input
that it asked (`held`) a constant. Nothing else may be asked: an input that changes between steps is refused by name. Whoever runs
the program must see that held inputs still hold the same. What this file does not do: decide what the operations mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental import proxy_tensor
from torch.overrides import TorchFunctionMode

_ASKS = frozenset(
    {
        *(
            "item",
            "tolist",
            "numpy",
            "nonzero",
            "__bool__",
            "__int__",
            "__float__",
            "__index__",
            "__len__",
            "__array__",
        ),
        *(
            "masked_select",
            "unique",
            "bincount",
            "argwhere",
            "repeat_interleave",
            "__getitem__",
            "__setitem__",
            "where",
        ),
    }
)
"""Functions that read numbers, or make shapes of them."""

_NUMBERS = frozenset(
    {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"}
)
"""Those whose result is no tensor, and so nothing to trace."""


class _Watch(TorchFunctionMode):
    """Notes which nodes of the trace were asked for their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__getitem__", "__setitem__"):
            args = (args[0], self._plain(args[1]), *args[2:])
        if name in _ASKS:
            self.asked.update(filter(None, map(_node_of, _asked(name, args))))
        if name in _NUMBERS:
            with proxy_tensor.disable_proxy_modes_tracing():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _plain(self, index: Any) -> Any:
        """An index whose slices have numbers for bounds, not tensors."""
        if isinstance(index, tuple):
            return tuple(map(self._plain, index))
        return (
            slice(*map(self._number, (index.start, index.stop, index.step)))
            if isinstance(index, slice)
            else index
        )

    def _number(self, bound: Any) -> Any:
        if not isinstance(bound, Tensor):
            return bound
        self.asked.update(filter(None, [_node_of(bound)]))
        with proxy_tensor.disable_proxy_modes_tracing():
            return int(bound)


def _asked(name: str, args: Sequence[Any]) -> list[Tensor]:
    """The tensors among the arguments whose numbers decide something."""
    if name in ("__getitem__", "__setitem__"):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return [i for i in index if isinstance(i, Tensor) and (i.dtype == torch.bool or (i.dim() == 0))]
    if name == "repeat_interleave":
        return [a for a in args[1:2] if isinstance(a, Tensor)]
    if name == "where":
        return list(args) if len(args) == 1 else []
    if name == "__len__":
        return []
    return [a for a in args[:1] if isinstance(a, Tensor)]


def _node_of(tensor: Tensor) -> str | None:
    mode = proxy_tensor.get_proxy_mode()
    tracer = None if mode is None else mode.tracer
    if tracer is None or tensor not in tracer.tensor_tracker:
        return None
    return str(tracer.tensor_tracker[tensor].proxy.node.name)


_INDEXING = ("aten.index.Tensor", "aten.index_put")


def specialize(
    module: nn.Module, example: Sequence[Tensor], names: Sequence[str]
) -> tuple[fx.GraphModule, frozenset[str]]:
    """The module as it runs on the example, still a function of all its inputs, and the names of those it asked."""
    watch = _Watch()

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Tensor) -> Any:
            with watch:
                return self.inner(*tensors)

    trace: Callable[..., fx.GraphModule] = proxy_tensor.make_fx(
        Watched(),
        tracing_mode="real",
        pre_dispatch=True,
        record_module_stack=True,
        _allow_non_fake_inputs=True,
    )
    with torch.no_grad():
        graph = trace(*example)
    places = {
        node.name: name for node, name in zip(graph.graph.find_nodes(op="placeholder"), names, strict=True)
    }
    return graph, frozenset(places[name] for name in _ancestors(graph, watch.asked) if name in places)


def _ancestors(graph: fx.GraphModule, nodes: set[str]) -> set[str]:
    """These nodes and all they are made of."""
    wanted = set(nodes)
    for node in reversed(graph.graph.nodes):
        if node.name in wanted:
            wanted.update(source.name for source in node.all_input_nodes)
    return wanted


def held_constant(
    graph: fx.GraphModule, example: Sequence[Tensor], names: Sequence[str], held: frozenset[str]
) -> fx.GraphModule:
    """The same as a function of the other inputs: what follows from the held ones alone is a constant."""
    places = dict(
        zip(graph.graph.find_nodes(op="placeholder"), zip(names, example, strict=True), strict=True)
    )
    known = {node: tensor.clone() for node, (name, tensor) in places.items() if name in held}
    written = _written(graph, {node for node in graph.graph.nodes if node not in known and _varies(node)})
    seen: dict[fx.Node, list[tuple[Tensor, list[fx.Node]]]] = {}
    for node in graph.graph.nodes:
        if node not in written and _is_constant(node):
            known[node] = getattr(graph, node.target).clone()
        elif node.op == "call_function" and node not in written and _follows(node, known):
            with torch.no_grad():
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*args, **kwargs)
        else:
            for source in node.all_input_nodes:
                if isinstance(value := known.get(source), Tensor) and source.op != "get_attr":
                    _see(seen.setdefault(source, []), value, node)
    for node in list(graph.graph.nodes):
        if node not in known and str(node.target).startswith(_INDEXING):
            _name_places(graph, node, known)
        if (
            node not in known
            and str(node.target) == "aten.repeat_interleave.self_Tensor"
            and node.args[1] in known
        ):
            _name_repeats(graph, node, known)
    for node, sights in seen.items():
        for at, (value, users) in enumerate(sights):
            users = [user for user in users if node in user.all_input_nodes]
            if not users:
                continue
            name = f"held_{node.name}" + (f"_{at}" if at else "")
            graph.register_buffer(name, value)
            with graph.graph.inserting_before(users[0]):
                constant = graph.graph.get_attr(name)
                constant = graph.graph.call_function(torch.ops.aten.clone.default, (constant,))
            for user in users:
                user.replace_input_with(node, constant)
    for node in reversed(known):  # what writes into a known tensor is dead code to nobody else
        if not node.users:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _name_repeats(graph: fx.GraphModule, node: fx.Node, known: Mapping[fx.Node, Any]) -> None:
    """Known repeats become an index: so many, now and always."""
    dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else None)
    repeats = known[node.args[1]]  # type: ignore[index]  # a node, as the caller has seen
    if dim is None:
        return
    graph.register_buffer(f"repeated_{node.name}", torch.arange(len(repeats)).repeat_interleave(repeats))
    with graph.graph.inserting_before(node):
        index = graph.graph.get_attr(f"repeated_{node.name}")
        node.target, node.args, node.kwargs = (
            torch.ops.aten.index_select.default,
            (node.args[0], dim, index),
            {},
        )


def _name_places(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> None:
    """Known masks among the indices become the places that they leave open: so many, now and always."""
    indices: list[Any] = []
    for index in node.args[1]:  # type: ignore[union-attr]  # the places of an index are a list
        mask = known.get(index) if isinstance(index, fx.Node) else None
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            indices.append(index)
            continue
        with graph.graph.inserting_before(node):
            for axis, places in enumerate(mask.nonzero(as_tuple=True)):
                graph.register_buffer(f"places_{node.name}_{axis}", places)
                indices.append(graph.graph.get_attr(f"places_{node.name}_{axis}"))
    node.update_arg(1, indices)


def _see(sights: list[tuple[Tensor, list[fx.Node]]], value: Tensor, user: fx.Node) -> None:
    """What a user of a known tensor finds in it, which something known may write into later."""
    if not sights or not torch.equal(sights[-1][0], value):
        sights.append((value.detach().clone(), []))
    sights[-1][1].append(user)


_FILLED = ("aten.zeros.", "aten.ones.", "aten.full.", "aten.arange.", "aten.linspace.")


def _is_constant(node: fx.Node) -> bool:
    """A tensor of the module that is none of its parameters."""
    return node.op == "get_attr" and str(node.target).startswith("_tensor_constant")


def _varies(node: fx.Node) -> bool:
    """Whether what it is cannot be known, whatever its operands are."""
    if node.op == "call_function":
        return not node.all_input_nodes and not str(node.target).startswith(_FILLED)
    return node.op == "placeholder" or (node.op == "get_attr" and not _is_constant(node))


def _follows(node: fx.Node, known: Mapping[fx.Node, Any]) -> bool:
    if not node.all_input_nodes:
        return str(node.target).startswith(_FILLED)
    return all(source in known for source in node.all_input_nodes)


def _written(graph: fx.GraphModule, unknown: set[fx.Node]) -> set[fx.Node]:
    """What something unknown is written into, with all views of it: no constants, however they began."""
    varying = set(unknown)
    for node in graph.graph.nodes:
        if any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    roots = {
        _root(node.args[0])
        for node in varying
        if node.op == "call_function" and _mutates(node.target) and isinstance(node.args[0], fx.Node)
    }
    return {node for node in graph.graph.nodes if _root(node) in roots}


def _root(node: fx.Node) -> fx.Node:
    """The tensor that a chain of views, and of writes, is of."""
    while (
        node.op == "call_function"
        and node.args
        and isinstance(node.args[0], fx.Node)
        and _aliases(node.target)
    ):
        node = node.args[0]
    return node


def _aliases(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and any(r.alias_info is not None for r in schema.returns)


def _mutates(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)
