# SPDX-License-Identifier: Apache-2.0
"""Block-scaled layers whose products run through the arrays in RTL: three readings of every value, and tags that move no bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ditto_cosim.device.backends.hetero import HeteroTile
from ditto_cosim.device.backends.model import ModelBackend
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.timing.hetero import LiveTags
from ditto_cosim.device.timing.result_port import beats_of
from ditto_cosim.host.compiler.calibrate import calibrate
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.plan import draft
from ditto_cosim.host.reference.golden import TORCH_DTYPES, Golden
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.hardware import GEOMETRIES
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.program import Program
from ditto_cosim.sim_harness.build import BuildOptions
from support.isa_scalar import Value, execute
from support.relu_denoiser import Block, design, run

Cycles = list[tuple[int | None, int | None]]


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cycles]:
    """From here on `model` computes 4-bit products in RTL, and no detector in RTL stands in the way of wrong tags; the cycles
    that were measured of each product, dense and sparse."""
    tile, measured = HeteroTile(GEOMETRIES["tiny"], 4, BuildOptions(optimize=False)), Cycles()

    def block_gemm(self: ModelBackend, *operands: Any) -> Any:
        made = tile.block_gemm(*operands)
        measured.append((made.dense_cycles, made.sparse_cycles))
        return made

    monkeypatch.setattr(ModelBackend, "block_gemm", block_gemm)
    yield measured
    tile.close()


# --- three readings -----------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Three residual blocks of 16 channels, of which the plan puts one at 4 bits: plain Python computes it whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 2, 3, padding=1)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv_out(functional.relu(self.blocks(self.conv_in(sample))))
        return out


def _small() -> tuple[Compiled, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(4)
    module = Small().eval()
    inputs = [{"sample": torch.randn(1, 2, 4, 4)} for _ in range(2)]
    model = capture(module, inputs[0])
    return compile_denoiser(model, calibrate(model, inputs), formats=draft(model, 16)), inputs


def _in_plain_python(
    program: Program, constants: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor], step: int
) -> dict[int, Value]:
    """Every value of a step, number by number."""
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    values = {
        value: Value(tuple(t.shape), names[t.dtype], t.flatten().tolist())
        for group, tensors in ((program.inputs, inputs), (program.constants, constants))
        for name, value in group.items()
        for t in (tensors[name],)
    }
    for command in program.commands:
        found = execute(command.op, [values[v] for v in command.operands], command.attrs, step)
        values |= dict(zip(command.results, found, strict=True))
    return values


def test_arrays_in_rtl_golden_and_plain_python_agree_on_every_value_of_every_step(arrays: Cycles) -> None:
    small, inputs = _small()
    program = small.program
    assert [c.attrs.get("format") for c in program.layers].count("uint4") == 2
    golden = Golden(program, small.constants)
    machine = Machine(program, small.arrays, RunSpec(backend="model", chip="tiny", design="sq_dm"))
    made = sum(len(c.results) for c in program.commands)
    for step, given in enumerate(inputs):
        by_device: dict[int, np.ndarray] = {}
        by_golden: dict[int, torch.Tensor] = {}
        machine.step(
            step,
            {n: t.numpy() for n, t in given.items()},
            observe="all",
            timed=True,
            on_layer=lambda _: None,
            on_value=by_device.__setitem__,
        )
        golden.step(step, given, by_golden.__setitem__)
        by_hand = _in_plain_python(program, small.constants, given, step)
        assert len(by_device) == len(by_golden) == made
        for value, right in by_golden.items():
            assert by_device[value].flatten().tolist() == right.flatten().tolist() == by_hand[value].data
    assert len(arrays) == 2 * len(inputs)
    assert all(dense and sparse for dense, sparse in arrays), "both arrays were at work"
    machine.close()


# --- tags ---------------------------------------------------------------------------------------------------------------


def test_flipping_every_tag_leaves_the_picture_and_changes_the_cycles(
    arrays: Cycles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the arrays: what every tag sent to one of them now goes through the other."""
    as_tagged, measured = run(design(), steps=2), list(arrays)
    arrays.clear()
    honest = LiveTags.of_step
    monkeypatch.setattr(LiveTags, "of_step", lambda self, *seen: ~honest(self, *seen))
    flipped = run(design(), steps=2)
    for mine, theirs in zip(as_tagged.values, flipped.values, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[v], theirs[v]) for v in mine)
    assert len(measured) == len(arrays) == 8
    assert all(here != there for here, there in zip(measured, arrays, strict=True))
    assert as_tagged.cycles != flipped.cycles


def test_arrays_that_break_their_contract_end_the_run(
    arrays: Cycles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The books hold every pass to it, beside the values."""
    monkeypatch.setattr(
        "ditto_cosim.device.backends.hetero.beats_of", lambda counts, beat: beats_of(counts, beat) + 1
    )
    with pytest.raises(BackendError, match="the cycle contract says"):
        run(design(), steps=1)
    assert arrays
