# SPDX-License-Identifier: Apache-2.0
"""Grids from histograms, weights, files of scales, compiled programs on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.quantize import (
    OBSERVERS,
    Grid,
    Histogram,
    Observer,
    QuantizationError,
    choose,
    grids_of,
    input_grid,
    load_grids,
    load_quantized,
    quantize_weight,
    save_grids,
    sqnr_db,
)
from ditto_cosim.host.reference.golden import Golden
from ditto_cosim.protocol.isa import ints
from support.make_quantized import CONFIG
from support.make_quantized import HERE as QUANTIZED


def histogram(values: npt.ArrayLike) -> Histogram:
    return Histogram.of(torch.as_tensor(values, dtype=torch.float32), "here")


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_quantize_grid_holds_what_it_saw(observer: Observer, symmetric: bool) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    grid = choose([histogram(values)], symmetric=symmetric, observer=observer)
    scale, zero = grid.scales[0], grid.zero_points[0]
    low = -127 if symmetric else -128
    q = torch.clamp(torch.round(values / scale) + zero, low, 127)
    error = ((q - zero) * scale - values).square().mean().sqrt()
    assert error < 0.03
    assert not symmetric or zero == 0


def test_quantize_mse_cuts_an_outlier_that_minmax_keeps() -> None:
    values = torch.cat(
        [torch.randn(100_000, generator=torch.Generator().manual_seed(0)), torch.tensor([80.0])]
    )
    kept = choose([histogram(values)], symmetric=True, observer="minmax").scales[0]
    cut = choose([histogram(values)], symmetric=True, observer="mse").scales[0]
    assert kept == pytest.approx(80 / 127)
    assert cut < 0.7 * kept


def test_quantize_clusters_follow_the_steps() -> None:
    growing = [histogram(torch.linspace(-1, 1, 1000) * (i + 1)) for i in range(8)]
    grid = choose(growing, symmetric=True, observer="minmax", policy="clustered", clusters=4)
    assert list(grid.scales) == sorted(grid.scales)
    assert grid.attrs(100)["bounds"] == (0, 25, 50, 75)
    assert grid.attrs(2)["bounds"] == (0, 1)
    scales = grid.attrs(1)["scales"]
    assert isinstance(scales, tuple)
    assert len(scales) == 1


def test_quantize_a_run_of_few_steps_keeps_the_cluster_that_its_steps_lie_in() -> None:
    grid = Grid("clustered", (1.0, 2.0, 4.0), (0, 0, 0), (0.0, 0.5, 2 / 3))
    chosen = {steps: (grid.attrs(steps)["scales"], grid.attrs(steps).get("bounds")) for steps in (1, 2, 3, 6)}
    assert chosen[1][0] == (1.0,)
    assert chosen[2] == ((1.0, 2.0), (0, 1))
    assert chosen[3] == ((1.0, 4.0), (0, 2))
    assert chosen[6] == ((1.0, 2.0, 4.0), (0, 3, 4))


@given(st.integers(1, 60), st.lists(st.floats(0, 0.99), min_size=1, max_size=6))
def test_quantize_bounds_always_rise_from_zero(steps: int, starts: list[float]) -> None:
    begins = (0.0, *sorted(starts))
    grid = Grid("clustered", (1.0,) * len(begins), (0,) * len(begins), begins)
    bounds = ints(grid.attrs(steps), "bounds")
    assert bounds[0] == 0
    assert list(bounds) == sorted(set(bounds))
    assert max(bounds) < steps


def test_quantize_weights_per_channel_and_all_zero_channels() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -0.5], [0.001, 0.0005]])
    q, scale = quantize_weight(weight)
    assert q.tolist() == [[0, 0], [127, -64], [127, 64]]
    assert torch.isfinite(scale).all()
    with pytest.raises(QuantizationError, match="NaN"):
        quantize_weight(torch.tensor([[float("nan")]]))


def test_quantized_checkpoints_keep_their_integers(tmp_path: Path) -> None:
    """Channels that do not use all of int8, which a fresh choice of scales would stretch."""
    rng = np.random.default_rng(4)
    integers = {"0.weight": rng.integers(-90, 90, (6, 4)), "2.weight": rng.integers(-50, 50, (3, 6))}
    state = {name: torch.from_numpy(q.astype(np.int8)) for name, q in integers.items()}
    scales = {"0.weight_scale": torch.rand(6, 1) + 0.01, "2.weight_scale": torch.rand(3, 1) + 0.01}
    biases = {"0.bias": torch.rand(6), "2.bias": torch.rand(3)}
    path = tmp_path / "quantized.safetensors"
    save_file({**state, **scales, **biases}, path)
    module = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 3)).eval()
    inputs = {"input": torch.randn(2, 4)}
    captured = capture(load_quantized(module, path), inputs)
    calibrator = Calibrator(captured)
    calibrator.observe(inputs)
    compiled = compile_denoiser(captured, calibrator.grids())
    for name, q in integers.items():
        np.testing.assert_array_equal(compiled.arrays[name], q)
        given = scales[f"{name}_scale"].flatten().numpy()
        np.testing.assert_array_equal(compiled.arrays[f"{name}_scale"], given)

    first: Any = module[0]
    first.weight_scale *= 0.5
    with pytest.raises(QuantizationError, match="0: weights leave −128…127 times"):
        compile_denoiser(capture(module, inputs), calibrator.grids())
    first.weight_scale[2] = 0
    with pytest.raises(QuantizationError, match=r"0: weight_scale has shape .* 6 positive numbers"):
        compile_denoiser(capture(module, inputs), calibrator.grids())
    save_file({**state, **biases, "0.weight_scale": torch.rand(5)}, path)
    with pytest.raises(QuantizationError, match=r"0.weight_scale needs int8 0.weight with 5"):
        load_quantized(module, path)
    with pytest.raises(QuantizationError, match="no such file"):
        load_quantized(module, tmp_path / "absent")


def test_quantize_calibration_names_the_point_that_met_nan() -> None:
    calibrator = Calibrator(capture(nn.Sequential(nn.Linear(4, 4)).eval(), {"input": torch.randn(2, 4)}))
    with pytest.raises(QuantizationError, match="0:x"):
        calibrator.observe({"input": torch.full((2, 4), float("inf"))})


def test_quantize_files_of_scales_come_back_and_are_checked(tmp_path: Path) -> None:
    grids = {
        "a:x": Grid("static", (0.25,), (-3,)),
        "b:a": Grid("dynamic", (1.0,), (0,), symmetric=True, hysteresis=1.5),
    }
    path = tmp_path / "scales.json"
    save_grids(grids, path)
    assert load_grids(path) == grids
    for text, words in [
        ('{"a:x": {"policy": "static", "scales": [0.0], "zero_points": [0], "symmetric": true}}', "a:x"),
        ("[]", "scales"),
        ("no json", "scales"),
        ("", "not a file of scales .no JSON"),
        ("{}", "holds no scale"),
        (
            '{"a:x": {"policy": "static", "scales": [1.0], "zero_points": [3.7], "symmetric": true}}',
            "zero point 3.7",
        ),
        (
            '{"a:x": {"policy": "static", "scales": [1.0], "zero_points": [300], "symmetric": true}}',
            "a:x has zero",
        ),
        (
            '{"a:x": {"policy": "often", "scales": [1.0], "zero_points": [0], "symmetric": true}}',
            "policy 'often'",
        ),
        (
            '{"a:x": {"policy": "static", "scales": [1, 2], "zero_points": [0], "symmetric": true}}',
            "a:x has 2 scales",
        ),
    ]:
        path.write_text(text)
        with pytest.raises(QuantizationError, match=words):
            load_grids(path)
    with pytest.raises(QuantizationError, match=r"absent\.json: no such file of scales; `ditto calibrate"):
        load_grids(tmp_path / "absent.json")


def test_compiled_programs_survive_the_disk(tmp_path: Path) -> None:
    captured = capture(nn.Sequential(nn.Linear(4, 4)).eval(), {"input": torch.randn(2, 4)})
    calibrator = Calibrator(captured)
    calibrator.observe({"input": torch.randn(2, 4)})
    compiled = compile_denoiser(captured, calibrator.grids())
    compiled.save(tmp_path / "c.safetensors")
    again = Compiled.load(tmp_path / "c.safetensors")
    assert again.program.digest == compiled.program.digest
    assert again.grids == compiled.grids
    for name, array in compiled.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    content = (tmp_path / "c.safetensors").read_bytes()
    for at in range(0, len(content), 61):
        (tmp_path / "flipped").write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(QuantizationError, match=r"flipped: (damaged|not a compiled denoiser)"):
            Compiled.load(tmp_path / "flipped")
    (tmp_path / "bad").write_bytes(b"rubbish")
    with pytest.raises(QuantizationError, match="not a compiled denoiser"):
        Compiled.load(tmp_path / "bad")
    with pytest.raises(QuantizationError, match="no such file"):
        Compiled.load(tmp_path / "absent")


def test_quantize_overrides_of_unknown_layers_are_refused_with_near_names() -> None:
    calibrator = Calibrator(capture(nn.Sequential(nn.Linear(4, 4)).eval(), {"input": torch.randn(2, 4)}))
    calibrator.observe({"input": torch.randn(2, 4)})
    with pytest.raises(
        QuantizationError, match=r"no quantization point 1:x; the denoiser has 1, such as 0:x"
    ):
        calibrator.grids(overrides={"1:x": Grid("static", (1.0,), (0,))})


def test_quantize_auto_gives_steps_that_need_it_a_grid_of_their_own() -> None:
    alike = [histogram(torch.linspace(-1, 1, 1000) * (1 + 0.1 * i)) for i in range(8)]
    assert choose(alike, symmetric=True).policy == "static"
    exploding = [
        histogram(torch.linspace(-1, 1, 1000) * scale) for scale in (1, 1.1, 90, 100, 100, 110, 100, 90)
    ]
    grid = choose(exploding, symmetric=True)
    assert grid.policy == "clustered"
    assert grid.starts == (0.0, 0.25)
    assert min(sqnr_db(h, grid, int(i >= 2)) for i, h in enumerate(exploding)) > 30


class Outliers(nn.Module):
    """A linear layer and a convolution whose inputs have a few channels far above the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(64, 48), nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, rows: int, picture: Any) -> Any:
        return self.linear(rows), self.conv(torch.nn.functional.silu(picture))


