# SPDX-License-Identifier: Apache-2.0
"""A case of the instruction set (`isa_cases.py`) as a program that a device, or golden, can run step by step.

Its operands are inputs, `x0` …, but for those that `constants` names; its results are outputs, `y0` …. `keep` and `recall`
share a program of period 3: full steps keep the input and give it, increments recall.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ditto_cosim.protocol import isa
from ditto_cosim.protocol.isa import Attr, TensorSpec
from ditto_cosim.protocol.program import Command, Program
from support.isa_cases import PERIOD


def program_of(
    op: str, attrs: Mapping[str, Attr], operands: Sequence[TensorSpec], constants: Collection[int] = ()
) -> Program:
    """`constants`: which operands are weights, held once a run."""
    if op in ("keep", "recall"):
        return _kept(operands[0])
    results = isa.infer(op, operands, attrs)
    ids = tuple(range(len(operands) + len(results)))
    count = len(operands)
    return Program(
        values=(*operands, *results),
        inputs={f"x{i}": i for i in ids[:count] if i not in constants},
        static_inputs=frozenset(),
        constants={f"w{i}": i for i in constants},
        outputs={f"y{i}": i for i in ids[count:]},
        commands=(Command(op, "it", ids[:count], ids[count:], attrs),),
    )


def _kept(spec: TensorSpec) -> Program:
    slot: dict[str, Attr] = {"slot": "it"}
    return Program(
        values=(spec, spec),
        inputs={"x0": 0},
        static_inputs=frozenset(),
        constants={},
        outputs={"y0": 1},
        commands=(
            Command("keep", "keep", (0,), (), slot, "full"),
            Command("reshape", "as it is", (0,), (1,), {"shape": spec.shape}, "full"),
            Command(
                "recall", "it", (), (1,), {**slot, "shape": spec.shape, "dtype": spec.dtype}, "increment"
            ),
        ),
        period=PERIOD,
    )
