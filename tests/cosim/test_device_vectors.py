# SPDX-License-Identifier: Apache-2.0
"""The device passes the vectors of the instruction set, command by command, and verification sees it fail."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ditto_cosim.device.execution.machine import Act, Machine
from ditto_cosim.device.kernels import slots, vector
from ditto_cosim.device.kernels.portable import PortableKernels
from ditto_cosim.host.reference.golden import Difference, Verifier
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import RequestError
from ditto_cosim.protocol.isa import DType, TensorSpec
from ditto_cosim.protocol.messages import RunSpec
from support.isa_programs import program_of

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "isa_vectors.json").read_text()
)
NUMPY: dict[DType, type[np.generic]] = {"f32": np.float32, "i8": np.int8, "i32": np.int32, "i64": np.int64}
CONSTANTS = {
    **dict.fromkeys(("conv2d", "linear", "linear_increment"), (2,)),
    **dict.fromkeys(sorted(isa.BLOCK_LAYER_OPS), (2, 3)),
}


def _array(value: dict[str, Any]) -> npt.NDArray[Any]:
    data = [float.fromhex(v) for v in value["data"]] if value["dtype"] == "f32" else value["data"]
    return np.array(data, NUMPY[value["dtype"]]).reshape(value["shape"])


def _machine(case: dict[str, Any]) -> Machine:
    op, first = case["op"], case["steps"][0]["operands"]
    attrs = {k: tuple(v) if isinstance(v, list) else v for k, v in case["attrs"].items()}
    operands = [TensorSpec(tuple(v["shape"]), v["dtype"]) for v in first]
    program = program_of(op, attrs, operands, CONSTANTS.get(op, ()))
    arrays = {name: _array(first[value]) for name, value in program.constants.items()}
    design = "sq_dm" if op in isa.BLOCK_LAYER_OPS else "ditto"
    return Machine(program, arrays, RunSpec(backend="model", chip="tiny", design=design))


@pytest.mark.parametrize("form", ["compiled", "numpy"])
@pytest.mark.parametrize("op", sorted(isa.ISA))
def test_device_passes_the_vectors(op: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "numpy":
        for unit in (slots, vector):
            monkeypatch.setattr(unit, "kernels", PortableKernels)
    for case in (c for c in CASES if c["op"] == op):
        machine = _machine(case)
        for step in case["steps"]:
            inputs = {name: _array(step["operands"][value]) for name, value in machine.program.inputs.items()}

            run = partial(
                machine.step,
                step["step"],
                inputs,
                observe="all",
                timed=True,
                on_layer=lambda _: None,
                on_value=lambda *_: None,
            )
            with np.errstate(all="ignore"):  # the vectors overflow and divide by zero on purpose
                if step.get("refused"):
                    with pytest.raises(RequestError):
                        run()
                    continue
                outputs = run().outputs.values()
            for got, expected in zip(outputs, map(_array, step["results"]), strict=True):
                assert got.dtype == expected.dtype
                assert got.shape == expected.shape
                assert np.array_equal(got, expected), (case["attrs"], got, expected)


def _spoiled(results: tuple[npt.NDArray[Any], ...]) -> tuple[npt.NDArray[Any], ...]:
    """The same with the smallest possible error in one element of the last result."""
    *others, last = results
    last = last.copy()
    element = last.reshape(-1)[-1:]
    element[:] = np.nextafter(element, np.float32(np.inf)) if last.dtype == np.float32 else element ^ 1
    return (*others, last)


@pytest.mark.parametrize("op", sorted(isa.ISA))
def test_verify_reports_an_error_planted_in_any_command(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in CASES if c["op"] == op and not c["steps"][0].get("refused"))
    machine, kept = _machine(case), op in ("keep", "recall")
    constants = {
        name: _array(case["steps"][0]["operands"][v]) for name, v in machine.program.constants.items()
    }

    def verify() -> Verifier:
        verifier = Verifier(machine.program, constants)
        for step in case["steps"][: 2 if kept else 1]:
            inputs = {name: _array(step["operands"][v]) for name, v in machine.program.inputs.items()}
            verifier.expect(step["step"], {name: torch.from_numpy(array) for name, array in inputs.items()})
            with np.errstate(all="ignore"):
                machine.step(
                    step["step"],
                    inputs,
                    observe="all",
                    timed=True,
                    on_layer=lambda _: None,
                    on_value=verifier.check,
                )
        return verifier

    honest = verify()
    assert honest.bit_identical, str(honest.first_difference)
    layer = machine._layer

    def spoiled_layer(*args: Any) -> Any:
        return _spoiled((layer(*args),))[0]

    def spoiled(act: Act) -> Act:
        make = act.make
        if make is None or act.command.op != (
            "recall" if kept else op
        ):  # what stands beside it in its program
            return act
        return act._replace(make=lambda operands, step: _spoiled(make(operands, step)))

    acts = {step_class: tuple(map(spoiled, acts)) for step_class, acts in machine.acts.items()}
    monkeypatch.setattr(machine, "acts", acts)
    monkeypatch.setattr(machine, "_layer", spoiled_layer)
    found = verify().first_difference
    assert isinstance(found, Difference)
    assert (found.op, found.name, found.step) == (("recall", "it", 1) if kept else (op, "it", 0))
    last = machine.program.values[machine.program.commands[-1].results[-1]]
    assert found.index == tuple(size - 1 for size in last.shape)
