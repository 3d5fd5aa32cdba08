# SPDX-License-Identifier: Apache-2.0
"""The committed vectors of the instruction set are what their script writes, and golden passes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ditto_cosim.host.reference.golden import TORCH_DTYPES, Golden
from ditto_cosim.protocol import isa
from ditto_cosim.protocol.errors import GridError, NonFiniteError
from ditto_cosim.protocol.isa import TensorSpec
from support import isa_vectors
from support.isa_programs import program_of

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "isa_vectors.json").read_text())


def _spec(value: dict[str, Any]) -> TensorSpec:
    return TensorSpec(tuple(value["shape"]), value["dtype"])


def _tensor(value: dict[str, Any]) -> torch.Tensor:
    data = [float.fromhex(v) for v in value["data"]] if value["dtype"] == "f32" else value["data"]
    return torch.tensor(data, dtype=TORCH_DTYPES[value["dtype"]]).reshape(value["shape"])


def test_vectors_are_what_their_script_writes() -> None:
    assert (HERE / "isa_vectors.json").read_text() == isa_vectors.text()


def test_vectors_cover_every_command() -> None:
    assert {case["op"] for case in CASES} == set(isa.ISA)


@pytest.mark.parametrize("op", sorted(isa.ISA))
def test_golden_passes_the_vectors(op: str) -> None:
    for case in (c for c in CASES if c["op"] == op):
        attrs = {k: tuple(v) if isinstance(v, list) else v for k, v in case["attrs"].items()}
        operands = [_spec(v) for v in case["steps"][0]["operands"]]
        program = program_of(op, attrs, operands)
        golden = Golden(program, {})
        for step in case["steps"]:
            inputs = {f"x{i}": _tensor(v) for i, v in enumerate(step["operands"])}
            if step.get("refused"):
                with pytest.raises((NonFiniteError, GridError)):
                    golden.step(step["step"], inputs)
                continue
            outputs = golden.step(step["step"], inputs).values()
            for got, expected in zip(outputs, step["results"], strict=True):
                assert torch.equal(got, _tensor(expected)), (op, attrs)
