# SPDX-License-Identifier: Apache-2.0
"""Golden on a sample: a few layers of every step, each computed from the device's own operands, in turn over the steps.

For programs so large that golden beside every value would cost more than the device. Over enough steps every layer has its
turn; the commands that make the program's outputs are always in the sample. What lies between the sampled commands, the
scales of dynamic quantizers, records and cycles are taken on trust, and the verdict says so.
What this file does not do: follow a device value by value (`golden.py`), or check its books (`audit.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ditto_cosim.host.reference.golden import (
    Array,
    Difference,
    Golden,
    VerifyError,
    as_array,
    as_tensor,
    difference_of,
)
from ditto_cosim.protocol.program import Program, StepClass


class SampledVerifier:
    """Compares `count` layers a step bit by bit. Per step: `expect`, `check` for every wanted value, `check_delivered`."""

    def __init__(self, program: Program, constants: Mapping[str, Array], count: int) -> None:
        self._golden = Golden(program, constants, prepare=False)
        self._constants = {v: self._golden.constant(v) for v in program.constants.values()}
        self._layers: dict[StepClass, list[int]] = {}
        self._last: dict[StepClass, list[int]] = {}
        for step_class in program.step_classes:
            places = program.places(step_class)
            self._layers[step_class] = [i for i in places if program.commands[i].is_layer]
            made = {r: i for i in places for r in program.commands[i].results}
            self._last[step_class] = [made[v] for v in program.outputs.values() if v in made]
        most = max(map(len, self._layers.values()))
        self._count = min(count, most)
        self._due: dict[int, int] = {}
        """Commands of the step under way, each under the value behind which it can be computed."""
        self._seen: dict[int, Tensor] = {}
        self._step = -1
        self.wanted: list[int] = []
        """Values that the device must send."""
        self.layers_checked = 0
        self.values_checked = 0
        self.delivered_checked = 0
        self.first_difference: Difference | None = None
        self.not_checked = [
            f"all but {self._count} of {most} layers a step, and what lies between them",
            "records, reports and cycles",
        ]

    @property
    def bit_identical(self) -> bool:
        """Nothing has differed, and something was compared."""
        return self.first_difference is None and self.values_checked > 0

    @property
    def scales(self) -> dict[str, float]:
        """Golden's dynamic quantizers are not in a sample."""
        return {}

    def expect(self, step: int, inputs: Mapping[str, Tensor]) -> None:
        """The step whose values `check` will see next; `wanted` says which."""
        program = self._golden.program
        step_class = program.step_class(step)
        layers, first = self._layers[step_class], step // program.period * self._count
        chosen = [layers[(first + i) % len(layers)] for i in range(min(self._count, len(layers)))]
        chosen += [i for i in self._last[step_class] if program.commands[i].op not in ("quantize", "recall")]
        self._step, self._due, self._seen = step, {}, dict(self._constants)
        for name, value in program.inputs.items():
            self._seen[value] = as_tensor(inputs[name], program.values[value], f"input {name!r}")
        wanted: set[int] = set(program.outputs.values()) - self._seen.keys()
        for index in chosen:
            command = program.commands[index]
            self._due[max(command.results)] = index
            wanted |= {*command.operands, *command.results} - self._seen.keys()
        self.wanted = sorted(wanted)

    def check(self, value: int, array: Array) -> bool:
        """Takes the next wanted value; compares a command when its last result is there."""
        if self.first_difference is not None:
            return False
        program = self._golden.program
        what = f"value {value} of step {self._step}, from the device,"
        self._seen[value] = as_tensor(array, program.values[value], what)
        index = self._due.pop(value, None)
        if index is None:
            return True
        command = program.commands[index]
        results = self._golden.execute(command, self._step, [self._seen[v] for v in command.operands])
        for result, golden in zip(command.results, results, strict=True):
            self.values_checked += 1
            device = self._seen[result].numpy()
            self.first_difference = difference_of(
                device, golden, self._step, index, command.op, command.name, result
            )
            if self.first_difference is not None:
                return False
        self.layers_checked += command.is_layer
        return True

    def check_delivered(self, outputs: Mapping[str, Array], *_: object) -> bool:
        """The step's outputs as delivered, against the values that were compared."""
        if self.first_difference is not None:
            return False
        if self._due:
            raise VerifyError(f"verify: step {self._step} is done, but values of its sample were never sent")
        program = self._golden.program
        for name, value in program.outputs.items():
            what = f"output {name!r} of step {self._step}, as delivered,"
            device = as_array(outputs[name], program.values[value], what)
            self.delivered_checked += 1
            self.first_difference = difference_of(
                device, self._seen[value], self._step, len(program.commands), "delivered output", name, value
            )
            if self.first_difference is not None:
                return False
        self._seen = {}
        return True
