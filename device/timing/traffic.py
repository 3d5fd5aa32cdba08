# SPDX-License-Identifier: Apache-2.0
"""Traffic: which bytes each layer's group moves between DRAM and chip, whatever the data are.

Contract
    A layer's group is the layer and every command after it up to the next layer, in program order; what comes
    before the first layer is the prologue, group 0.
    A value that only its own group reads never leaves the chip. A group reads every other value once and
    writes every value that another group, or the host, reads once, in the value's own type; a reshape is the
    same value. Scales and zero points (`params`) travel with their tensor for nothing. im2col expansion is
    SRAM traffic. Temporal mode also reads the previous input (8 bit) and the previous accumulators (32 bit),
    and writes the accumulators for the next step; any other mode writes them if the next step may want them
    (`keeps_state`). Static bypass (`dependency_check`): no previous input where the program says a difference
    is at hand (`skip_difference`), no previous accumulators where only differences follow (`skip_summation`).
    It changes traffic, never values: through a requantization the bypass would not be exact.
    A layer whose reference is its own (an anchor's operand, or 0) reads no state and leaves none. What is kept for later
    steps (`keep`) is written to DRAM: accumulators as the state they are (`previous_output`), an operand where it is made.
    What is recalled is read, operands as `previous_input`, accumulators as `previous_output`, and never written back.
    Sign-mask (Cambricon-D): SiLU and group norm count as linear for the bypass.

    What a group reads of the step's own making it waits for: `producer` is the latest group that makes any of it; `whole`
    says that it needs all of that before it can begin (the second operand of a product).

    `operands` scope (the `paper` preset) sees layers alone: weights, 8-bit inputs, 8-bit outputs,
    and the same temporal state.

What it does not do: time (`dma.py`), or which of it stays on chip (`buffers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from ditto_cosim.protocol import isa
from ditto_cosim.protocol.blocks import FORMATS
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS, PARAMS
from ditto_cosim.protocol.program import Command, Program

Scope = Literal["group", "operands"]
ACCUMULATOR_BYTES = 4
STATE = ("previous_input", "previous_output")
"""Classes of traffic whose values are of an earlier step."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One value a group reads or writes."""

    value: int
    traffic: str
    """Class, one of `protocol.record.TRAFFIC`."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Group:
    """A layer and the commands behind it."""

    index: int
    """In order of execution."""
    layer: Command | None
    tail: tuple[Command, ...]
    reads: tuple[Transfer, ...]
    writes: tuple[Transfer, ...]
    previous_input_bytes: int
    accumulators: int
    """Elements of the layer's result."""
    difference_at_hand: bool
    """Static bypass: no previous input needed."""
    summation_deferred: bool
    """Static bypass: no previous accumulators needed."""
    producer: int | None
    """Index of the latest group that makes what this one reads."""
    whole: bool
    """Whether it needs all of it before it can begin."""
    has_state: bool
    """Whether differences are taken to what the layer kept of an earlier step."""
    keeps_accumulators: bool
    """Whether the program keeps them, whatever the layer itself does."""
    kept: frozenset[int]
    """Of what it makes, what the program keeps: it cannot stay on the chip alone."""

    @property
    def position(self) -> int | None:
        """Among the program's layers."""
        return None if self.layer is None else self.index - 1

    @property
    def name(self) -> str:
        return self.layer.name if self.layer is not None else "(before the first layer)"


