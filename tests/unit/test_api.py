# SPDX-License-Identifier: Apache-2.0
"""The Python API: examples in its docstrings, names at call time, what a generation shows, single layers."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ditto_cosim
from ditto_cosim import api
from ditto_cosim.device.backends.base import Gemm
from ditto_cosim.device.backends.model import ModelBackend
from ditto_cosim.device.chips import load_chip
from ditto_cosim.host.report.columns import COLUMNS
from ditto_cosim.host.report.model import ReportError
from ditto_cosim.protocol.errors import BackendError, DittoError, TensorError
from ditto_cosim.protocol.isa import BLOCK_LAYER_OPS
from ditto_cosim.protocol.suggest import did_you_mean
from ditto_cosim.shown import NotRecordedError, ShownGeneration
from support.relu_denoiser import ReluDenoiser


@pytest.mark.parametrize("name", ["accelerate", "accelerated", "connect"])
def test_api_examples_in_docstrings_hold(name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    found = finder.find(getattr(api, name), name, module=api)
    assert sum(len(test.examples) for test in found) > 3
    for test in found:
        said: list[str] = []
        assert runner.run(test, out=said.append).failed == 0, "".join(said)


def test_api_version_is_the_package_s() -> None:
    assert ditto_cosim.__version__ == metadata.version("ditto-cosim")


def test_api_every_public_name_is_there_and_a_typo_is_answered() -> None:
    assert all(getattr(ditto_cosim, name) is not None for name in ditto_cosim.__all__)
    with pytest.raises(AttributeError, match="did you mean 'accelerate'"):
        ditto_cosim.acelerate  # noqa: B018  # the access is the test


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend": "modell"}, "did you mean 'model'"),
        ({"design": "dito"}, "did you mean 'ditto'"),
        ({"chip": "paper_twn"}, "did you mean 'paper_twin'"),
        ({"observer": "foo"}, "known: minmax, percentile, mse"),
        ({"policy": "dynamc"}, "did you mean 'dynamic'"),
        ({"cross_check": "mdel"}, "did you mean 'model'"),
    ],
)
def test_accelerate_refuses_a_name_before_anything_is_changed(options: Any, says: str) -> None:
    module = torch.nn.Linear(4, 2)
    with pytest.raises(DittoError, match=says):
        api.accelerate(module, **options)
    assert type(module) is torch.nn.Linear


def test_suggest_reads_dashes_and_case_alike() -> None:
    assert did_you_mean("Paper-Twin", ["paper_twin", "tiny"]) == " (did you mean 'paper_twin'?)"
    assert did_you_mean("zzz", ["paper_twin", "tiny"]) == ""


# --- a generation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShownGeneration]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.SiLU(), torch.nn.Linear(16, 8)).eval()
    x = torch.randn(4, 32)
    where = tmp_path_factory.mktemp("run")
    with api.accelerated(
        module, backend="model", chip="tiny", calibration={"input": x}, verify=True, directory=where
    ) as fast:
        denoiser: Any = fast
        for step in range(3):
            fast(x + 0.01 * step)
        assert denoiser.generation.steps == 3
        yield denoiser.finish()
        assert denoiser.finish() is denoiser.generation


def test_generation_says_itself_in_a_line_and_as_a_table(generation: ShownGeneration) -> None:
    assert repr(generation).startswith("<generation: 3 steps of ditto on tiny (model), ")
    assert f"{generation.cycles:,} cycles" in repr(generation)
    assert "bit-identical" in generation._repr_html_()
    assert generation.verdict is not None
    assert generation.verdict.bit_identical


def test_generation_layers_are_the_reports_as_a_frame(generation: ShownGeneration) -> None:
    frame = generation.layers
    assert frame.columns == [c.name for c in COLUMNS]
    assert len(frame) == len(generation.reports) == 6
    assert frame["cycles"].sum() == sum(r.cycles for r in generation.reports)
    assert frame["dram_weights_bytes"].sum() == sum(r.traffic_bytes["weights"] for r in generation.reports)
    with pytest.raises(ReportError, match="run at least one step first"):
        _ = ShownGeneration().layers


def test_api_design_with_arrays_takes_block_scaled_layers() -> None:
    """Asked for SQ-DM, nobody gets 8-bit layers priced as if they were its own."""
    x = torch.randn(1, 3, 8, 8)
    with api.accelerated(
        ReluDenoiser().eval(), backend="model", chip="tiny", design="sq_dm", calibration={"sample": x}
    ) as denoiser:
        denoiser(x)
        program = denoiser.program_of(x).program
        assert any(c.op in BLOCK_LAYER_OPS for c in program.layers)
        assert {r.name for r in denoiser.generation.reports} == {c.name for c in program.layers}


def test_generation_energy_is_the_record_s_price(generation: ShownGeneration, tmp_path: Path) -> None:
    energy = generation.energy
    assert set(energy) == {"compute", "encode", "vector", "defo", "sram", "dram", "lane_memory", "leakage"}
    traffic = sum(sum(r.traffic_bytes.values()) for r in generation.reports)
    moved = energy["dram"] / (8 * 3.9)  # HBM2: 3.9 pJ a bit
    assert moved == pytest.approx(round(moved))
    assert moved >= traffic > 0  # commands between layers move bytes too
    page = generation.report(tmp_path / "page")
    assert page.read_text(encoding="utf-8").count("<") > 100


def test_generation_without_a_record_says_what_is_missing() -> None:
    with pytest.raises(NotRecordedError, match="directory='runs/mine'"):
        _ = ShownGeneration().energy
    with pytest.raises(NotRecordedError, match="report"):
        ShownGeneration().report()


def test_progress_counts_layers_and_passes_on_what_it_sees(capsys: pytest.CaptureFixture[str]) -> None:
    module, x = torch.nn.Linear(8, 4).eval(), torch.ones(1, 8)
    seen: list[Any] = []
    with api.accelerated(
        module, backend="model", chip="tiny", calibration={"input": x}, progress=True, on_layer=seen.append
    ) as fast:
        fast(x)
    assert len(seen) == 1
    assert "cycles" in capsys.readouterr().err


# --- single layers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> Iterator[ditto_cosim.Device]:
    with ditto_cosim.connect(backend="model", chip="tiny") as made:
        yield made


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


@pytest.mark.parametrize("mode", ["original", "spatial", "temporal"])
def test_linear_alone_is_the_product_in_every_mode(device: ditto_cosim.Device, mode: Any) -> None:
    x, w = drawn(2, 5, 48), drawn(7, 48, seed=1)
    before = {"previous": drawn(2, 5, 48, seed=2)} if mode == "temporal" else {"mode": mode}
    out, report = device.linear(x, w, zero_point=-3, **before)
    assert report.mode == mode
    assert report.cycles > 0
    np.testing.assert_array_equal(out, (x.astype(np.int64) + 3) @ w.T.astype(np.int64))


def test_linear_slots_are_those_of_the_difference(device: ditto_cosim.Device) -> None:
    x, before = drawn(3, 40), drawn(3, 40, seed=1)
    _, report = device.linear(x, drawn(4, 40, seed=2), previous=before)
    d = x.astype(int) - before
    low = (d >= -8) & (d <= 7) & (d != 0)
    assert (report.zero, report.low) == ((d == 0).sum(), low.sum())
    assert report.slots == low.sum() + 2 * ((d < -8) | (d > 7)).sum()


@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_alone_is_torch_s(device: ditto_cosim.Device, groups: int) -> None:
    x, w = drawn(2, 4, 9, 8), drawn(6, 4 // groups, 3, 3, seed=1)
    how: dict[str, Any] = {"stride": 2, "padding": 1, "groups": groups}
    expected = torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(w).double(), **how)
    out, report = device.conv2d(x, w, previous=drawn(2, 4, 9, 8, seed=3), **how)
    np.testing.assert_array_equal(out, expected.numpy())
    assert report.mode == "temporal"


def test_attention_alone_is_the_product_of_two_activations(device: ditto_cosim.Device) -> None:
    a, b = drawn(2, 6, 24), drawn(2, 24, 5, seed=1)
    out, report = device.attention(a, b, previous=(drawn(2, 6, 24, seed=2), drawn(2, 24, 5, seed=3)))
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))
    assert report.mode == "temporal"


def test_layers_alone_take_torch_s_tensors_and_agree_with_a_backend(device: ditto_cosim.Device) -> None:
    x, w = drawn(4, 16), drawn(8, 16, seed=1)
    out, _ = device.linear(torch.from_numpy(x), torch.from_numpy(w))
    job = Gemm("alone", x[None], 0, np.ascontiguousarray(w.T[None]), "original")
    np.testing.assert_array_equal(out, ModelBackend(load_chip("tiny")).gemm(job).accumulators[0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda d: d.linear(np.zeros((2, 4)), drawn(3, 4)), "x is float64.*give int8"),
        (lambda d: d.linear(drawn(2, 4), drawn(3, 5)), r"do not fit; expected x\[…, K\]"),
        (lambda d: d.linear(drawn(2, 4), drawn(3, 4), previous=drawn(1, 4)), "differ element by element"),
        (lambda d: d.linear(drawn(2, 4), drawn(3, 4), zero_point=200), "outside −128…127"),
        (lambda d: d.linear(drawn(2, 4), drawn(3, 4), mode="temporal"), "give previous"),
        (lambda d: d.linear(drawn(2, 4), drawn(3, 4), mode="tempral"), "did you mean 'temporal'"),
        (lambda d: d.linear(drawn(0, 4), drawn(3, 4)), "is empty"),
        (lambda d: d.linear(drawn(1, 70_000), drawn(1, 70_000)), "may leave 32 bits"),
        (lambda d: d.conv2d(drawn(1, 3, 2, 2), drawn(4, 3, 3, 3)), "does not fit into"),
        (lambda d: d.attention(drawn(2, 3), drawn(3, 4)), r"expected a\[heads, M, K\]"),
    ],
)
def test_layers_alone_refuse_operands_by_a_sentence(device: ditto_cosim.Device, call: Any, says: str) -> None:
    with pytest.raises(TensorError, match=says):
        call(device)
    out, _ = device.linear(drawn(1, 4), drawn(1, 4))
    assert out.shape == (1, 1)


def test_connect_refuses_a_backend_before_a_device_starts() -> None:
    with pytest.raises(BackendError, match="did you mean 'rtl'"):
        ditto_cosim.connect(backend="rtll")
