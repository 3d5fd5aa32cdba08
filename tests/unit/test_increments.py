# SPDX-License-Identifier: Apache-2.0
"""Increment-calibrated caching: what must hold of factors, programs and state, layer by layer.

The numbers in the names are those of the acceptance tests that its specification asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.pricing.recorded import RecordColumns, price_run
from ditto_cosim.device.timing.traffic import groups, mode_bytes
from ditto_cosim.host.analysis.increments import increments
from ditto_cosim.host.analysis.replay import AnalysisError, analyze_run
from ditto_cosim.host.compiler.cache import Cache, CacheError, CachePlan, places, plan_of
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.compiler.factors import RUN_FACTORS, Factors, FactorsError, LayerFactors, weight_digest
from ditto_cosim.host.compiler.lowrank import Magnitudes, factorize
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError
from ditto_cosim.host.pipeline.accelerate import accelerate
from ditto_cosim.host.pipeline.factor import factor_denoiser, factor_pairs
from ditto_cosim.host.pipeline.factor_data import data_calls
from ditto_cosim.host.pipeline.models import ModelError, load_model
from ditto_cosim.host.pipeline.run import INPUTS
from ditto_cosim.host.reference.golden import Golden
from ditto_cosim.protocol.errors import GridError, IsaError
from ditto_cosim.protocol.messages import LayerReport, RunSpec
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import RunInfo, RunWriter, StepRecord
from ditto_cosim.recapture import recapture
from ditto_cosim.study.icc import PLACES, slots_by_lag
from support.families import CACHED, PERIOD, RANK, build, calibrated, compiled

Inputs = dict[str, Tensor]
K_MAX = load_chip("tiny").geometry.k_max


def dit() -> nn.Module:
    torch.manual_seed(0)
    return build("dit")


def trajectory(count: int = 7, spread: float = 0.05) -> list[Inputs]:
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(2, 4, 8, 8, generator=generator)
    return [
        {
            "hidden_states": start + spread * i * torch.randn(start.shape, generator=generator),
            "timestep": torch.full((2,), 900 - 20 * i),
            "class_labels": torch.tensor([1, 2]),
        }
        for i in range(count)
    ]


def caller(module: nn.Module, steps: list[Inputs]) -> Callable[[], None]:
    def call() -> None:
        for inputs in steps:
            module(**inputs)

    return call


def factors(method: str = "cd", rank: int = RANK) -> tuple[nn.Module, Factors]:
    module = dit()
    found = factor_denoiser(caller(module, trajectory()), module, method, rank, longest_period=PERIOD)
    return module, found


def on_golden(program: Compiled, steps: list[Inputs]) -> list[Tensor]:
    golden = Golden(program.program, program.constants)
    return [next(iter(golden.step(i, inputs).values())) for i, inputs in enumerate(steps)]


def on_device(
    program: Compiled, steps: list[Inputs], see: Callable[[Machine, int], None] = lambda machine, step: None
) -> tuple[list[Any], list[LayerReport]]:
    machine = Machine(program.program, program.arrays, RunSpec(backend="model", chip="tiny", design="ditto"))
    reports: list[LayerReport] = []
    outputs = []
    for i, inputs in enumerate(steps):
        result = machine.step(
            i,
            {n: t.numpy() for n, t in inputs.items()},
            observe="none",
            timed=True,
            on_layer=reports.append,
            on_value=lambda *_: None,
        )
        outputs.append(next(iter(result.outputs.values())))
        see(machine, i)
    machine.close()
    return outputs, reports


# --- 6.1 exactness ------------------------------------------------------------------------------------------------------


def test_increments_1_a_period_of_one_is_the_program_without_a_cache() -> None:
    calibrator = calibrated("dit")[0]
    module, found = factors()
    plan = plan_of(Cache("icc", 1), module, found)
    cached = compile_denoiser(calibrator.captured, calibrator.grids(policy="static"), steps=4, plan=plan)
    assert cached.program.digest == compiled("dit").program.digest


def test_increments_3_nothing_changed_gives_the_full_step_again_without_a_slot() -> None:
    steps = trajectory(1) * 3
    outputs, reports = on_device(compiled("dit-icc"), steps)
    np.testing.assert_array_equal(outputs[1], outputs[0])
    np.testing.assert_array_equal(outputs[2], outputs[0])
    slots = {r.slots for r in reports if r.op == "linear_increment"}
    assert slots == {0}


def test_increments_4_between_full_steps_what_is_kept_is_only_read() -> None:
    seen: list[str] = []

    def digest(machine: Machine, step: int) -> None:
        found = hashlib.sha256()
        for slot, array in sorted(machine.kept.items()):
            found.update(slot.encode() + np.ascontiguousarray(array).tobytes())
        seen.append(found.hexdigest())

    on_device(compiled("dit-icc"), trajectory(), digest)
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4] == seen[5] != seen[6]


def test_increments_4_a_full_step_takes_differences_to_the_full_step_before() -> None:
    """Temporal mode, three steps after the anchor, gives the bits of original mode."""
    steps = trajectory()
    outputs, reports = on_device(compiled("dit-icc"), steps)
    corrected = {r.mode for r in reports if r.step == 3 and r.name.endswith("attn1.to_q")}
    assert corrected == {"temporal"}
    for step in (0, 3, 6):
        alone = on_golden(compiled("dit"), [steps[step]])[0]
        np.testing.assert_array_equal(outputs[step], alone.numpy())


class OneLayer(nn.Module):
    """A transformer block's last layer, alone, already on integers."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__()
        self.ff = nn.Module()
        last = nn.Linear(weight.shape[1], weight.shape[0])
        last.weight = nn.Parameter(weight * scale, requires_grad=False)
        last.bias = nn.Parameter(torch.arange(weight.shape[0]) / 8, requires_grad=False)
        last.register_buffer("weight_scale", torch.full((weight.shape[0],), scale))
        self.ff.net = nn.ModuleList([nn.Identity(), nn.Identity(), last])

    def forward(self, sample: Tensor) -> Tensor:
        result: Tensor = self.ff.net[2](sample)
        return result


