"""nn.Module -> one flat graph of tensor operations, by torch.export.

Captures a denoiser at fixed shapes, with attention, convolutions of other ranks and contractions taken apart
(`decompose.py`), and nothing else decomposed. Works on `meta` too, so published sizes cost no memory. What this file does not do:
decide what the operations mean to the accelerator (`lower.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind

from ditto_cosim.host.compiler.decompose import DECOMPOSITIONS
from ditto_cosim.host.compiler.specialize import held_constant, specialize
from ditto_cosim.protocol.errors import DittoError

STATIC_INPUTS = frozenset(
    {"encoder_hidden_states", "class_labels", "encoder_attention_mask", "attention_mask"}
)
"""Arguments that diffusers' pipelines keep constant during one generation."""


class CaptureError(DittoError):
    """The denoiser cannot be captured; the message says where and what to do."""


@dataclass(frozen=True)
class Captured:
    """A denoiser as a graph: parameters by name, inputs in order, one output."""

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


class _Denoiser(nn.Module):
    """Gives every denoiser one call: named tensors in, one tensor out."""

    def __init__(self, inner: nn.Module, names: Sequence[str], extra: Mapping[str, Any]) -> None:
        super().__init__()
        self.inner = inner
        self.names = tuple(names)
        self.extra = dict(extra)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        out = self.inner(**dict(zip(self.names, tensors, strict=True)), **self.extra)
        out = getattr(out, "sample", out)
        result: torch.Tensor = out[0] if isinstance(out, tuple | list) else out
        return result


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """The module as it was: what it keeps for its next call during a capture are no tensors that it could compute with."""
    before = {part: dict(part.__dict__) for part in module.modules()}
    try:
        yield
    finally:
        for part, attributes in before.items():
            part.__dict__.clear()
            part.__dict__.update(attributes)


def _export(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        exported = torch.export.export(module, tuple(inputs.values()), strict=False)
        exported = exported.run_decompositions(DECOMPOSITIONS)
    for node in exported.graph.nodes:
        made = node.meta.get("val")
        if isinstance(made, torch.Tensor) and not all(type(size) is int for size in made.shape):
            raise CaptureError(f"{node.target} makes as many values as its input says")
    return exported


def _specialized(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    static_inputs: frozenset[str],
    wanted: frozenset[str],
    refusal: CaptureError,
) -> tuple[torch.export.ExportedProgram, dict[str, torch.Tensor]]:
    """The module with those inputs as constants, taken out of `inputs`, that decide its shapes."""
    names, tensors = tuple(inputs), tuple(inputs.values())
    try:
        graph, asked = specialize(module, tensors, names)
    except Exception as error:  # a module may fail in any way when it is run in another than its own
        raise refusal from error
    if varying := asked - static_inputs:
        raise CaptureError(
            f"what it computes depends on what {', '.join(sorted(varying))} hold, which changes between steps; {refusal}"
        )
    held = {name: inputs.pop(name).clone() for name in names if name in asked | wanted}
    try:
        return _export(held_constant(graph, tensors, names, frozenset(held)), inputs), held
    except Exception as error:
        raise refusal from error


def capture(
    denoiser: nn.Module,
    example: Mapping[str, torch.Tensor],
    *,
    extra: Mapping[str, Any] | None = None,
    static_inputs: frozenset[str] = STATIC_INPUTS,
    hold: frozenset[str] = frozenset(),
) -> Captured:
    """Capture `denoiser(**example, **extra)`; `extra` holds arguments that are no tensors, `hold` names of those that are to be
    constants in any case."""
    names = tuple(example)
    module = _Denoiser(denoiser, names, extra or {}).eval()
    for name, tensor in example.items():
        if not isinstance(tensor, torch.Tensor):
            raise CaptureError(
                f"input {name!r} is a {type(tensor).__name__}, expected a tensor (pass it in `extra`)"
            )
    inputs = dict(example)
    decided: dict[str, torch.Tensor] = {}
    with warnings.catch_warnings(), _untouched(denoiser):
        warnings.simplefilter("ignore")  # export warns about its own internals; nothing a user could act on
        try:
            if hold:
                raise CaptureError(f"{', '.join(sorted(hold))} are to be constants")
            exported = _export(module, inputs)
        except Exception as error:  # export raises many types; all mean the same to a user
            refusal = CaptureError(
                f"torch.export refused {type(denoiser).__name__} with inputs "
                f"{ {n: tuple(t.shape) for n, t in example.items()} }: {type(error).__name__}: {error}"
            )
            exported, decided = _specialized(module, inputs, static_inputs, hold, refusal)
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
                raise CaptureError(f"{type(denoiser).__name__}: {target} is not a tensor")
            tensors[name] = held.detach()
            parameter_names[name] = target.removeprefix("inner.")
    outputs = [s for s in signature.output_specs if s.kind.name == "USER_OUTPUT"]
    if len(outputs) != 1 or len(signature.output_specs) != 1:
        raise CaptureError(
            f"{type(denoiser).__name__} returns {len(outputs)} tensors and changes "
            f"{len(signature.output_specs) - len(outputs)} buffers; expected one tensor and no change"
        )
    return Captured(
        module=exported.graph_module,
        inputs=names,
        placeholders=placeholders,
        parameters=tensors,
        parameter_names=parameter_names,
        example=inputs,
        static_inputs=static_inputs & set(names),
        held=decided,
        weight_scales={
            name: held.detach()
            for name, part in denoiser.named_modules()
            if isinstance(held := getattr(part, "weight_scale", None), torch.Tensor)
        },
    )
