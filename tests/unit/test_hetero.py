# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's detector, its two arrays in time, its address order, its designs, and the networks it was published on."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import Design, DesignError, load_design
from ditto_cosim.device.pricing.cost import Stack
from ditto_cosim.device.pricing.datapath import Hetero
from ditto_cosim.device.timing import hetero
from ditto_cosim.device.timing.channel_streams import BURST_BYTES, Layout, requests, streams
from ditto_cosim.device.timing.first_ready import simulate
from ditto_cosim.host.reference.detector import Recount
from ditto_cosim.protocol.record import Work
from ditto_cosim.study.edm import NETWORKS, heun_evaluations
from ditto_cosim.study.sq_dm import quantization_speedup, synthetic_speedup

# --- detector -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "pixels"), [(0.3, 10), (0.3, 784), (0.1, 30), (0.7, 1000), (1.0, 64)])
def test_a_channel_at_exactly_the_threshold_is_sparse(threshold: float, pixels: int) -> None:
    """In exact arithmetic: 0.3 as binary64 is less than three tenths, 0.1 more than one."""
    detector = hetero.Detector(threshold)
    least = detector.least(pixels)
    assert least >= Fraction(str(threshold)) * pixels > least - 1
    nonzero = np.array([[pixels - least, pixels - least + 1, 0, pixels]])
    assert detector.tags(nonzero, pixels).tolist() == [[True, False, True, False]]


def test_threshold_0_makes_everything_sparse_and_beyond_1_everything_dense() -> None:
    nonzero = np.array([[0, 5, 64]])
    assert hetero.Detector(0.0).tags(nonzero, 64).all()
    assert not hetero.Detector(1.01).tags(nonzero, 64).any()


def test_counters_hold_a_channel_of_zeros_of_the_largest_picture() -> None:
    pixels = 4096 * 4096
    assert hetero.Detector(1.0).tags(np.array([[0, 1]]), pixels).tolist() == [[True, False]]


@pytest.mark.parametrize("source", ["fresh", "carried"])
@pytest.mark.parametrize("interval", [1, 2, 3, 7, 100])
def test_detector_in_a_run_of_a_record_and_in_golden_agree(source: hetero.TagSource, interval: int) -> None:
    """Three readings of one contract: step by step, all steps at once, and golden's own."""
    nonzero = np.random.default_rng(interval).integers(0, 51, (9, 20))
    detector = hetero.Detector(0.3, interval, source)
    at_once = detector.tags(nonzero, 50)
    live = hetero.LiveTags(detector, 50)
    assert [live.of_step(step, row).tolist() for step, row in enumerate(nonzero)] == at_once.tolist()
    table = {"arrays": "both", "threshold": 0.3, "interval": interval, "tags": source}
    recount = Recount(json.dumps({"hetero": table}))
    told = [recount.of_layer(3, step, row.tolist(), 50) for step, row in enumerate(nonzero)]
    assert told == at_once.tolist()
    if source == "carried":
        assert not at_once[0].any()


# --- arrays in time -----------------------------------------------------------------------------------------------------


def _met(nonzero: list[int], pixels: int, n: int) -> Stack:
    """A 1×1 convolution."""
    channels = np.array([[nonzero, nonzero, [0] * len(nonzero)]], np.int64)
    elements = pixels * len(nonzero)
    some = sum(nonzero)
    return Stack(
        Work(1, pixels, len(nonzero), n),
        (len(nonzero),),
        None,
        np.array([[elements - some, some, 0]]),
        np.array([some]),
        channels,
        pixels,
    )


def _path(**changed: object) -> Hetero:
    """On 256 multipliers."""
    design = load_design("sq_dm")
    assert design.hetero is not None
    made = replace(design, hetero=replace(design.hetero, **changed))  # type: ignore[arg-type]  # by name
    return Hetero(made, load_chip("stonne"))