def one_layer() -> tuple[OneLayer, LayerFactors, list[Inputs], dict[str, Grid]]:
    """W = A·B in small integers, every scale a power of two, so that no rounding is anywhere."""
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randint(-2, 3, shape, generator=generator).to(torch.int8) for shape in ((6, 3), (3, 10)))
    module = OneLayer((a.int() @ b.int()).float(), 2.0**-4)
    made = LayerFactors(
        *(a, torch.full((6,), 2.0**-2), b, torch.full((3,), 2.0**-2)),
        h_scales=(2.0**-5,),
        digest=weight_digest(module.ff.net[2].weight),
    )
    start = torch.randint(-40, 40, (2, 5, 10), generator=generator)
    steps = [
        {"sample": 2.0**-3 * (start + torch.randint(-i, i + 1, start.shape, generator=generator)).float()}
        for i in range(4)
    ]
    return module, made, steps, {"ff.net.2:x": Grid("static", (2.0**-3,), (3,))}


def test_increments_6_with_exact_factors_a_layer_is_exact() -> None:
    module, made, steps, grids = one_layer()
    captured = capture(module, steps[0])
    plan = CachePlan(Cache("icc", 4), frozenset({"ff.net.2"}), {"ff.net.2": made})
    cached = compile_denoiser(captured, grids, steps=4, plan=plan)
    plain = compile_denoiser(captured, grids, steps=4)
    assert cached.program.period == 4
    for got, expected in zip(on_golden(cached, steps), on_golden(plain, steps), strict=True):
        assert torch.equal(got, expected)


