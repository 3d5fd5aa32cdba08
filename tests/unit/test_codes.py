# SPDX-License-Identifier: Apache-2.0
"""What `ditto bench model` counts of SQ-DM: every slot and code, once for each window that meets it, and nothing else's time."""

from __future__ import annotations

import numpy as np
import pytest

from ditto_cosim.bench.codes import Products, layers_of_codes, line, ratios, take_step
from ditto_cosim.device.backends.base import Gemm, GemmResult
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host.compiler.calibrate import calibrate
from ditto_cosim.host.compiler.compiled import compile_denoiser
from ditto_cosim.protocol.messages import RunSpec
from support import relu_denoiser


def _windows(codes: np.ndarray) -> int:
    """Codes other than 0 that the windows of a 3 × 3 convolution with a border of one meet, of [batch, channels, h, w]."""
    batch, channels, height, width = codes.shape
    met = 0
    for b, c, y, x in np.ndindex(batch, channels, height, width):
        if codes[b, c, y, x]:
            rows = sum(0 <= y + dy < height for dy in (-1, 0, 1))
            met += rows * sum(0 <= x + dx < width for dx in (-1, 0, 1))
    return met


def test_codes_are_counted_once_for_every_window_that_meets_them() -> None:
    scaled = relu_denoiser.compiled()
    layers = layers_of_codes(scaled)
    assert layers == {f"blocks.{block}.conv{number}" for block in (1, 2) for number in (1, 2)}
    machine = relu_denoiser.machine_for(relu_denoiser.design())
    kept = Products(machine, layers)
    values: dict[int, np.ndarray] = {}
    inputs = {n: t.numpy() for n, t in relu_denoiser.captured()[1][0].items()}
    kept.keeping = True
    machine.step(0, inputs, observe="all", timed=True, on_layer=lambda _: None, on_value=values.__setitem__)
    of_layers = [c for c in scaled.program.layers if c.name in layers]
    met = [_windows(values[c.operands[0]]) for c in of_layers]
    columns = [values[c.results[0]].shape[1] for c in of_layers]
    assert kept.met == sum(met)
    assert kept.multiplications == sum(m * n for m, n in zip(met, columns, strict=True))
    assert kept.elements == sum(9 * values[c.operands[0]].size for c in of_layers)
    assert kept.compute() > 0
    machine.close()


def test_slots_are_counted_of_the_layers_named_alone_and_only_while_kept() -> None:
    captured, inputs = relu_denoiser.captured()
    plain = compile_denoiser(captured, calibrate(captured, inputs), steps=relu_denoiser.STEPS)
    layers = frozenset(c.name for c in plain.program.layers if c.op == "conv2d" and "blocks.1" in c.name)
    assert len(layers) >= 2
    machine = Machine(plain.program, plain.arrays, RunSpec(backend="model", chip="tiny", design="itc"))
    kept = Products(machine, layers)
    jobs: list[Gemm] = []
    inner = machine.backend.gemm

    def gemm(job: Gemm) -> GemmResult:
        jobs.append(job)
        return inner(job)

    machine.backend.gemm = gemm  # type: ignore[method-assign]  # for this test
    take_step(machine, 0, inputs[0])
    assert (kept.met, kept.multiplications) == (0, 0)
    kept.keeping = True
    jobs.clear()
    take_step(machine, 1, inputs[1])
    named = [job for job in jobs if job.name in layers]
    assert len(named) == len(layers) < len(jobs)
    slots = products = 0
    for job in named:  # original mode: two for every element
        assert job.mode == "original"
        slots += 2 * job.current.size
        products += 2 * job.current.size * job.weights.shape[2]
    assert (kept.met, kept.multiplications) == (slots, products)
    machine.close()


def test_ratios_are_of_what_was_met() -> None:
    found = ratios(
        {"slot": 2.0, "code": 3.0, "detector": 0.6}, {"slot": (1_000, 16_000), "code": (4_000, 32_000)}
    )
    assert found["code_over_slot_million"] == pytest.approx(3 / 4_000 / (2 / 1_000))
    assert found["code_over_slot_billion_multiplications"] == pytest.approx(3 / 32_000 / (2 / 16_000))
    assert found["detector_over_arrays"] == pytest.approx(0.2)
    assert found["layers_over_ditto_s"] == pytest.approx(1.8)
    said = line({"model": "some", "layers": 2, "codes_an_element": 0.4, "slots_an_element": 0.25, **found})
    assert "0.38, of a multiplication 0.75 (0.40 codes and 0.25 slots an element)" in said