def test_a_layer_takes_what_the_contract_says() -> None:
    """Worked by hand: channels with 100, 70, 30, 0 of 100 codes; at θ = 0.3 the first is dense, 100 of the others are not 0."""
    met = _met([100, 70, 30, 0], 100, 64)
    done = _path().arrays(met)
    assert (int(done.dense_products[0]), int(done.sparse_products[0])) == (6400, 6400)
    assert (int(done.dense_cycles[0]), int(done.sparse_cycles[0])) == (50, 50)
    assert int(_path().lanes(met, "original").total[0]) == 50 + hetero.FILL_CYCLES
    skewed = _path(dense_share=0.25).arrays(met)
    assert (int(skewed.dense_cycles[0]), int(skewed.sparse_cycles[0])) == (100, 34)
    larger = _path(sparse_area=2.0).arrays(met)
    assert (int(larger.dense_cycles[0]), int(larger.sparse_cycles[0])) == (50, 100)
    dense = _path(arrays="dense").arrays(met)
    assert (int(dense.dense_cycles[0]), int(dense.sparse_cycles[0])) == (100, 0)
    assert int(_path(arrays="dense", operand_bits=16).arrays(met).dense_cycles[0]) == 400


def test_8_bit_layers_skip_no_zero_and_take_two_cycles_a_product() -> None:
    met = replace(_met([100, 0], 100, 64), channels=None)
    assert int(_path().arrays(met).dense_cycles[0]) == 200
    both = _path(eight_bits="both").arrays(met)
    assert (int(both.dense_cycles[0]), int(both.sparse_cycles[0])) == (100, 100)


@pytest.mark.parametrize("seed", range(5))
def test_no_mix_beats_the_zeros_it_skips(seed: int) -> None:
    """At equal multipliers nothing is faster than every non-zero code spread over all of them, whatever θ and split."""
    nonzero = np.random.default_rng(seed).integers(0, 101, 64).tolist()
    met = _met(nonzero, 100, 64)
    ideal = sum(nonzero) * 64 / 256
    for threshold in (0.0, 0.2, 0.5, 1.0):
        for share in (0.2, 0.5, 0.8):
            assert int(_path(threshold=threshold, dense_share=share).arrays(met).total[0]) >= ideal


def test_a_split_that_leaves_an_array_without_multipliers_is_refused() -> None:
    design = load_design("sq_dm")
    assert design.hetero is not None
    thin = replace(design, hetero=replace(design.hetero, dense_share=0.001))
    with pytest.raises(
        DesignError,
        match=r"of 256 multipliers .* 0 are in the dense array.*dense_share = 0\.001 .* leave an array without PEs",
    ):
        Hetero(thin, load_chip("stonne"))


def test_a_split_that_this_chip_cannot_have_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "large.toml").write_text('extends = "sq_dm"\n[hetero]\nsparse_area = 1000.0\n')
    out = tmp_path / "run"
    found = CliRunner().invoke(
        root,
        [
            "generate",
            "--model",
            "none such",
            "--design",
            f"{tmp_path / 'large.toml'}",
            "--chip",
            "tiny",
            "-o",
            f"{out}",
        ],
    )
    assert isinstance(found.exception, DesignError)
    assert "of 64 multipliers on this chip 32 are in the dense array, 0 in the sparse one" in str(
        found.exception
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("threshold = 1.3", r"threshold = 1.3 is outside 0…1"),
        ("threshold = -0.1", r"threshold = -0.1 is outside 0…1"),
        ("dense_share = 1.0", "leaves an array without PEs"),
        ("dense_share = 0.0", "leaves an array without PEs"),
        ('arrays = "mixed"', "arrays = 'mixed', expected one of both, dense, sparse"),
        ("interval = 0", "must be positive"),
        ("treshold = 0.3", r"treshold is unknown \(did you mean 'threshold'\?\)"),
        ("operand_bits = 8", "operand_bits = 8, expected one of 0, 16"),
    ],
)
def test_design_of_arrays_refusals_are_sentences(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "mine.toml").write_text(f'extends = "sq_dm"\n[hetero]\n{line}\n')
    with pytest.raises(DesignError, match=complaint):
        load_design(tmp_path / "mine.toml")