def test_increments_7_a_scale_that_may_move_inside_a_period_is_refused() -> None:
    calibrator = calibrated("dit")[0]
    module, found = factors()
    plan = plan_of(Cache("icc", PERIOD), module, found)
    with pytest.raises(QuantizationError, match=r"attn1.to_q:x has a dynamic scale.*policy auto, static"):
        compile_denoiser(calibrator.captured, calibrator.grids(policy="dynamic"), steps=4, plan=plan)


def test_increments_7_clusters_begin_with_full_steps() -> None:
    calibrator = calibrated("dit")[0]
    module, found = factors()
    plan = plan_of(Cache("icc", PERIOD), module, found)
    grids = calibrator.grids(policy="clustered", clusters=4)
    program = compile_denoiser(calibrator.captured, grids, steps=22, plan=plan).program
    corrected = {v for c in program.commands if c.op == "linear_increment" for v in c.operands[:1]}
    bounds = [c.attrs["bounds"] for c in program.commands if c.results[:1] and c.results[0] in corrected]
    assert bounds
    assert all(isinstance(b, tuple) and len(b) > 1 and not any(start % PERIOD for start in b) for b in bounds)


def test_increments_7_a_device_refuses_a_difference_between_two_grids() -> None:
    program = compiled("dit-icc").program
    first = next(c for c in program.commands if c.op == "linear_increment")
    quantizer = next(c for c in program.commands if first.operands[0] in c.results)
    attrs: dict[str, Any] = dict(quantizer.attrs)
    (scale,), (zero_point,) = attrs["scales"], attrs["zero_points"]
    clustered = {**attrs, "policy": "clustered", "bounds": (0, 2), "zero_points": (zero_point, zero_point)}
    clustered["scales"] = (scale, 2 * scale)
    moved = [replace(c, attrs=clustered) if c is quantizer else c for c in program.commands]
    broken = Compiled(replace(program, commands=tuple(moved)), compiled("dit-icc").constants, {}, 4)
    with pytest.raises(GridError, match=r"linear_increment '.*\.B'.*one grid"):
        on_device(broken, trajectory(3))
    with pytest.raises(GridError, match="step 2"):
        on_golden(broken, trajectory(3))


def test_increments_8_swapping_the_halves_of_a_batch_swaps_the_results_alone() -> None:
    steps = trajectory(3)
    swapped = [{n: t.flip(0) for n, t in inputs.items()} for inputs in steps]
    for got, other in zip(*(on_golden(compiled("dit-icc"), s) for s in (steps, swapped)), strict=True):
        assert torch.equal(got, other.flip(0))


# --- 6.2 factors ---------------------------------------------------------------------------------------------------------


def test_increments_9_factors_are_the_nearest_of_their_rank() -> None:
    rng = np.random.default_rng(3)
    w, left, right = rng.standard_normal((12, 17)), rng.uniform(0.1, 2, 12), rng.uniform(0.1, 2, 17)
    weighed = left[:, None] * w * right
    singular = np.linalg.svd(weighed, compute_uv=False)
    for rank in (1, 5, 11):
        weights = torch.from_numpy(left), torch.from_numpy(right)
        a, b = (t.numpy() for t in factorize(torch.from_numpy(w), rank, *weights))
        error = np.square(left[:, None] * (w - a @ b) * right).sum()
        np.testing.assert_allclose(error, np.square(singular[rank:]).sum(), rtol=1e-6)
        for _ in range(5):
            worse = a + 1e-2 * rng.standard_normal(a.shape)
            assert np.square(left[:, None] * (w - worse @ b) * right).sum() > error
    full = [t.numpy() for t in factorize(torch.from_numpy(w), 12)]
    np.testing.assert_allclose(full[0] @ full[1], w, atol=1e-12)


