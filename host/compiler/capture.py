# SPDX-License-Identifier: Apache-2.0
"""nn.Module -> one flat graph of tensor operations, by torch.export.

Captures a denoiser at fixed shapes, in fp32 on the host whatever the module's own type and device, with attention,
convolutions of other ranks and contractions taken apart (`decompose.py`), and nothing else decomposed. The module is left as
it was found. Works on `meta` too, so published sizes cost no memory. What this file does not do: decide what the operations mean
to the accelerator (`lower.py`).
"""

from __future__ import annotations

import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.export.graph_signature import InputKind, OutputKind

from ditto_cosim.host.compiler.arguments import (
    TIME_NAMES,
    ArgumentError,
    Call,
    Structure,
    put_together,
    take_apart,
)
from ditto_cosim.host.compiler.decompose import DECOMPOSITIONS, take_graph_apart
from ditto_cosim.host.compiler.quantize import Grid, input_grid
from ditto_cosim.host.compiler.specialize import held_constant, specialize
from ditto_cosim.host.compiler.state import ALIKE, Kept, StateError, refuse_state, untouched
from ditto_cosim.protocol.errors import DittoError

STATIC_INPUTS = frozenset(
    {
        "added_cond_kwargs",
        "attention_mask",
        "class_labels",
        "cross_attention_kwargs",
        "encoder_attention_mask",
        "encoder_hidden_states",
        "encoder_hidden_states_2",
        "encoder_hidden_states_image",
        "encoder_hidden_states_mask",
        "encoder_hidden_states_t5",
        "freqs_cis",
        "guidance",
        "image_embeds",
        "image_rotary_emb",
        "img_ids",
        "pooled_projections",
        "prompt_embeds",
        "txt_ids",
    }
)
"""Arguments that diffusers' pipelines keep constant during one generation; what is inside them, too."""


class CaptureError(DittoError):
    """The denoiser cannot be captured; the message says where and what to do."""


@dataclass(frozen=True)
class Captured:
    """A denoiser as a graph: parameters by name, inputs and outputs in order."""

    module: torch.fx.GraphModule
    inputs: tuple[str, ...]
    """Names of the varying and static inputs, in the order in which the graph takes them."""
    placeholders: Mapping[str, str]
    """Graph placeholder -> input name."""
    parameters: Mapping[str, torch.Tensor]
    """Graph placeholder -> parameter, buffer or constant."""
    parameter_names: Mapping[str, str]
    """Graph placeholder -> the name that the denoiser gives it."""
    example: Mapping[str, torch.Tensor]
    static_inputs: frozenset[str]
    weight_scales: Mapping[str, torch.Tensor]
    """Module -> the scale a channel that its weights are integers of, where it has one of its own (`weight_scale`)."""
    outputs: tuple[str, ...]
    """Names of the results, in the order in which the graph returns them; a single one is `sample`."""
    result: Structure
    """What the denoiser returns around them."""
    input_grids: Mapping[str, Grid] = field(default_factory=dict)
    """Module -> the grid of its input, where a quantized checkpoint gives one."""
    held: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Arguments whose values decide the shapes inside, and what they held: constants of this graph, which is wrong for any
    other value."""

    def holds(self, arguments: Mapping[str, torch.Tensor]) -> bool:
        """Whether the graph is right for these arguments."""
        return all(name in arguments and torch.equal(t, arguments[name]) for name, t in self.held.items())

    def interpreter_args(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Arguments for the graph module in placeholder order."""
        found: list[torch.Tensor] = []
        for node in self.module.graph.find_nodes(op="placeholder"):
            if node.name in self.parameters:
                found.append(self.parameters[node.name])
            else:
                found.append(inputs[self.placeholders[node.name]])
        return found


class _Result:
    """What stood around the results when the denoiser was traced."""

    outputs: tuple[str, ...] = ()
    structure: Structure
    left: frozenset[str] = frozenset()
    """What the module has kept of it."""


