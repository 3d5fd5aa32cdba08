# SPDX-License-Identifier: Apache-2.0
"""What hangs on a constant is said; what a run asked for can be read by other simulators; designs and chips are data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ditto_cosim.cli import root
from ditto_cosim.device.chips import Chip, ChipError, load_chip
from ditto_cosim.device.designs.base import Design, DesignError, design_names, load_design
from ditto_cosim.device.pricing.contracts import Pipelined
from ditto_cosim.device.pricing.cost import PricingError
from ditto_cosim.device.pricing.export import dramsim3, ramulator2, scalesim, transfers
from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, design_of, price_run
from ditto_cosim.device.pricing.robust import robustness, variations
from ditto_cosim.device.timing.kernel import Payload
from ditto_cosim.device.timing.memory import Memory
from ditto_cosim.protocol.record import RunInfo, RunRecord, RunWriter
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import workload_program


def recorded(folder: Path, chip: Chip, design: Design, steps: int = 3) -> Path:
    program = workload_program("ddpm")
    info = RunInfo(
        program=program.to_dict(),
        model="ddpm",
        chip=chip.name,
        chip_digest=chip.digest,
        design=design.name,
        backend="synthetic",
        low_rule="twos4",
        steps=steps,
        seed=0,
        k_max=chip.geometry.k_max,
        chip_description=chip.description,
        design_description=design.description,
    )
    writer = RunWriter(folder, info)
    for step in range(steps):
        writer.append(synthetic_step(program, step, PUBLISHED, chip.geometry.k_max))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("runs") / "ddpm", load_chip("paper_twin"), load_design("ditto"))


@pytest.fixture(scope="module")
def columns(run: Path) -> RecordColumns:
    return RecordColumns.load(RunRecord(run))


def call(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(root, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


# --- robustness -----------------------------------------------------------------------------------------------------------


def test_variations_change_what_nobody_knows_and_nothing_else() -> None:
    chip = load_chip("paper_twin")
    found = variations(chip)
    assert len({v.chip.digest for v in found} | {chip.digest}) == len(found) + 1
    for v in found:
        kept = replace(
            v.chip, dma=chip.dma, vector_lanes=chip.vector_lanes, defo_unit_log2=chip.defo_unit_log2
        )
        assert kept == chip
        assert v.chip.dma.chunk_bytes * 4 <= chip.buffer_bytes


def test_robustness_sorts_conclusions_by_whether_every_variation_agrees(columns: RecordColumns) -> None:
    chip = load_chip("paper_twin")
    found = robustness(columns, chip, ["diffy"])
    ratios = {}
    for v in variations(chip):
        itc, ditto = (price_run(columns, v.chip, load_design(d)).total_cycles for d in ("itc", "ditto"))
        ratios[v.what] = itc / ditto
    assert {p.what: p.ditto_over_itc for p in found.varied} == ratios
    assert found.ditto_over_itc == (
        min([*ratios.values(), found.base.ditto_over_itc]),
        max([*ratios.values(), found.base.ditto_over_itc]),
    )
    turned = {what for what, ratio in ratios.items() if (ratio > 1) != (found.base.ditto_over_itc > 1)}
    about_itc = [
        u for u in found.unstable if u.startswith(("ditto is faster than itc", "itc is faster than ditto"))
    ]
    assert bool(about_itc) == bool(turned)
    assert all(any(what in u for u in about_itc) for what in turned)
    assert len(found.stable) + len(found.unstable) == len(found.base.conclusions)


def test_compare_robust_prints_the_interface_and_leaves_its_sentence(run: Path) -> None:
    found = call("compare", str(run), "--designs", "itc,ditto", "--no-plot", "--robust")["robust"]
    assert found["ditto_over_itc"].keys() == {"min", "max", "varied"}
    assert found["ditto_over_itc"]["min"] <= found["ditto_over_itc"]["max"]
    assert isinstance(found["stable"], list)
    assert isinstance(found["unstable"], list)
    assert found["sentence"].startswith("Ditto is ")


# --- other simulators, other memories ---------------------------------------------------------------------------------------


def test_exported_requests_are_the_steps_bytes(columns: RecordColumns) -> None:
    chip, design = load_chip("paper_twin"), load_design("ditto")
    moved = transfers(columns, chip, design, 1)[::16]
    lines = list(dramsim3(moved, chip))
    asked = [int(line.split()[2]) for line in lines]
    assert asked == sorted(asked)
    assert {line.split()[1] for line in lines} == {"READ", "WRITE"}
    one_step = sum(p.nbytes for p, _, _ in moved)
    assert one_step <= 64 * len(lines) <= one_step + 64 * 2 * len(moved)
    others = list(ramulator2(moved))
    assert [line.split()[0] == "ST" for line in others] == [line.split()[1] == "WRITE" for line in lines]


def test_exported_bytes_are_the_bytes_that_were_priced(columns: RecordColumns) -> None:
    one = RecordColumns(columns.program, columns.info, [synthetic_step(columns.program, 0, PUBLISHED, 1024)])
    chip, design = load_chip("paper_twin"), load_design("itc")
    moved = transfers(one, chip, design, 0)
    assert sum(p.nbytes for p, _, _ in moved) == price_run(one, chip, design).total_bytes


def test_exported_topology_has_every_multiplication(columns: RecordColumns) -> None:
    head, *rows = scalesim(columns)
    assert head == "Layer,M,N,K,"
    macs = sum(int(m) * int(n) * int(k) for _, m, n, k, _ in (r.rsplit(",", 4) for r in rows))
    assert macs == pytest.approx(6.2e9, rel=0.02)


def test_export_writes_files_and_refuses_what_has_no_transactions(run: Path, tmp_path: Path) -> None:
    found = call("export", str(run), "--topology", "scalesim", "-o", str(tmp_path))
    for made in found["written"].values():
        assert len(Path(made["path"]).read_text().splitlines()) == made["lines"]
    done = CliRunner().invoke(root, ["export", str(run), "--dram", "dramsim3", "--chip", "paper"])
    assert isinstance(done.exception, PricingError)
    assert "closed form" in str(done.exception)
    done = CliRunner().invoke(root, ["export", str(run), "--dram", "gem5"])
    assert done.exit_code == 2


class Slower:
    """Every answer ten thousand cycles late."""

    def b_transport(self, payload: Payload, at: int) -> int:
        return at + 10_000


def test_another_memory_takes_the_place_of_ours(columns: RecordColumns) -> None:
    chip, design = load_chip("paper_twin"), load_design("itc")
    few = RecordColumns(columns.program, columns.info, [synthetic_step(columns.program, 0, PUBLISHED, 1024)])
    ours = price_run(few, chip, design)
    same = price_run(few, chip, design, memory=lambda: Memory(chip.dram, chip.clock_mhz))
    slower = price_run(few, chip, design, memory=Slower)
    assert np.array_equal(same.cycles, ours.cycles)
    assert slower.total_cycles > ours.total_cycles


def test_a_memory_that_is_none_is_refused_by_name(run: Path) -> None:
    for name, complaint in (
        ("nowhere:Memory", "cannot be loaded"),
        ("json:dumps", "b_transport"),
        ("json", "module:Class"),
    ):
        done = CliRunner().invoke(root, ["price", str(run), "--dram", name])
        assert complaint in str(done.exception)


# --- records, chips, designs ------------------------------------------------------------------------------------------------


def test_records_carry_chip_and_design_whole(tmp_path: Path) -> None:
    chip = replace(load_chip("edge"), name="mine", tiles=3)
    design = replace(load_design("ditto"), name="my_ditto", multipliers=20_000)
    info = RunRecord(recorded(tmp_path / "run", chip, design, 1)).info
    assert chip_of(info) == chip
    assert design_of(info) == design
    assert replace(chip, name="renamed").digest == info.chip_digest
    assert replace(chip, vector_lanes=65).digest != info.chip_digest
    with pytest.raises(ChipError, match="none of this version's"):
        chip_of(replace(info, chip_description={"name": "mine", "wings": 2}))


def test_own_design_loads_by_path_and_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "ditto"\ntitle = "Mine"\npolicy = "dynamic"\n')
    (tmp_path / "mine_too.toml").write_text('extends = "mine.toml"\nmultipliers = 10_000\n')
    mine, too = load_design(tmp_path / "mine.toml"), load_design(str(tmp_path / "mine_too.toml"))
    assert mine == replace(load_design("dynamic_ditto"), name="mine", title="Mine")
    assert too == replace(mine, name="mine_too", multipliers=10_000)
    assert mine.digest == load_design("dynamic_ditto").digest != too.digest


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('extends = "dito"', r"dito'.*did you mean 'ditto'"),
        ('extends = "ditto"\nmultipliers = "many"', r"multipliers = 'many' has the wrong type"),
        ('extends = "ditto"\nmultiplier = 3', r"multiplier is unknown \(did you mean 'multipliers'\?\)"),
        ('extends = "ditto"\ndatapath = "outlier"', r"outlier_multipliers belong together"),
        ('extends = "ditto"\nbase_mode = "temporal"', r"expected original or spatial"),
        ('extends = "ditto"\npolicy = "guess"', r"policy = 'guess', expected one of base"),
        ('title = "T"', r"datapath, multipliers, policy missing"),
        ('extends = "self.toml"', r"goes more than 8 deep"),
        ('extends = "gpu"\ndatapath = "slots"', r"\[roofline\] table belong together"),
    ],
)
def test_design_refusals_are_sentences(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "self.toml").write_text(text)
    with pytest.raises(DesignError, match=complaint):
        load_design(tmp_path / "self.toml")


@pytest.mark.parametrize("name", design_names())
def test_design_descriptions_come_back_whole(name: str) -> None:
    design = load_design(name)
    assert Design.from_description(json.loads(json.dumps(design.description)), "here") == design


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[dma]\nchunk_bytes = 2_000_000", r"does not hold 4 chunks of 2000000 bytes.*expected at least 7.6"),
        ("[dma]\nchunk_byte = 64", r"chunk_byte is unknown \(did you mean 'chunk_bytes'\?\)"),
        ('[dma]\nforwarding = "late"', r"forwarding = 'late', expected one of chunk, whole"),
        ("[dma]\nqueue_depth = 0", r"queue_depth = 0 is outside 1…256"),
    ],
)
def test_chip_policies_are_refused_in_sentences(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "mine.toml").write_text(f'extends = "edge"\n{line}\n')
    with pytest.raises(ChipError, match=complaint):
        load_chip(tmp_path / "mine.toml")


# --- more never costs more, on real layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["paper_twin", "edge", "tiny"])
def test_a_step_never_takes_longer_for_less_traffic_or_a_bigger_chip(
    name: str, columns: RecordColumns
) -> None:
    """A third fewer bytes once cost an attention product 6 %; the bound of anomalies is 3 %."""
    chip = load_chip(name)
    base = {d: price_run(columns, chip, load_design(d)).total_cycles for d in ("itc", "db_ds_attn")}
    dram = replace(chip.dram, channels=2 * chip.dram.channels)
    wide = replace(chip.dma, bytes_per_cycle=2 * chip.dma.bytes_per_cycle)
    bigger = {
        "bandwidth": replace(chip, dram=dram, dma=wide),
        "buffer": replace(chip, buffer_bytes=4 * chip.buffer_bytes),
        "resident": replace(chip, residency="resident"),
        "vector lanes": replace(chip, vector_lanes=2 * chip.vector_lanes),
        "queue": replace(chip, dma=replace(chip.dma, queue_depth=2 * chip.dma.queue_depth)),
    }
    for what, more in bigger.items():
        for design, cycles in base.items():
            assert price_run(columns, more, load_design(design)).total_cycles <= 1.03 * cycles, (
                f"{design}, {what}"
            )


def test_a_layer_that_keeps_no_state_is_not_slower(columns: RecordColumns) -> None:
    from ditto_cosim.device.pricing.cost import LaneColumns, stack
    from ditto_cosim.device.pricing.pricer import Pricer

    pricer = Pricer(columns.program, load_chip("paper_twin"), load_design("ditto"))
    assert isinstance(pricer.contract, Pipelined)
    for layer, group in enumerate(pricer.layers):
        works = columns.met[layer]["temporal"].works[0]
        lanes = pricer.lanes(group, stack([works]), "temporal")
        column = LaneColumns(*(c[:, None] for c in lanes.columns))
        cycles = []
        for keeps in (False, True):
            cost = replace(
                pricer.cost(group, "temporal", keeps), group=replace(group, index=0, producer=None)
            )
            cycles.append(int(pricer.contract.steps([cost], np.zeros((1, 1), np.int64), column).sum()))
        assert cycles[0] <= cycles[1] * 1.01, group.name