@pytest.mark.parametrize("policy", ["auto", "static"])
def test_quantize_outlier_channels_keep_their_decibels(policy: Any) -> None:
    torch.manual_seed(0)
    module = Outliers().eval()
    boost = torch.ones(64)
    boost[[3, 17]] = 60.0
    inputs = {
        "rows": torch.randn(40, 64) * boost,
        "picture": torch.randn(2, 32, 8, 8) * boost[:32, None, None],
    }
    with torch.no_grad():
        module.linear.weight[:, [3, 17]] /= 20
        module.conv.weight[:, [3, 17]] /= 20
        live = module(**inputs)
    calibrator = Calibrator(capture(module, inputs))
    calibrator.observe_all(inputs)
    grids = calibrator.grids(policy=policy)
    compiled = compile_denoiser(calibrator.captured, grids)
    outputs = Golden(compiled.program, compiled.constants).step(0, inputs)
    found = [
        10 * torch.log10(a.square().sum() / (a - outputs[name]).square().sum())
        for a, name in zip(live, ("0", "1"), strict=True)
    ]
    if policy == "static":
        assert max(found) < 32
    else:
        assert min(found) > 38
        assert all(grids[point].channels for point in ("linear:x", "conv:x"))
        assert grids_of(json.loads(json.dumps({n: asdict(g) for n, g in grids.items()}))) == grids