def test_increments_11_weights_of_channels_are_as_the_text_has_them() -> None:
    """Row 9 of the specification's table, number by number."""
    batches = np.random.default_rng(4).standard_normal((3, 2, 5, 4)) * [0.0, 1.0, 3.0, 0.1]
    found = Magnitudes()
    for batch in batches:
        found.add(torch.from_numpy(batch))
    total = np.zeros(4)
    for sample in batches.reshape(6, 5, 4):
        mean = [sum(abs(sample[t][c]) for t in range(5)) / 5 for c in range(4)]
        total += [(m - min(mean) + 1e-6) / (max(mean) - min(mean) + 1e-6) for m in mean]
    rooted = np.sqrt(total / 6)
    expected = [max(r, max(rooted) / 1000) + 1e-6 for r in rooted]
    np.testing.assert_allclose(found.weights().numpy(), expected, rtol=1e-12)


def test_increments_10_at_full_rank_the_published_algorithm_is_the_model() -> None:
    module, steps = dit().double(), trajectory()
    for inputs in steps:
        inputs["hidden_states"] = inputs["hidden_states"].double()
    layers: dict[str, Any] = {n: factorize(m.weight, min(m.weight.shape)) for n, m in places(module).items()}
    with torch.no_grad():
        plain = [module(**inputs).sample for inputs in steps]
        with increments(module, layers, PERIOD):
            cached = [module(**inputs).sample for inputs in steps]
    for got, expected in zip(cached, plain, strict=True):
        assert (got - expected).norm() / expected.norm() < 1e-10


def test_increments_anchored_equal_telescoped_in_exact_arithmetic() -> None:
    """y_i = y_{i−1} + A·B·(x_i − x_{i−1}), on integers, gives y₀ + A·B·(x_i − x₀)."""
    rng = np.random.default_rng(7)
    w, a, b = (rng.integers(-9, 10, shape) for shape in ((5, 8), (5, 2), (2, 8)))
    xs = rng.integers(-99, 100, (4, 8))
    y = telescoped = w @ xs[0]
    for before, x in pairwise(xs):
        telescoped = telescoped + a @ (b @ (x - before))
        anchored = y + a @ (b @ (x - xs[0]))
        assert (telescoped == anchored).all()


def test_increments_magnitudes_are_of_changes_inside_a_call_alone() -> None:
    """Two calls seen apart are not a change from the one's end to the other's begin."""
    module, steps = dit(), trajectory(4)
    far = [{**inputs, "hidden_states": -3 * inputs["hidden_states"]} for inputs in trajectory(2)]
    apart = factor_pairs([caller(module, steps[:2]), caller(module, far)], module, "cd", 4)
    again = factor_pairs([caller(module, far), caller(module, steps[:2])], module, "cd", 4)
    joined = factor_pairs([caller(module, [*steps[:2], *far])], module, "cd", 4)
    for name, (a, b) in apart.items():
        torch.testing.assert_close(a @ b, again[name][0] @ again[name][1], rtol=1e-6, atol=1e-9)
    assert any((a @ b - joined[n][0] @ joined[n][1]).abs().max() > 1e-4 for n, (a, b) in apart.items())


@pytest.mark.long
def test_increments_from_data_follow_the_authors_recipe() -> None:
    """Batches of 16, a timestep a picture, twice each one DDIM step apart; and factors that correct like the trajectory's."""
    model, seen = load_model("fashion-dit"), []
    model.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0], kwargs["timestep"], kwargs["class_labels"])),
        with_kwargs=True,
    )
    for call in data_calls(model, 64):
        with torch.no_grad():
            call()
    assert len(seen) == 2 * 64 // 16
    assert any((labels == 1000).any() for _, _, labels in seen)
    for (x, then, labels), (y, now, same) in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(then - now, torch.full((16,), 20))
        assert torch.equal(labels, same)
        assert len(then.unique()) > 4
        assert 0 < (y - x).norm() < (x.norm())
    with pytest.raises(ModelError, match="--from data needs the training pictures"):
        list(data_calls(load_model("emoji-sd"), 16))


# --- 6.3 for the right reason ------------------------------------------------------------------------------------------------


