# SPDX-License-Identifier: Apache-2.0
"""The int8 reference: executes a program by direct integer arithmetic, checks a device's values against it.

`Golden` runs the program; `Verifier` follows a device value by value, then holds what was delivered of the step against
golden, and stops at the first difference. The arithmetic of each command is in `golden_ops.py`; what the device says of
modes, slots and cycles is checked by `audit.py` from golden's operands. Neither knows the wire.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ditto_cosim.host.reference import golden_blocks as blocks
from ditto_cosim.host.reference import golden_ops as ops
from ditto_cosim.host.reference.audit import Audit, Discrepancy
from ditto_cosim.protocol.errors import DittoError, GridError, IsaError, NonFiniteError, RequestError
from ditto_cosim.protocol.isa import DType, TensorSpec, integer, ints, number
from ditto_cosim.protocol.messages import LayerReport
from ditto_cosim.protocol.program import Command, Program, StepClass
from ditto_cosim.protocol.record import StepRecord
from ditto_cosim.protocol.tensors import NUMPY_TYPES

Array = Tensor | npt.NDArray[np.generic]

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "f32": torch.float32,
    "i8": torch.int8,
    "i32": torch.int32,
    "i64": torch.int64,
}


def as_tensor(array: Array, spec: TensorSpec, what: str) -> Tensor:
    """A detached host tensor of exactly this type and shape (truth values as bytes), or an `IsaError` naming it."""
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(array if array.flags.writeable else array.copy())
    assert isinstance(array, Tensor)
    if array.dtype == torch.bool and spec.dtype == "i8":
        array = array.view(torch.int8)
    if tuple(array.shape) != spec.shape or array.dtype != TORCH_DTYPES[spec.dtype]:
        raise IsaError(f"golden: {what} is {array.dtype}{list(array.shape)}, the program expects {spec}")
    return array.detach().cpu()


def as_array(array: Array, spec: TensorSpec, what: str) -> npt.NDArray[np.generic]:
    """The same for what is only compared: the memory that it came in, which nobody may write to, is not copied."""
    if isinstance(array, Tensor):
        return as_tensor(array, spec, what).numpy()
    if array.dtype == np.bool_ and spec.dtype == "i8":
        array = array.view(np.int8)
    if array.shape != spec.shape or array.dtype != NUMPY_TYPES[spec.dtype]:
        raise IsaError(f"golden: {what} is {array.dtype}{list(array.shape)}, the program expects {spec}")
    return array


class Golden:
    """Executes a program step by step. Holds what the instruction set makes stateful: dynamic scales, kept values."""

    def __init__(self, program: Program, constants: Mapping[str, Array], *, prepare: bool = True) -> None:
        """Weights are prepared once, at the price of holding them twice, or at every use."""
        program.validate()
        if missing := program.constants.keys() - constants.keys():
            raise IsaError(f"golden: constants {', '.join(sorted(missing))} are missing")
        self.program = program
        self._constants = {
            value: as_tensor(constants[name], program.values[value], f"constant {name!r}")
            for name, value in program.constants.items()
        }
        self._weights = {
            command.operands[2]: ops.Weights.of(self._constants[command.operands[2]])
            for command in program.layers
            if prepare and command.op in ("conv2d", "linear") and command.operands[2] in self._constants
        }
        self.scales: dict[str, float] = {}
        """Of dynamic quantizers, as of the last step."""
        self.kept: dict[str, Tensor] = {}
        """By slot, as of the last full step."""
        self._dying: dict[StepClass, dict[int, list[int]]] = {}
        for step_class in program.step_classes:
            places, dying = program.places(step_class), self._dying.setdefault(step_class, {})
            for value, last in program.of(step_class).last_use.items():
                dying.setdefault(places[last], []).append(value)

    def constant(self, value: int) -> Tensor:
        """A constant of the program."""
        return self._constants[value]

    def execute(self, command: Command, step: int, operands: list[Tensor]) -> tuple[Tensor, ...]:
        """One command alone, on these operands."""
        with torch.no_grad():
            return self._execute(command, step, operands)

    def step(
        self,
        step: int,
        inputs: Mapping[str, Tensor],
        on_value: Callable[[int, Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        """One evaluation of the denoiser; `on_value` sees every command's results in program order."""
        values: dict[int, Tensor] = {}
        for _, value, tensor in self.run(step, inputs, values):
            if on_value is not None:
                on_value(value, tensor)
        return {name: values[value] for name, value in self.program.outputs.items()}

    def run(
        self, step: int, inputs: Mapping[str, Tensor], values: dict[int, Tensor] | None = None
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Executes command by command, lazily; yields (command index, value id, value).

        `values` holds the live ones.
        """
        program = self.program
        values = {} if values is None else values
        if wrong := program.inputs.keys() ^ inputs.keys():
            raise IsaError(f"golden: inputs {', '.join(sorted(wrong))} are missing or unknown")
        values.update(self._constants)
        for name, value in program.inputs.items():
            values[value] = as_tensor(inputs[name], program.values[value], f"input {name!r}")
        step_class = program.step_class(step)
        dying = self._dying[step_class]
        for index in program.places(step_class):
            command = program.commands[index]
            try:
                with torch.no_grad():
                    results = self._execute(command, step, [values[v] for v in command.operands])
            except (NonFiniteError, GridError) as error:
                raise type(error)(
                    f"step {step}, command {index} ({command.op} {command.name!r}): {error}"
                ) from None
            for value, tensor in zip(command.results, results, strict=True):
                values[value] = tensor
                yield index, value, tensor
            for value in dying.get(index, ()):
                del values[value]

    def _execute(self, command: Command, step: int, t: list[Tensor]) -> tuple[Tensor, ...]:
        attrs = command.attrs
        match command.op:
            case "conv2d":
                kernel = (t[2].shape[2], t[2].shape[3])
                return (ops.conv2d(t[0], t[1], self._weights_of(command, t[2]), command, kernel),)
            case "linear":
                return (ops.linear(t[0], t[1], self._weights_of(command, t[2])),)
            case "linear_increment":
                return (ops.linear_increment(t[0], t[1], self._weights_of(command, t[2]), t[3], t[4]),)
            case "matmul":
                return (ops.matmul(t[0], t[2]),)
            case "keep":
                self.kept[str(attrs["slot"])] = t[0].clone()
                return ()
            case "recall":
                return (self._recall(str(attrs["slot"])),)
            case "difference":
                return (t[0] - t[1],)
            case "quantize":
                return self._quantize(command, step, t[0])
            case "dequantize":
                bias = t[3] if len(t) > 3 else None
                return (ops.dequantize(t[0], t[1], t[2], bias, integer(attrs, "axis")),)
            case "conv2d_block":
                return (blocks.conv2d_block(t[0], t[1], t[2], t[3], attrs),)
            case "linear_block":
                return (blocks.linear_block(t[0], t[1], t[2], t[3], attrs),)
            case "quantize_block":
                return blocks.quantize_block(t[0], attrs)
            case "dequantize_block":
                bias = t[3] if len(t) > 3 else None
                return (blocks.dequantize_block(t[0], t[1], t[2], bias, integer(attrs, "axis")),)
            case "dequantize_matmul":
                return (ops.dequantize_matmul(t[0], t[1], t[2], number(attrs, "factor")),)
            case "softmax":
                return ops.softmax(t[0])
            case "dequantize_attention":
                return (ops.dequantize_attention(t[0], t[1], t[2]),)
            case op if op in ops.BINARY:
                return (ops.BINARY[op](t[0], t[1]),)
            case "select":
                return (torch.where(t[0] != 0, t[1], t[2]),)
            case "gelu" if attrs["tanh"]:
                return (ops.blocked(ops.gelu_tanh, t[0]),)
            case op if op in ops.UNARY:
                return (ops.blocked(ops.UNARY[op], t[0]),)
            case "cast":
                return (t[0].to(torch.float32),)
            case "group_norm":
                gamma, beta = [*t[1:], None, None][:2]
                groups, eps = integer(attrs, "groups"), number(attrs, "eps")
                return (ops.group_norm(t[0], gamma, beta, groups, eps),)
            case "layer_norm":
                gamma, beta = [*t[1:], None, None][:2]
                return (ops.layer_norm(t[0], gamma, beta, number(attrs, "eps")),)
            case "rms_norm":
                return (ops.rms_norm(t[0], t[1] if len(t) > 1 else None, number(attrs, "eps")),)
            case "sum":
                return (ops.total(t[0]),)
        return (ops.move(command, t),)

    def _recall(self, slot: str) -> Tensor:
        if slot not in self.kept:
            raise RequestError(f"golden: nothing is kept in slot {slot!r}; a run begins with a full step")
        return self.kept[slot]

    def _weights_of(self, command: Command, w: Tensor) -> ops.Weights:
        return self._weights.get(command.operands[2]) or ops.Weights.of(w)

    def _quantize(self, command: Command, step: int, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = ops.finite_extremes(x)
        scales: tuple[float, ...] = command.attrs["scales"]  # type: ignore[assignment]  # validated
        points, bounds = ints(command.attrs, "zero_points"), ints(command.attrs, "bounds")
        cluster = bisect_right(bounds, step) - 1
        scale = ops.f32(scales[cluster])
        if command.attrs["policy"] == "dynamic":
            hysteresis = number(command.attrs, "hysteresis")
            previous = self.scales.get(command.name)
            scale = ops.dynamic_scale(max(-low, high), previous, scales[0], hysteresis)
            self.scales[command.name] = scale
        return ops.quantize(x, scale, points[cluster], bool(command.attrs["symmetric"]))


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a device's value first departed from golden's."""

    step: int
    command: int
    """Index of the command that made the value."""
    op: str
    name: str
    value: int
    index: tuple[int, ...]
    device: float | int
    golden: float | int

    def __str__(self) -> str:
        place = ",".join(map(str, self.index))
        return (
            f"step {self.step}, command {self.command} ({self.op} {self.name!r}), value {self.value}[{place}]"
            f": the device has {self.device!r}, golden has {self.golden!r}"
        )


class VerifyError(DittoError):
    """The device's values cannot be followed: out of order, of another type, or missing."""

    ours = True


class Verifier:
    """Compares a device's values with golden's bit by bit (zeros of any sign), up to the first difference.

    A NaN is a difference, whoever made it. After the first difference nothing more is computed or compared.
    Per step: `expect`, `check` for every value in program order, then `check_delivered`.
    """

    def __init__(self, program: Program, constants: Mapping[str, Array], audit: Audit | None = None) -> None:
        self._golden = Golden(program, constants)
        self._audit = audit
        self._program = program
        self._layer_index = {c.name: i for i, c in enumerate(program.layers)}
        self._values: dict[int, Tensor] = {}
        self._pending: Iterator[tuple[int, int, Tensor]] = iter(())
        self._step = -1
        self._left = 0
        self.layers_checked = 0
        """Layer executions compared (a layer counts once per step)."""
        self.values_checked = 0
        """Command results compared."""
        self.delivered_checked = 0
        """Tensors that left the device as results of a step, compared."""
        self.first_difference: Difference | Discrepancy | None = None

    @property
    def bit_identical(self) -> bool:
        """Nothing has differed, and something was compared."""
        return self.first_difference is None and self.values_checked > 0

    @property
    def scales(self) -> dict[str, float]:
        """Of golden's dynamic quantizers."""
        return dict(self._golden.scales)

    def resume(
        self,
        step: int,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Array],
        scales: Mapping[str, float],
    ) -> bool:
        """Goes on behind a step that was completed elsewhere, with the scales as they were behind it: golden computes it
        again, and what it gave there must be what golden gives here. Behind an increment, for its full step first."""
        self._golden.scales = dict(scales)
        self._values = {}
        self._step, self._left = step, 0
        done = -1
        for index, _, _ in self._golden.run(step, inputs, self._values):
            command = self._program.commands[index]
            if command.is_layer and index != done and self._audit is not None:
                operands = [self._values[v] for v in command.operands]
                self._audit.observe(self._layer_index[command.name], operands, counts=False)
            done = index
        if self._audit is not None:
            self._audit.end_step()
        self._pending = iter(())
        return self._check_outputs(outputs)

    def expect(self, step: int, inputs: Mapping[str, Tensor]) -> None:
        """The step whose values `check` will see next."""
        if self.first_difference is not None:
            return
        if self._left:
            raise VerifyError(
                f"verify: step {step} begins, but {self._left} values of step {self._step} were never sent"
            )
        self._values = {}
        self._pending = self._golden.run(step, inputs, self._values)
        self._step = step
        self._left = sum(len(c.results) for c in self._program.of(self._program.step_class(step)).commands)

    def check(self, value: int, array: Array) -> bool:
        """Compares the next value in program order; False once anything has differed."""
        if self.first_difference is not None:
            return False
        if not self._left:
            raise VerifyError(f"verify: value {value} arrived, but step {self._step} expects no more values")
        index, expected_value, golden = next(self._pending)
        self._left -= 1
        command = self._program.commands[index]
        if command.is_layer and self._audit is not None:
            operands = [self._values[v] for v in command.operands]
            self._audit.observe(self._layer_index[command.name], operands)
        where = f"step {self._step}, command {index} ({command.op} {command.name!r})"
        if value != expected_value:
            raise VerifyError(
                f"verify: {where}: value {value} arrived, value {expected_value} is next in program order"
            )
        device = as_array(
            array, self._golden.program.values[value], f"value {value} of {where}, from the device,"
        )
        self.values_checked += 1
        self.layers_checked += command.is_layer
        self.first_difference = self._compare(device, golden, index, command.op, command.name, value)
        return self.first_difference is None

    def check_delivered(
        self,
        outputs: Mapping[str, Array],
        record: StepRecord | None = None,
        reports: Sequence[LayerReport] = (),
        totals: Mapping[str, int] | None = None,
    ) -> bool:
        """What the step delivered, after all its values: the outputs themselves; record, reports and totals if there is an
        audit."""
        if self.first_difference is not None:
            return False
        if self._left:
            raise VerifyError(
                f"verify: step {self._step} is done, but {self._left} of its values were never sent"
            )
        for _ in self._pending:  # let golden finish what follows the last value
            pass
        if not self._check_outputs(outputs):
            return False
        if self._audit is not None:
            if record is None:
                self.first_difference = Discrepancy(
                    self._step, "record", "nothing", "a record of every layer"
                )
            elif record.step != self._step:
                self.first_difference = Discrepancy(self._step, "record", f"step {record.step}", "this step")
            else:
                self.first_difference = self._audit.check(record, reports, totals or {})
            self._audit.end_step()
        return self.first_difference is None

    def _check_outputs(self, outputs: Mapping[str, Array]) -> bool:
        program = self._golden.program
        if outputs.keys() != program.outputs.keys():
            raise VerifyError(
                f"verify: step {self._step} delivered {sorted(outputs)}, the program makes {sorted(program.outputs)}"
            )
        for name, value in program.outputs.items():
            what = f"output {name!r} of step {self._step}, as delivered,"
            device = as_array(outputs[name], program.values[value], what)
            self.delivered_checked += 1
            self.first_difference = self._compare(
                device, self._values[value], len(program.commands), "delivered output", name, value
            )
            if self.first_difference is not None:
                return False
        return True

    def _compare(
        self,
        device: npt.NDArray[np.generic],
        golden: Tensor,
        command: int,
        op: str,
        name: str,
        value: int,
    ) -> Difference | None:
        return difference_of(device, golden, self._step, command, op, name, value)


def difference_of(
    device: npt.NDArray[np.generic],
    golden: Tensor,
    step: int,
    command: int,
    op: str,
    name: str,
    value: int,
) -> Difference | None:
    """Where two tensors first differ, or None."""
    expected = golden.numpy()
    equal = device == expected  # NumPy's comparison takes a tenth of torch's time
    if equal.all():
        return None
    place = tuple(int(i) for i in np.argwhere(~equal)[0])
    return Difference(
        step=step,
        command=command,
        op=op,
        name=name,
        value=value,
        index=place,
        device=device[place].item(),
        golden=expected[place].item(),
    )