def test_quantized_checkpoints_bring_the_grids_of_their_inputs(tmp_path: Path) -> None:
    """As modelopt exports SmoothQuant: one scale for all weights, a scale and zero point for the input, factors of channels."""
    rng = np.random.default_rng(4)
    integers = rng.integers(-90, 90, (6, 4)).astype(np.int8)
    pre = torch.tensor([0.5, 1.0, 2.0, 0.25])
    state = {
        "0.weight": torch.from_numpy(integers),
        "0.bias": torch.zeros(6),
        "0.weight_scale": torch.tensor(0.02),
        "0.weight_zero_point": torch.zeros(6, dtype=torch.int8),
        "0.input_scale": torch.tensor([0.03]),
        "0.input_zero_point": torch.tensor([-7], dtype=torch.int8),
        "0.pre_quant_scale": pre,
    }
    save_file(state, tmp_path / "model.safetensors")
    module = load_quantized(nn.Sequential(nn.Linear(4, 6)).eval(), tmp_path)
    inputs = {"input": torch.randn(5, 4)}
    calibrator = Calibrator(capture(module, inputs))
    calibrator.observe(inputs)
    compiled = compile_denoiser(calibrator.captured, calibrator.grids())
    np.testing.assert_array_equal(compiled.arrays["0.weight"], integers)
    got = Golden(compiled.program, compiled.constants).step(0, inputs)["sample"]
    q = torch.clamp(torch.round(inputs["input"] * pre / 0.03) - 7, -128, 127) + 7
    torch.testing.assert_close(got, q @ torch.from_numpy(integers).float().T * 0.03 * 0.02)

    for name, value, words in [
        ("0.weight_zero_point", torch.ones(6), "must be symmetric"),
        ("0.input_scale", torch.ones(4), "one scale a tensor"),
        ("0.pre_quant_scale", torch.ones(3), "needs 4 positive numbers"),
    ]:
        save_file({**state, name: value}, tmp_path / "model.safetensors")
        with pytest.raises(QuantizationError, match=words):
            load_quantized(nn.Sequential(nn.Linear(4, 6)), tmp_path)
    save_file({"0.weight": torch.zeros(6, 4), "0.bias": torch.zeros(6)}, tmp_path / "model.safetensors")
    with pytest.raises(QuantizationError, match="holds no weight_scale"):
        load_quantized(nn.Sequential(nn.Linear(4, 6)), tmp_path)


