"""The int8 reference: executes a program by direct integer arithmetic, checks a device's values against it.

`Golden` runs the program; `Verifier` follows a device value by value and stops at the first difference. The
arithmetic of each command is in `golden_ops.py`. Neither knows of modes, differences, cycles or the wire.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ditto_cosim.host.reference import golden_ops as ops
from ditto_cosim.protocol.errors import DittoError, IsaError, NonFiniteError
from ditto_cosim.protocol.isa import DType, TensorSpec, integer, ints, number
from ditto_cosim.protocol.program import Command, Program

Array = Tensor | npt.NDArray[np.generic]

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "f32": torch.float32,
    "i8": torch.int8,
    "i32": torch.int32,
    "i64": torch.int64,
}


def as_tensor(array: Array, spec: TensorSpec, what: str) -> Tensor:
    """A detached host tensor of exactly this type and shape, or an `IsaError` naming it."""
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(array if array.flags.writeable else array.copy())
    assert isinstance(array, Tensor)
    if tuple(array.shape) != spec.shape or array.dtype != TORCH_DTYPES[spec.dtype]:
        raise IsaError(f"golden: {what} is {array.dtype}{list(array.shape)}, the program expects {spec}")
    return array.detach().cpu()


class Golden:
    """Executes a program step by step. Holds what the instruction set makes stateful: the dynamic scales."""

    def __init__(self, program: Program, constants: Mapping[str, Array]) -> None:
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
            if command.op != "matmul" and command.operands[2] in self._constants
        }
        self._scales: dict[str, float] = {}
        self._dying: list[list[int]] = [[] for _ in program.commands]
        for value, last in program.last_use.items():
            self._dying[last].append(value)

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
        for index, command in enumerate(program.commands):
            try:
                with torch.no_grad():
                    results = self._execute(command, step, [values[v] for v in command.operands])
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"step {step}, command {index} ({command.op} {command.name!r}): {error}"
                ) from None
            for value, tensor in zip(command.results, results, strict=True):
                values[value] = tensor
                yield index, value, tensor
            for value in self._dying[index]:
                del values[value]

    def _execute(self, command: Command, step: int, t: list[Tensor]) -> tuple[Tensor, ...]:
        attrs = command.attrs
        match command.op:
            case "conv2d":
                kernel = (t[2].shape[2], t[2].shape[3])
                return (ops.conv2d(t[0], t[1], self._weights_of(command, t[2]), command, kernel),)
            case "linear":
                return (ops.linear(t[0], t[1], self._weights_of(command, t[2])),)
            case "matmul":
                return (ops.matmul(t[0], t[2]),)
            case "quantize":
                return self._quantize(command, step, t[0])
            case "dequantize":
                bias = t[3] if len(t) > 3 else None
                return (ops.dequantize(t[0], t[1], t[2], bias, integer(attrs, "axis")),)
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
            previous = self._scales.get(command.name)
            scale = ops.dynamic_scale(max(-low, high), previous, scales[0], hysteresis)
            self._scales[command.name] = scale
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
    """

    def __init__(self, program: Program, constants: Mapping[str, Array]) -> None:
        self._golden = Golden(program, constants)
        self._pending: Iterator[tuple[int, int, Tensor]] = iter(())
        self._step = -1
        self._left = 0
        self.layers_checked = 0
        """Layer executions compared (a layer counts once per step)."""
        self.values_checked = 0
        """Command results compared."""
        self.first_difference: Difference | None = None

    @property
    def bit_identical(self) -> bool:
        """Nothing has differed, and something was compared."""
        return self.first_difference is None and self.values_checked > 0

    def expect(self, step: int, inputs: Mapping[str, Tensor]) -> None:
        """The step whose values `check` will see next."""
        if self.first_difference is not None:
            return
        if self._left:
            raise VerifyError(
                f"verify: step {step} begins, but {self._left} values of step {self._step} were never sent"
            )
        self._pending = self._golden.run(step, inputs)
        self._step = step
        self._left = sum(len(c.results) for c in self._golden.program.commands)

    def check(self, value: int, array: Array) -> bool:
        """Compares the next value in program order; False once anything has differed."""
        if self.first_difference is not None:
            return False
        if not self._left:
            raise VerifyError(f"verify: value {value} arrived, but step {self._step} expects no more values")
        index, expected_value, golden = next(self._pending)
        self._left -= 1
        command = self._golden.program.commands[index]
        where = f"step {self._step}, command {index} ({command.op} {command.name!r})"
        if value != expected_value:
            raise VerifyError(
                f"verify: {where}: value {value} arrived, value {expected_value} is next in program order"
            )
        device = as_tensor(
            array, self._golden.program.values[value], f"value {value} of {where}, from the device,"
        )
        self.values_checked += 1
        self.layers_checked += command.is_layer
        equal = device == golden
        if bool(equal.all()):
            return True
        place = tuple(int(i) for i in torch.nonzero(~equal)[0])
        self.first_difference = Difference(
            step=self._step,
            command=index,
            op=command.op,
            name=command.name,
            value=value,
            index=place,
            device=device[place].item(),
            golden=golden[place].item(),
        )
        return False