class ByDigest:
    """A program as a key: equal digests, equal programs."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __hash__(self) -> int:
        return hash(self.program.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByDigest) and other.program.digest == self.program.digest


@dataclass(frozen=True, slots=True)
class Packing:
    """How a machine for block-scaled numbers keeps operands of layers in memory."""

    operand_bits: int = 0
    """0: as their formats have it."""
    scale_bits: int = 8
    scale_block: int = 0
    """Elements that share a scale; 0: as the program has it."""
    twice: bool = False
    """Dense and sparse channels lie in the same bursts, so that both arrays fetch every one of a 4-bit layer's operands."""

    def bits_of(self, layer: Command) -> int:
        """Of an operand's element."""
        form = layer.attrs.get("format", "mxint8")
        return self.operand_bits or FORMATS[form].bits  # type: ignore[index]  # validated with the program

    def sizes(self, program: Program) -> dict[int, int]:
        """Value -> bytes, of every operand of a layer that is not what its type says."""
        found: dict[int, int] = {}
        for layer in program.layers:
            bits = self.bits_of(layer)
            for at in (0, 2):
                codes = program.values[layer.operands[at]]
                found[layer.operands[at]] = -(-codes.elements * bits // 8) * (1 + (self.twice and bits == 4))
                if layer.op in BLOCK_LAYER_OPS:
                    scales = program.values[layer.operands[at + 1]].elements
                    if self.scale_block and bits == 4:
                        scales = -(-codes.elements // self.scale_block)
                    found[layer.operands[at + 1]] = (
                        0 if self.operand_bits else -(-scales * self.scale_bits // 8)
                    )
        return found


def groups(
    program: Program,
    scope: Scope,
    dependency_check: bool,
    sign_mask: bool,
    packing: Packing | None = None,
) -> tuple[Group, ...]:
    """The prologue, then one group a layer."""
    return _groups(ByDigest(program), scope, dependency_check, sign_mask, packing)


@lru_cache(maxsize=16)
def _groups(
    key: ByDigest, scope: Scope, dependency_check: bool, sign_mask: bool, packing: Packing | None
) -> tuple[Group, ...]:
    program = key.program
    sizes = {} if packing is None else packing.sizes(program)
    kept = {c.operands[0] for c in program.commands if c.op == "keep"}
    starts = [i for i, c in enumerate(program.commands) if c.is_layer]
    edges = list(pairwise([0, *starts, len(program.commands)]))
    home, root, readers = _homes(program, edges)
    recalled = {v for c in program.commands if c.op == "recall" for v in c.results}
    sizes = {root.get(v, v): nbytes for v, nbytes in sizes.items()}
    leaves = {root.get(v, v) for v in program.outputs.values()}
    made: list[list[int]] = [[] for _ in edges]
    for value, g in home.items():
        made[g].append(value)
    constants = set(program.constants.values()) | {program.inputs[name] for name in program.static_inputs}
    difference, summation = _bypass(program, sign_mask) if dependency_check else (frozenset(), frozenset())
    found = []
    for g, (first, last) in enumerate(edges):
        commands = program.commands[first:last]
        layer = commands[0] if commands and commands[0].is_layer else None
        reads = _reads(program, commands, set(made[g]), root, constants, recalled, sizes)
        leaving = [v for v in made[g] if v in leaves or readers.get(v, set()) - {g}]
        writes = [
            Transfer(v, "output", sizes.get(v, program.values[v].nbytes))
            for v in leaving
            if program.values[v] != PARAMS
        ]
        elements = program.values[layer.results[0]].elements if layer else 0
        if scope == "operands":
            reads = [
                t for t in reads if layer is not None and (_is_operand(t, layer, root) or t.traffic in STATE)
            ]
            writes = [Transfer(layer.results[0], "output", elements)] if layer else []
        producer = max((home[t.value] for t in reads if t.value in home), default=None)
        found.append(
            Group(
                g,
                layer,
                tuple(commands[1:] if layer else commands),
                tuple(reads),
                tuple(writes),
                _previous_input_bytes(program, layer),
                elements,
                layer is not None and layer.name in difference,
                layer is not None and layer.name in summation,
                producer,
                layer is not None and producer is not None and _second_operand(layer, root, home) == producer,
                layer is not None and _has_state(layer),
                layer is not None and layer.results[0] in kept,
                frozenset(made[g]) & {root.get(v, v) for v in kept},
            )
        )
    return tuple(found)


def mode_bytes(group: Group, mode: Mode, keeps_state: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes read and written by class, everything streamed."""
    reads: dict[str, int] = {}
    writes: dict[str, int] = {}
    for transfers, total in ((group.reads, reads), (group.writes, writes)):
        for t in transfers:
            total[t.traffic] = total.get(t.traffic, 0) + t.nbytes
    if group.layer is None:
        return reads, writes
    if mode == "temporal" and group.has_state and not group.difference_at_hand:
        reads["previous_input"] = group.previous_input_bytes
    if not group.summation_deferred:
        if mode == "temporal" and group.has_state:
            reads["previous_output"] = group.accumulators * ACCUMULATOR_BYTES
        if (keeps_state and group.has_state) or group.keeps_accumulators:
            writes["previous_output"] = group.accumulators * ACCUMULATOR_BYTES
    return reads, writes


def _homes(
    program: Program, edges: list[tuple[int, int]]
) -> tuple[dict[int, int], dict[int, int], dict[int, set[int]]]:
    """Value -> the group that makes it; reshaped value -> what it is a view of; value -> the groups that read it."""
    home: dict[int, int] = {}
    root: dict[int, int] = {}
    readers: dict[int, set[int]] = {}
    for g, (first, last) in enumerate(edges):
        for command in program.commands[first:last]:
            for value in command.operands:
                readers.setdefault(root.get(value, value), set()).add(g)
            if command.op == "reshape":
                source = command.operands[0]
                root[command.results[0]] = root.get(source, source)
            elif command.op != "recall":
                home.update(dict.fromkeys(command.results, g))
    return home, root, readers


def _reads(
    program: Program,
    commands: tuple[Command, ...],
    own: set[int],
    root: Mapping[int, int],
    constants: set[int],
    recalled: set[int],
    sizes: Mapping[int, int],
) -> list[Transfer]:
    found: dict[int, Transfer] = {}
    for command in commands:
        for at, value in enumerate(command.operands):
            source = root.get(value, value)
            if source in found or source in own or program.values[source] == PARAMS:
                continue
            if source in constants or (command.op == "matmul" and at == 2 and command.attrs["static_b"]):
                traffic = "weights"
            elif source in recalled:
                traffic = "previous_input" if program.values[source].dtype == "i8" else "previous_output"
            else:
                traffic = "input" if command.is_layer else "residual"
            found[source] = Transfer(source, traffic, sizes.get(source, program.values[source].nbytes))
    return list(found.values())


def _second_operand(layer: Command, root: Mapping[int, int], home: Mapping[int, int]) -> int | None:
    """The group that makes a product's second operand."""
    if layer.op != "matmul":
        return None
    value = layer.operands[2]
    return home.get(root.get(value, value))


def _is_operand(transfer: Transfer, layer: Command, root: Mapping[int, int]) -> bool:
    return transfer.value in {root.get(v, v) for v in layer.operands}


def _has_state(layer: Command) -> bool:
    return layer.op != "linear_increment" and "reference" not in layer.attrs


def _previous_input_bytes(program: Program, layer: Command | None) -> int:
    if layer is None or not _has_state(layer):
        return 0
    nbytes = program.values[layer.operands[0]].nbytes
    if layer.op == "matmul" and not layer.attrs["static_b"]:
        nbytes += program.values[layer.operands[2]].nbytes
    return nbytes


def _bypass(program: Program, sign_mask: bool) -> tuple[frozenset[str], frozenset[str]]:
    if not sign_mask:
        return program.skip_difference, program.skip_summation
    return _sign_mask_bypass(program)


_SIGN_MASKED = {"silu", "group_norm", "add", "sub", "quantize", "dequantize", "dequantize_matmul"}


def _sign_mask_bypass(program: Program) -> tuple[frozenset[str], frozenset[str]]:
    """The program's own bypass, and what opens up when differences pass SiLU and group norm."""
    producer = {r: c for c in program.commands for r in c.results}
    consumers: dict[int, list[Command]] = {}
    for command in program.commands:
        for value in command.operands:
            consumers.setdefault(value, []).append(command)
    constants, outputs = set(program.constants.values()), set(program.outputs.values())

    def passes(command: Command) -> bool:
        moves = isa.ISA[command.op].kind == "move" and command.op not in ("keep", "recall")
        return command.op in _SIGN_MASKED or moves

    def takes_differences(command: Command) -> bool:
        return command.is_layer and not command.when and _has_state(command)

    back: dict[int, bool] = {}
    ahead: dict[int, bool] = {}
    for command in program.commands:  # operands are defined before they are read
        for value in command.operands:
            if value not in back:
                back[value] = value in constants
        clear = takes_differences(command) or (passes(command) and all(back[v] for v in command.operands))
        back.update(dict.fromkeys(command.results, clear))
    for command in reversed(program.commands):
        for value in command.results:
            ahead[value] = value not in outputs and all(
                takes_differences(c) or (passes(c) and ahead[c.results[0]]) for c in consumers.get(value, [])
            )
    difference = {
        c.name
        for c in program.layers
        if takes_differences(c)
        and all(back[v] for v in c.operands if v in producer and program.values[v] != PARAMS)
        and not any(v in program.inputs.values() for v in c.operands)
    }
    summation = {c.name for c in program.layers if takes_differences(c) and ahead[c.results[0]]}
    return program.skip_difference | difference, program.skip_summation | summation