class _Flat(nn.Module):
    """Gives every denoiser one call: tensors in, tensors out."""

    def __init__(
        self, inner: nn.Module, forward: Callable[..., Any], call: Call, result: _Result, kept: Kept
    ) -> None:
        super().__init__()
        self.inner = inner

        def flat(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            found, result.structure = take_apart(call.invoke(forward, tensors))
            result.outputs = ("sample",) if len(found) == 1 else tuple(found)
            result.left |= kept.changed().keys()  # export puts attributes back by itself
            return tuple(found.values())

        self._flat = flat

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._flat(tensors)


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, export keeps to itself the graph that it had made when it fails, which it prints otherwise."""
    from torch.export import _trace  # as late as export itself

    with mock.patch.object(_trace, "print", create=True):
        yield


def _export(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.export.ExportedProgram:
    with torch.no_grad(), torch.autocast("cpu", enabled=False), _silent():
        exported: torch.export.ExportedProgram = torch.export.export(
            module, tuple(inputs.values()), strict=False
        )
        if not take_graph_apart(exported.graph):
            exported = exported.run_decompositions(DECOMPOSITIONS)
    for node in exported.graph.nodes:
        made = node.meta.get("val")
        if isinstance(made, torch.Tensor) and not all(type(size) is int for size in made.shape):
            raise CaptureError(f"{node.target} makes as many values as its input says")
        if node.op == "call_function" and "functorch" in str(getattr(node.target, "__module__", "")):
            raise CaptureError("torch.func (vmap, grad) leaves no operations that a program could have")
    return exported


def _specialized(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    steady: frozenset[str],
    wanted: frozenset[str],
    refusal: CaptureError,
    kept: Kept,
) -> tuple[torch.export.ExportedProgram, dict[str, torch.Tensor]]:
    """The module with those inputs as constants, taken out of `inputs`, that decide its shapes; they must be `steady`, so that a
    program for each of their values is a few."""
    names, tensors = tuple(inputs), tuple(inputs.values())
    kept.put_back()
    try:
        graph, asked = specialize(module, tensors, names)
    except Exception as error:  # a module may fail in any way when it is run in another than its own
        raise refusal from error
    if varying := asked - steady:
        raise CaptureError(
            f"what it computes depends on what {', '.join(sorted(varying))} hold, which changes between steps; {refusal}"
        )
    held = {name: inputs.pop(name).clone() for name in names if name in asked | wanted}
    try:
        exported = _export(held_constant(graph, tensors, names, frozenset(held)), inputs)
    except Exception as error:
        raise refusal from error
    kept.put_back()
    _refuse_another(module, tensors, exported, inputs, sorted(held))
    return exported, held


def _refuse_another(
    module: nn.Module,
    tensors: Sequence[torch.Tensor],
    exported: torch.export.ExportedProgram,
    inputs: Mapping[str, torch.Tensor],
    held: Sequence[str],
) -> None:
    """A graph with constants in it was put together here; that it computes what the module does is seen, not believed."""
    with torch.no_grad():
        expected = module(*tensors)
        found = exported.module(check_guards=False)(*inputs.values())
    for e, f in zip(expected, found, strict=True):
        if e.is_floating_point() and (e - f).norm() > ALIKE * e.norm():
            raise CaptureError(
                f"with {', '.join(held)} as constants its graph is not what the module computes; please report this"
            )


def capture(
    denoiser: nn.Module,
    example: Mapping[str, Any],
    *,
    extra: Mapping[str, Any] | None = None,
    static_inputs: frozenset[str] = STATIC_INPUTS,
    hold: frozenset[str] = frozenset(),
) -> Captured:
    """Capture `denoiser(**example, **extra)`; `extra` holds arguments that are no tensors, `hold` names of those that are to be
    constants in any case."""
    for name, value in example.items():
        if not isinstance(value, torch.Tensor | tuple | list | dict):
            raise CaptureError(
                f"input {name!r} is a {type(value).__name__}, expected a tensor (pass it in `extra`)"
            )
    call = Call.of(inspect.signature(denoiser.forward), (), {**example, **(extra or {})})
    return capture_call(denoiser, denoiser.forward, call, static_inputs=static_inputs, hold=hold)


def capture_call(
    denoiser: nn.Module,
    forward: Callable[..., Any],
    call: Call,
    *,
    static_inputs: frozenset[str] = STATIC_INPUTS,
    hold: frozenset[str] = frozenset(),
) -> Captured:
    """Capture one call of `forward`, a method of `denoiser`."""
    kind = type(denoiser).__name__
    wanted = frozenset(n for n in call.tensors if n.partition(".")[0] in hold)
    static = frozenset(n for n in call.tensors if n.partition(".")[0] in static_inputs)
    steady = static | {
        n
        for n, t in call.tensors.items()
        if "mask" in n or (not t.is_floating_point() and n.partition(".")[0] not in TIME_NAMES)
    }
    inputs = dict(call.tensors)
    decided: dict[str, torch.Tensor] = {}
    result = _Result()
    with as_fp32(denoiser), warnings.catch_warnings(), untouched(denoiser) as kept:
        warnings.simplefilter("ignore")  # export warns about its own internals; nothing a user could act on
        module = _Flat(denoiser, forward, call, result, kept)
        try:
            if wanted:
                raise CaptureError(f"{', '.join(sorted(wanted))} are to be constants")
            exported = _export(module, inputs)
        except ArgumentError as error:
            raise CaptureError(f"{kind} returns what cannot be followed: {error}") from error
        except Exception as error:  # export raises many types; all mean the same to a user
            refusal = CaptureError(
                f"torch.export refused {kind} with inputs "
                f"{ {n: tuple(t.shape) for n, t in inputs.items()} }: {type(error).__name__}: {_gist(error)}"
            )
            exported, decided = _specialized(module, inputs, steady, wanted, refusal, kept)
        if result.left:
            try:
                refuse_state(kind, module, list(call.tensors.values()), kept)
            except StateError as error:
                raise CaptureError(str(error)) from None
    names = tuple(inputs)

    signature = exported.graph_signature
    tensors: dict[str, torch.Tensor] = {}
    parameter_names: dict[str, str] = {}
    placeholders: dict[str, str] = {}
    user = iter(names)
    for spec in signature.input_specs:
        name = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            placeholders[name] = next(user)
        else:
            target = spec.target or name
            held = exported.state_dict.get(target, exported.constants.get(target))
            if not isinstance(held, torch.Tensor):
                raise CaptureError(f"{kind}: {target} is not a tensor")
            tensors[name] = held.detach()
            parameter_names[name] = target.removeprefix("inner.")
    changed = [s.target for s in signature.output_specs if s.kind is not OutputKind.USER_OUTPUT]
    if changed:
        raise CaptureError(
            f"{kind} changes {', '.join(str(t).removeprefix('inner.') for t in changed)} when it is called; a program "
            f"has no state of its own, so the module must leave its buffers and inputs alone"
        )
    if not signature.output_specs:
        raise CaptureError(f"{kind} returns no tensor")
    _refuse_chance(kind, exported.graph_module)
    return Captured(
        module=exported.graph_module,
        inputs=names,
        placeholders=placeholders,
        parameters=tensors,
        parameter_names=parameter_names,
        example=inputs,
        static_inputs=static & set(names),
        held=decided,
        weight_scales={
            name: held.detach()
            for name, part in denoiser.named_modules()
            if isinstance(held := getattr(part, "weight_scale", None), torch.Tensor)
        },
        input_grids={
            name: grid for name, part in denoiser.named_modules() if (grid := input_grid(part)) is not None
        },
        outputs=result.outputs,
        result=result.structure,
    )


@contextmanager
def as_fp32(module: nn.Module) -> Iterator[None]:
    """Inside, the module's parameters and buffers are fp32 and on the host, and it does not train; then all is as before."""
    swapped: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    training = [part for part in module.modules() if part.training]
    made: dict[int, torch.Tensor] = {}
    try:
        for part in module.modules():
            tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
            for held in tables:
                for name, tensor in list(held.items()):
                    if tensor is None or tensor.is_meta or _is_plain(tensor):
                        continue
                    if id(tensor) not in made:
                        wide = tensor.detach().to(
                            "cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype
                        )
                        is_parameter = isinstance(tensor, nn.Parameter)
                        made[id(tensor)] = nn.Parameter(wide, requires_grad=False) if is_parameter else wide
                    swapped.append((held, name, tensor))
                    held[name] = made[id(tensor)]
        for part in training:
            part.training = False
        yield
    finally:
        for held, name, tensor in swapped:
            held[name] = tensor
        for part in training:
            part.training = True


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and (not tensor.is_floating_point() or tensor.dtype is torch.float32)


_MAY_DROP = re.compile(r"dropout|\b(gru|lstm|rnn_\w+)\.")
"""Operations that PyTorch counts as random for their dropout, which is off."""


def _refuse_chance(kind: str, graph: torch.fx.GraphModule) -> None:
    """A program computes the same from the same inputs; a module that draws random numbers does not."""
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags and not _MAY_DROP.search(str(node.target)):
            raise CaptureError(
                f"{kind} draws random numbers ({node.target}); pass them in as an input instead"
            )


def _gist(error: Exception) -> str:
    """What export said, without its dump of the program."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(
        itertools.takewhile(
            lambda line: not line.startswith(("While executing", "Original traceback")), lines
        )
    )[:600]


def restore_result(captured: Captured, tensors: Sequence[torch.Tensor]) -> Any:
    """What the denoiser would return around these tensors."""
    return put_together(captured.result, tensors)
