# SPDX-License-Identifier: Apache-2.0
"""A denoiser as a program: values in single-assignment form and the commands that make them.

A program of period p has two classes of steps: step i is full if i mod p = 0, an increment otherwise (p = 1: every step is
full). A command belongs to one class or to both, and in each class every value is defined once, before it is read: `of` is
the program of one class by itself. What a full step keeps under a name (`keep`) the increments behind it recall and never write.

Pure data and its validation; how it is made is the host's business, how it is executed the device's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import IsaError
from ditto_cosim.protocol.isa import Attrs, TensorSpec

MAX_COMMANDS = 65_536
MAX_VALUES = 262_144
MAX_PERIOD = 65_536
MAX_AXES = 8

StepClass = Literal["full", "increment"]
STEP_CLASSES: tuple[StepClass, ...] = ("full", "increment")
When = Literal["", "full", "increment"]
"""In which steps a command runs; empty: in all."""


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction: reads values, defines new ones."""

    op: str
    name: str
    """Where it comes from in the denoiser: `down_blocks.0.resnets.0.conv1`, unique within the program."""
    operands: tuple[int, ...]
    results: tuple[int, ...]
    attrs: Attrs = field(default_factory=dict)
    when: When = ""

    @property
    def is_layer(self) -> bool:
        return self.op in isa.LAYER_OPS