@pytest.mark.parametrize("name", ["torchao-dynamic", "torchao-static", "modelopt", "modelopt-smooth"])
def test_quantized_checkpoints_of_other_libraries_compute_what_those_compute(name: str) -> None:
    """Real exports (`support/make_quantized.py`): the integers are kept, and the answer is the library's own."""
    from diffusers import DiTTransformer2DModel

    answers = load_file(QUANTIZED / "answers.safetensors")
    exported = load_file(QUANTIZED / f"{name}.safetensors")
    module = DiTTransformer2DModel(**CONFIG).eval()
    module.load_state_dict({k[8:]: v for k, v in answers.items() if k.startswith("weights.")})
    load_quantized(module, QUANTIZED / f"{name}.safetensors")
    inputs = {
        "hidden_states": answers["sample"],
        "timestep": answers["timestep"],
        "class_labels": answers["labels"],
    }
    calibrator = Calibrator(capture(module, inputs, extra={"return_dict": False}))
    calibrator.observe(inputs)
    compiled = compile_denoiser(calibrator.captured, calibrator.grids())
    part = "._weight_qdata" if name.startswith("torchao") else ".weight"
    layers = [k.removesuffix(part) for k, v in exported.items() if k.endswith(part) and v.dtype == torch.int8]
    assert len(layers) == 11
    for layer in layers:
        np.testing.assert_array_equal(compiled.arrays[f"{layer}.weight"], exported[layer + part])
        given = exported.get(f"{layer}.{'_weight_act_quant_scale' if part != '.weight' else 'input_scale'}")
        if given is not None:
            grid = input_grid(module.get_submodule(layer))
            assert grid is not None
            assert grid.scales == pytest.approx((float(given),))
    (got,) = Golden(compiled.program, compiled.constants).step(0, inputs).values()
    wanted = answers[name]
    error = torch.square(got - wanted).sum() / torch.square(wanted).sum()
    assert -10 * torch.log10(error) > 30