def test_a_design_of_ones_own_travels_with_its_record(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "sq_dm"\n[hetero]\nthreshold = 0.25\ntags = "carried"\n')
    design = load_design(tmp_path / "mine.toml")
    assert Design.from_description(json.loads(json.dumps(design.description)), "here") == design
    assert design.digest != load_design("sq_dm").digest


def test_formats_that_a_design_has_no_arrays_for_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = [
        "generate",
        "--model",
        "none such",
        "--design",
        "ditto",
        "--plan",
        "sq_dm",
        "--chip",
        "tiny",
        "-o",
        f"{out}",
    ]
    found = CliRunner().invoke(root, asked)
    assert isinstance(found.exception, DesignError)
    assert "design ditto has no arrays for block-scaled layers, which plan sq_dm asks for; take sq_dm" in str(
        found.exception
    )
    assert not out.exists()


# --- memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "pixels"), [(128, 1024), (256, 256), (64, 784), (160, 49)])
def test_channel_last_reads_every_byte_once_and_channel_first_twice(channels: int, pixels: int) -> None:
    sparse = np.random.default_rng(0).random(channels) < 0.6
    size = -(-channels * pixels // (2 * BURST_BYTES))
    read: dict[Layout, int] = {
        layout: sum(map(len, streams(layout, pixels, sparse))) for layout in ("channel_last", "channel_first")
    }
    assert size <= read["channel_last"] <= size + channels
    assert read["channel_first"] == pytest.approx(2 * size, rel=0.02)


def test_a_channel_is_one_run_of_bursts() -> None:
    for channel in range(0, 96, 7):
        mine = np.zeros(96, bool)
        mine[channel] = True
        (run,) = (s for s in streams("channel_last", 784, mine) if len(s) < 96)
        assert (np.diff(run) == 1).all()
        assert len(run) <= -(-784 // (2 * BURST_BYTES)) + 1


def test_channel_first_costs_the_dram_more() -> None:
    sparse = np.arange(256) % 3 > 0
    taken = []
    for layout in ("channel_last", "channel_first"):
        asked = np.array(requests(layout, 1024, sparse), np.int64)
        taken.append(simulate(load_chip("stonne").dram, asked, np.zeros(len(asked), bool)).cycles)
    assert taken[1] > 1.5 * taken[0]


# --- networks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gmacs", "share", "blocks", "layers", "weights", "evaluations"),
    [
        ("edm-cifar10", 21.19, 0.928, 33, 66, 55.3, 35),
        ("edm-ffhq", 41.86, 0.939, 44, 88, 61.4, 79),
        ("edm-imagenet64", 109.66, 0.838, 36, 72, 294.1, 511),
    ],
)
def test_edm_networks_have_the_shapes_counted_from_their_code(
    name: str, gmacs: float, share: float, blocks: int, layers: int, weights: float, evaluations: int
) -> None:
    """D01 to D04 of the specification note, and NFE of EDM's own commands; the embedding's own layers are no weights there."""
    net = NETWORKS[name]
    assert round(net.macs / 1e9, 2) == gmacs
    assert round(net.conv_activation_macs / net.macs, 3) == share
    assert len(net.residual_blocks) == blocks
    assert sum(x.by_activation for x in net.layers) == layers
    without = net.weights - sum(x.weights for x in net.layers if x.name.startswith("map_"))
    assert round(without / 1e6, 1) == weights
    assert net.evaluations == evaluations == heun_evaluations(net.heun_steps)


def test_quantization_alone_and_sparsity_alone_stay_in_their_bounds() -> None:
    """Expected on EDM's shapes: 3.6 to 3.9 with all convolutions behind an activation at 4 bits where they are 92 % of the work,
    sparsity 1.6 to 2.6 and never above 1 ÷ (1 − s)."""
    for name in ("edm-cifar10", "edm-ffhq"):
        assert 3.6 <= quantization_speedup(NETWORKS[name], 0) <= 3.9
        assert quantization_speedup(NETWORKS[name], 1) < quantization_speedup(NETWORKS[name], 0)
        assert 1.6 <= synthetic_speedup(NETWORKS[name], 0.65) <= min(2.6, 1 / 0.35)