@dataclass(frozen=True)
class Program:
    """Commands over numbered values. `inputs` are written every step, `constants` once per run."""

    values: tuple[TensorSpec, ...]
    inputs: Mapping[str, int]
    """Name -> value, in the order of the denoiser's own arguments."""
    static_inputs: frozenset[str]
    """Inputs that stay the same for a whole run, such as a text embedding."""
    constants: Mapping[str, int]
    outputs: Mapping[str, int]
    commands: tuple[Command, ...]
    skip_difference: frozenset[str] = frozenset()
    """Layers whose input difference is at hand already (no non-linear function before them): Defo's static analysis."""
    skip_summation: frozenset[str] = frozenset()
    """Layers whose result only feeds differences (no non-linear function behind them)."""
    period: int = 1
    """A full step, and the increments up to the next."""

    @cached_property
    def layers(self) -> tuple[Command, ...]:
        return tuple(c for c in self.commands if c.is_layer)

    @property
    def step_classes(self) -> tuple[StepClass, ...]:
        """Those that a run has, the first step's first."""
        return STEP_CLASSES if self.period > 1 else STEP_CLASSES[:1]

    def step_class(self, step: int) -> StepClass:
        return "increment" if step % self.period else "full"

    def anchor(self, step: int) -> int:
        """The last full step up to this one."""
        return step - step % self.period

    def places(self, step_class: StepClass) -> tuple[int, ...]:
        """Indices of the commands that run in steps of a class."""
        return tuple(i for i, c in enumerate(self.commands) if c.when in ("", step_class))

    def layers_of(self, step_class: StepClass) -> tuple[int, ...]:
        """Positions among `layers` of those that run in steps of a class."""
        return tuple(i for i, c in enumerate(self.layers) if c.when in ("", step_class))

    def layers_by_step(self, steps: int) -> list[int]:
        """How many layers run in each of so many steps."""
        return [len(self.layers_of(self.step_class(step))) for step in range(steps)]

    def of(self, step_class: StepClass) -> Program:
        """What runs in steps of a class, as a program of one: values keep their numbers."""
        return self._by_class[step_class]

    @cached_property
    def _by_class(self) -> dict[StepClass, Program]:
        if self.period == 1:
            return {"full": self}
        return {
            c: replace(self, commands=tuple(self.commands[i] for i in self.places(c)), period=1)
            for c in STEP_CLASSES
        }

    @cached_property
    def last_use(self) -> dict[int, int]:
        """Value -> index of the last command that reads it, in a program of one class of steps; constants, inputs and outputs
        are not listed."""
        kept = {*self.inputs.values(), *self.constants.values(), *self.outputs.values()}
        uses = {v: i for i, c in enumerate(self.commands) for v in (*c.results, *c.operands)}
        return {v: i for v, i in uses.items() if v not in kept}

    def specs(self, values: tuple[int, ...]) -> tuple[TensorSpec, ...]:
        return tuple(self.values[v] for v in values)

    def validate(self) -> None:
        """Every rule a device relies on; raises `IsaError` naming the command."""
        if len(self.commands) > MAX_COMMANDS or len(self.values) > MAX_VALUES:
            raise IsaError(
                f"program: {len(self.commands)} commands, {len(self.values)} values exceed the limits"
            )
        if not 1 <= self.period <= MAX_PERIOD:
            raise IsaError(f"program: period {self.period} is outside 1…{MAX_PERIOD}")
        names: set[str] = set()
        for index, command in enumerate(self.commands):
            where = f"command {index} ({command.op} {command.name!r})"
            if command.name in names:
                raise IsaError(f"{where}: its name is not unique")
            names.add(command.name)
            if not command.name.isprintable():
                raise IsaError(f"{where}: its name has characters that cannot be printed")
            if command.when not in ("", *(STEP_CLASSES if self.period > 1 else ())):
                raise IsaError(
                    f"{where}: runs in {command.when!r} steps, which a period of {self.period} does not have"
                )
        kept: dict[str, TensorSpec] = {}
        for step_class in self.step_classes:
            self._validate_class(step_class, kept)
        if unknown := self.static_inputs - self.inputs.keys():
            raise IsaError(f"program: static inputs {sorted(unknown)} are not inputs")

    def _validate_class(self, step_class: StepClass, kept: dict[str, TensorSpec]) -> None:
        """Steps of one class; `kept` holds the slots, which full steps fill."""
        defined: set[int] = set()
        for group in (self.inputs, self.constants):
            for name, value in group.items():
                self._define(defined, value, name)
        for index in self.places(step_class):
            command = self.commands[index]
            where = f"command {index} ({command.op} {command.name!r})"
            for value in command.operands:
                if value not in defined:
                    raise IsaError(f"{where}: reads value {value} before it is defined")
            try:
                results = isa.infer(command.op, self.specs(command.operands), command.attrs)
            except IsaError as error:
                raise IsaError(f"{where}: {error}") from None
            if len(results) != len(command.results):
                raise IsaError(f"{where}: has {len(command.results)} results, expected {len(results)}")
            for value, spec in zip(command.results, results, strict=True):
                self._define(defined, value, where)
                if self.values[value] != spec:
                    raise IsaError(
                        f"{where}: value {value} is declared {self.values[value]}, the command makes {spec}"
                    )
            self._check_slots(command, where, kept)
        for name, value in self.outputs.items():
            if value not in defined:
                raise IsaError(
                    f"program: output {name!r} is value {value}, which nothing defines in {step_class} steps"
                )

    def _check_slots(self, command: Command, where: str, kept: dict[str, TensorSpec]) -> None:
        """Slots are filled once a full step, and read between full steps as what they were filled with."""
        if command.op == "keep":
            slot = isa.slot(command.attrs)
            if command.when != "full" or slot in kept:
                raise IsaError(f"{where}: slot {slot!r} is filled once, in full steps")
            kept[slot] = self.values[command.operands[0]]
        elif command.op == "recall":
            slot, spec = isa.slot(command.attrs), self.values[command.results[0]]
            if command.when != "increment" or kept.get(slot) != spec:
                raise IsaError(
                    f"{where}: slot {slot!r} holds {kept.get(slot, 'nothing')}; {spec} is recalled, in increments"
                )

    def _define(self, defined: set[int], value: int, where: str) -> None:
        if not 0 <= value < len(self.values):
            raise IsaError(f"{where}: value {value} is outside the program's {len(self.values)} values")
        if value in defined:
            raise IsaError(f"{where}: value {value} is defined twice")
        defined.add(value)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for MessagePack and JSON."""
        return {
            "values": [[list(v.shape), v.dtype] for v in self.values],
            "inputs": dict(self.inputs),
            "static_inputs": sorted(self.static_inputs),
            "constants": dict(self.constants),
            "outputs": dict(self.outputs),
            "commands": [
                [
                    *(c.op, c.name, list(c.operands), list(c.results)),
                    {k: _plain(v) for k, v in c.attrs.items()},
                    *([c.when] if c.when else []),
                ]
                for c in self.commands
            ],
            "skip_difference": sorted(self.skip_difference),
            "skip_summation": sorted(self.skip_summation),
            **({"period": self.period} if self.period > 1 else {}),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Program:
        """The inverse of `to_dict`, for data of unknown origin: anything malformed is an `IsaError`."""
        try:
            program = cls(
                values=tuple(TensorSpec(_shape(shape), _dtype(dtype)) for shape, dtype in data["values"]),
                inputs=_names(data["inputs"]),
                static_inputs=_texts(data["static_inputs"]),
                constants=_names(data["constants"]),
                outputs=_names(data["outputs"]),
                commands=tuple(_command(*c) for c in data["commands"]),
                skip_difference=_texts(data["skip_difference"]),
                skip_summation=_texts(data["skip_summation"]),
                period=_period(data.get("period", 1)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IsaError(f"program: malformed ({type(error).__name__}: {error})") from None
        program.validate()
        return program

    @cached_property
    def digest(self) -> str:
        """Identity of the program (its weights not included)."""
        import msgpack

        return hashlib.sha256(msgpack.packb(self.to_dict())).hexdigest()[:16]

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands)


def _plain(value: isa.Attr) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _attr(value: Any) -> isa.Attr:
    if isinstance(value, list | tuple):
        if not all(isinstance(v, int | float) for v in value):
            raise IsaError(f"program: attribute {value!r} is not a sequence of numbers")
        return tuple(value)
    if not isinstance(value, int | float | str | bool):
        raise IsaError(f"program: attribute {value!r} has no type of the instruction set")
    return value


def _shape(shape: Any) -> tuple[int, ...]:
    if len(shape) > MAX_AXES or not all(type(d) is int and 0 < d < 2**31 for d in shape):
        raise IsaError(f"program: shape {shape!r} is not up to eight positive integers")
    return tuple(shape)


def _dtype(dtype: Any) -> isa.DType:
    if dtype not in isa.ITEM_BYTES:
        raise IsaError(f"program: dtype {dtype!r} is none of {', '.join(isa.ITEM_BYTES)}")
    return dtype  # type: ignore[no-any-return]  # checked in the line above


def _names(mapping: Any) -> dict[str, int]:
    if not all(isinstance(k, str) and type(v) is int for k, v in mapping.items()):
        raise IsaError("program: names map strings to value numbers")
    return dict(mapping)


def _texts(names: Any) -> frozenset[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise IsaError("program: names of inputs and layers are strings")
    return frozenset(names)


def _period(period: Any) -> int:
    if type(period) is not int:
        raise IsaError(f"program: period {period!r} is not an integer")
    return period


def _command(op: Any, name: Any, operands: Any, results: Any, attrs: Any, when: Any = "") -> Command:
    if not isinstance(op, str) or not isinstance(name, str):
        raise IsaError(f"program: command {op!r} {name!r} is not named by strings")
    if not all(type(v) is int for v in (*operands, *results)):
        raise IsaError(f"program: command {name!r} does not name its values by numbers")
    if when not in ("", *STEP_CLASSES):
        raise IsaError(f"program: command {name!r} runs in {when!r} steps, which do not exist")
    made = {str(k): _attr(v) for k, v in attrs.items()}
    return Command(op, name, tuple(operands), tuple(results), made, when)