def corrections(
    program: Program, constants: Any, steps: list[Inputs]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of the first increment, layer by layer: what was given, what the layer in full would give there, what the anchor gave."""
    golden, values = Golden(program, constants), dict[int, Tensor]()
    golden.step(0, steps[0])
    for _, value, tensor in golden.run(1, steps[1], {}):
        values[value] = tensor
    made = {c.name: c for c in program.commands}
    found = {}
    for name in (c.name.removesuffix(".B") for c in program.commands if c.op == "linear_increment"):
        layer, dequantize, add = made[name], made[f"{name}/dequantize"], made[f"{name}/add"]
        q = values[layer.operands[0]].long() - round(float(values[layer.operands[1]][1]))
        numbers = {
            v: golden.constant(v)
            for v in (*layer.operands, *dequantize.operands)
            if v in program.constants.values()
        }
        scale = float(values[layer.operands[1]][0]) * numbers[dequantize.operands[2]].double()
        full = (q @ numbers[layer.operands[2]].long().t()).double() * scale
        full += numbers[dequantize.operands[3]].double() if len(dequantize.operands) > 3 else 0
        found[name] = values[add.results[0]].double(), full, values[add.operands[0]].double()
    return found


def flipped(factors: Factors) -> Factors:
    return replace(factors, layers={n: replace(f, a=-f.a) for n, f in factors.layers.items()})


def cached_program(module: nn.Module, found: Factors) -> Compiled:
    calibrator = calibrated("dit")[0]
    plan = plan_of(Cache("icc", PERIOD), module, found)
    return compile_denoiser(calibrator.captured, calibrator.grids(policy="static"), steps=4, plan=plan)


def test_increments_13b_every_layer_is_corrected_in_the_right_direction() -> None:
    """A picture does not show a sign error; the error of each layer over the size of its change does."""
    module, found = factors()
    for made, right in ((found, True), (flipped(found), False)):
        program = cached_program(module, made)
        seen = corrections(program.program, program.constants, trajectory(2, spread=0.5))
        assert len(seen) == 12
        for name, (given, full, anchor) in seen.items():
            ratio = float((given - full).norm() / (full - anchor).norm())
            assert (ratio < 1) == right, f"{name}: {ratio:.2f} of the change is left"


def test_increments_14_without_a_correction_they_are_reuse_bit_for_bit() -> None:
    module, found = factors()
    nothing = replace(found, layers={n: replace(f, a=torch.zeros_like(f.a)) for n, f in found.layers.items()})
    steps = trajectory()
    for got, expected in zip(
        on_golden(cached_program(module, nothing), steps),
        on_golden(compiled("dit-reuse"), steps),
        strict=True,
    ):
        assert torch.equal(got, expected)


def test_increments_follow_the_published_algorithm_within_int8() -> None:
    """The compiled program's error against the model is no larger than twice fp32 ICC's and int8's together."""
    module, found = factors("svd", 24)
    layers: dict[str, Any] = {n: factorize(m.weight, 24) for n, m in places(module).items()}
    steps = trajectory(3)
    with torch.no_grad():
        plain = [module(**inputs).sample for inputs in steps]
        with increments(module, layers, PERIOD):
            published = [module(**inputs).sample for inputs in steps]
    int8, cached = on_golden(compiled("dit"), steps), on_golden(cached_program(module, found), steps)
    for a, b, c, d in zip(plain, published, int8, cached, strict=True):
        allowed = (b - a).norm() + (c - a).norm()
        assert (d - a).norm() < 2 * allowed


class Timed(nn.Module):
    """A layer with a timestep."""

    def __init__(self, layer: OneLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        result: Tensor = self.layer(sample)
        return result


def test_increments_16_a_layers_error_is_proportional_to_the_way_from_its_anchor() -> None:
    """Slope 1 on logarithmic axes, and zero at zero."""
    module, _, _, _ = one_layer()
    timed = Timed(module).double()
    layer = timed.layer.ff.net[2]
    x0, way = torch.randn(2, 3, 5, 10, generator=torch.Generator().manual_seed(3)).double()
    errors = []
    for factor in (1.0, 0.0, 1e-3, 0.5, 40.0):
        pair = factorize(layer.weight, 1)
        with torch.no_grad(), increments(timed, {"layer.ff.net.2": pair}, 2):
            timed(x0, timestep=torch.tensor(2))
            y = timed(x0 + factor * way, timestep=torch.tensor(1))
        errors.append(y - nn.functional.linear(x0 + factor * way, layer.weight, layer.bias))
    one, none, *others = errors
    assert one.norm() > 0.1
    assert none.abs().max() < 1e-12
    for error, factor in zip(others, (1e-3, 0.5, 40.0), strict=True):
        torch.testing.assert_close(error, factor * one, rtol=1e-6, atol=1e-10)


# --- 6.4 hardware --------------------------------------------------------------------------------------------------------------


def recorded(name: str, steps: list[Inputs]) -> RecordColumns:
    """What the device records of these steps."""
    info, records = records_of(name, steps)
    return RecordColumns(compiled(name).program, info, records)


def records_of(name: str, steps: list[Inputs]) -> tuple[RunInfo, list[StepRecord]]:
    program = compiled(name).program
    spec = RunSpec(backend="model", chip="tiny", design="ditto")
    machine = Machine(program, compiled(name).arrays, spec)
    records = [
        machine.step(
            i,
            {n: t.numpy() for n, t in inputs.items()},
            observe="none",
            timed=True,
            on_layer=lambda _: None,
            on_value=lambda *_: None,
        ).record
        for i, inputs in enumerate(steps)
    ]
    facts = machine.facts
    machine.close()
    info = RunInfo(
        program.to_dict(),
        "small",
        "tiny",
        str(facts["chip_digest"]),
        "ditto",
        "model",
        "twos4",
        len(steps),
        0,
        K_MAX,
    )
    return info, [record for record in records if record is not None]


def test_increments_17_slots_of_b_grow_with_the_distance_to_the_anchor() -> None:
    """From records, beside those of Ditto's own differences; every element is in a share."""
    steps = trajectory(7, spread=0.2)
    one, two = slots_by_lag(recorded("dit-icc", steps))
    (ditto,) = slots_by_lag(recorded("dit", steps))
    assert [row["lag"] for row in (one, two, ditto)] == [1, 2, 1]
    assert 0 < one["slots_an_element"] < two["slots_an_element"] < 2
    for row in (one, two, ditto):
        assert row["zero"] + row["low"] + row["full"] == pytest.approx(1, abs=2e-4)
        assert row["slots_an_element"] == pytest.approx(row["low"] + 2 * row["full"], abs=2e-4)
        assert all(0 < row[place] < 2 for place in PLACES)


def test_increments_18_the_stages_may_be_spent_three_ways() -> None:
    """A at two slots an element, A classified, and a projected anchor: the same bits, three counts of slots and of cycles."""
    steps = trajectory(3)
    chip, always = load_chip("tiny"), replace(load_design("ditto"), policy="temporal")
    classified, projected = recorded("dit-icc", steps), recorded("dit-icc-projected", steps)
    dense = recorded("dit-icc", steps)
    for layer, command in enumerate(dense.program.layers):
        if command.name.endswith(".A"):
            del dense.met[layer]["temporal"]
    cycles = [price_run(columns, chip, always).total_cycles for columns in (dense, classified, projected)]
    assert len(set(cycles)) == 3
    assert cycles[1] < cycles[0], "small values cost less"
    _, by_projection = on_device(compiled("dit-icc-projected"), steps)
    _, difference = on_device(compiled("dit-icc"), steps)
    totals = [
        sum(r.slots for r in reports if r.name.endswith(".B")) for reports in (by_projection, difference)
    ]
    assert totals[0] != totals[1]


def test_increments_19_nothing_of_an_anchor_is_written_back() -> None:
    program = compiled("dit-icc").program
    full, increment = (groups(program.of(c), "group", True, False) for c in program.step_classes)
    corrected = {c.name.removesuffix(".B") for c in program.layers if c.op == "linear_increment"}
    held = {g.name: 4 * g.accumulators for g in full}
    for group in full:
        if group.name in corrected:  # written whatever mode the layer runs in
            assert mode_bytes(group, "original", False)[1]["previous_output"] == held[group.name]
    read = 0
    for group in increment:
        if group.name.endswith((".A", ".B")):
            reads, writes = mode_bytes(group, "temporal", True)
            assert "previous_output" not in writes
            read += reads.get("previous_output", 0)
            if group.name.endswith(".B"):
                assert reads["previous_input"] > 0
    assert read == sum(held[name] for name in corrected)


# --- other transformers ----------------------------------------------------------------------------------------------------


def test_increments_of_a_pixart_leave_the_keys_and_values_of_a_constant_text_alone() -> None:
    """Through `accelerate`, verified by the device's own process; and near the model, as int8 and rank 8 of 32 allow."""
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    module = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        cross_attention_dim=32, caption_channels=24, use_additional_conditions=False, norm_num_groups=16,
    ).eval()  # fmt: skip
    text, sizes = torch.randn(2, 7, 24), {"resolution": None, "aspect_ratio": None}

    def call(denoiser: Any) -> list[Tensor]:
        with torch.no_grad():
            return [
                denoiser(
                    inputs["hidden_states"], encoder_hidden_states=text, timestep=inputs["timestep"], added_cond_kwargs=sizes,
                    return_dict=False,
                )[0]
                for inputs in trajectory(4)
            ]  # fmt: skip

    plain = call(module)
    accelerate(module, backend="model", chip="tiny", verify=True, cache=Cache("icc", 3, 8), calibration=call)
    denoiser: Any = module
    found = call(denoiser)
    names = {c.name for c in denoiser.run.compiled.program.layers}
    verdict = denoiser.finish().verdict
    assert verdict.bit_identical, verdict.first_difference
    assert verdict.increment_snr_db > 20
    for got, expected in zip(found, plain, strict=True):
        assert (got - expected).norm() / expected.norm() < 0.1
    for block in range(2):
        for layer, corrected in {"attn1.to_k": True, "attn2.to_q": True, "attn2.to_out.0": True, "ff.net.2": True,
                                 "attn2.to_k": False, "attn2.to_v": False}.items():  # fmt: skip
            assert (f"transformer_blocks.{block}.{layer}.B" in names) == corrected


# --- afterwards ---------------------------------------------------------------------------------------------------------


def test_increments_what_they_multiplied_can_be_made_again_from_the_runs_own_factors(tmp_path: Path) -> None:
    module, found = factors()
    steps, layer = trajectory(3), "transformer_blocks.1.attn1.to_q"
    info, records = records_of("dit-icc", steps)
    writer = RunWriter(tmp_path, replace(info, extra={"cache": CACHED["dit-icc"].plain()}))
    for record, inputs in zip(records, steps, strict=True):
        np.savez(tmp_path / INPUTS.format(record.step), **{n: t.numpy() for n, t in inputs.items()})  # type: ignore[arg-type]  # names of inputs
        writer.append(record)
    writer.close({"wall_s": 1.0})
    with pytest.raises(AnalysisError, match=r"factors\.safetensors is not beside it"):
        recapture(tmp_path, module, 2, [f"{layer}.B"])
    found.save(tmp_path / RUN_FACTORS)
    (increment,), (full,) = (recapture(tmp_path, module, *of) for of in ((2, [f"{layer}.B"]), (0, [layer])))
    np.testing.assert_array_equal(increment.reference, full.current)
    np.testing.assert_array_equal(increment.weights, found.layers[layer].b.t().numpy())
    assert (increment.current != increment.reference).any()
    with pytest.raises(AnalysisError, match=r"steps of two classes \(period 3\).*without --cache"):
        analyze_run(tmp_path, module)


# --- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"period": 0}, "period of 0 has no full step"),
        ({"kind": "fora"}, "'fora' is unknown; it is icc or reuse"),
        ({"rank": -1}, "rank -1 is none"),
        ({"parts": ()}, "parts"),
    ],
)
def test_increments_what_cannot_be_is_refused_in_a_sentence(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(CacheError, match=words):
        Cache(**asked)


def test_increments_ranks_and_models_are_checked_before_anything_runs(tmp_path: Path) -> None:
    module, found = factors()
    found.save(tmp_path / "f.safetensors")
    loaded = Factors.load(tmp_path / "f.safetensors")
    assert loaded.for_run(places(module), 0, PERIOD).keys() == found.layers.keys()
    assert {f.rank for f in loaded.for_run(places(module), 3, PERIOD).values()} == {3}
    for rank, period, words in (
        (33, PERIOD, r"rank 33 is outside 1…32: layer .* is 32×32"),
        (RANK + 1, PERIOD, f"have rank {RANK}, {RANK + 1} is asked; `ditto factor --rank {RANK + 1}`"),
        (0, PERIOD + 1, f"periods up to {PERIOD}, {PERIOD + 1} is asked"),
    ):
        with pytest.raises(FactorsError, match=words):
            plan_of(Cache("icc", period, rank), module, loaded)
    with torch.no_grad():
        next(iter(places(module).values())).weight.add_(1e-3)
    with pytest.raises(FactorsError, match="made from other weights"):
        plan_of(Cache("icc", PERIOD), module, loaded)
    with pytest.raises(CacheError, match=r"UNet2DModel has \d+ convolutions: caching is for transformers"):
        plan_of(Cache("reuse"), build("unet"), None)
    whole = (tmp_path / "f.safetensors").read_bytes()
    (tmp_path / "g.safetensors").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(FactorsError, match=r"damaged.*checksum"):
        Factors.load(tmp_path / "g.safetensors")
    (tmp_path / "g.safetensors").write_bytes(b"nothing")
    with pytest.raises(FactorsError, match="not a file of factors"):
        Factors.load(tmp_path / "g.safetensors")


def test_plain_cache_with_a_setting_that_is_none_is_refused_in_a_sentence() -> None:
    assert Cache.of({"kind": "reuse", "period": 2}) == Cache("reuse", 2)
    with pytest.raises(
        CacheError, match="cache: interval is none of its settings, which are kind, period, rank"
    ):
        Cache.of({"kind": "reuse", "interval": 2})


def test_increments_diffusers_configurations_that_do_the_same_are_taken() -> None:
    from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

    plain = TaylorSeerCacheConfig(cache_interval=4, max_order=0, disable_cache_before_step=0)
    assert Cache.of(plain) == Cache("reuse", 4, parts=("attention",))
    for other in (TaylorSeerCacheConfig(), FirstBlockCacheConfig()):
        with pytest.raises(CacheError, match=f"{type(other).__name__}: .*cache='icc' or cache='reuse'"):
            Cache.of(other)


def test_increments_slots_are_filled_in_full_steps_and_read_between_them() -> None:
    program = compiled("dit-icc").program
    keep = next(i for i, c in enumerate(program.commands) if c.op == "keep")

    def broken(change: Callable[[Command], Command]) -> Program:
        return replace(
            program, commands=tuple(change(c) if i == keep else c for i, c in enumerate(program.commands))
        )

    with pytest.raises(IsaError, match="filled once, in full steps"):
        broken(lambda c: replace(c, when="")).validate()
    with pytest.raises(IsaError, match="holds nothing"):
        broken(lambda c: replace(c, attrs={"slot": "elsewhere"})).validate()
    again = Program.from_dict(program.to_dict())
    assert (again.digest, again.period) == (program.digest, PERIOD)
