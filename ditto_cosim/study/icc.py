# SPDX-License-Identifier: Apache-2.0
"""Increment-calibrated caching (arXiv 2505.05829) on DiT-XL/2, counted and priced: `ditto study icc`.

    accounting()     MACs and parameters with the authors' accounting (one guidance branch; attention products and adaLN in every
                     step; the embedder once, where diffusers' form repeats it in every block)
    cycles()         the lanes alone on the paper's chip, at the paper's mix of differences; and whole runs, DRAM included
    ordering()       what was measured on fashion-dit: `measure` makes it again

Which figure is the paper's and which is ours: docs/caching.md. Its result tables are not at hand, and none of its numbers are
printed here. What this file does not do: run DiT-XL/2; its records are synthetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.cost import Shares, stack
from ditto_cosim.device.pricing.pricer import Pricer
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.record import LayerRecord, RunInfo, StepRecord, SubOp, Work, layer_work, split_k
from ditto_cosim.study.synthetic import PUBLISHED, synthetic_step
from ditto_cosim.study.workloads import packed_program, workload_program

RANKS = (128, 192, 256)
PERIODS = (2, 3, 4)
STEPS = 36
"""Of a priced run: a multiple of every period."""
TOKENS_512 = 4
"""Times as many tokens as at 256×256."""
CLASSIFIED = Shares(0.0, 1.0, 0.0)
"""Of A's operands where small values cost less: at most a slot an element (assumed, not measured)."""
MEASURED = "icc_fashion_dit.json"


def program_of(rank: int, period: int) -> Program:
    """DiT-XL/2 with increments of a rank (0: reuse) at a period."""
    return replace(packed_program(f"dit_icc_{rank}" if rank else "dit_reuse"), period=period)


def _repeated(command: Command) -> bool:
    """Whether a layer is diffusers' repetition of the timestep's embedder; one of them, for the result, is counted."""
    return "timestep_embedder" in command.name and "#" not in command.name


def _macs(program: Program, tokens: int = 1) -> int:
    """Of a program of one class of steps, at so many times its tokens."""
    total = 0
    for i, command in enumerate(program.layers):
        for work in layer_work(program, i, "original"):
            grown = work.macs
            if command.op == "matmul":
                grown *= tokens * tokens
            elif work.rows > 1:
                grown *= tokens
            total += 0 if _repeated(command) else grown
    return total


@cache
def accounting(tokens: int = 1) -> dict[str, Any]:
    """GMAC a step, their ratio over a schedule, and parameters in units of 2²⁰."""
    full = _macs(workload_program("dit"), tokens)
    increments = {rank: _macs(program_of(rank, 2).of("increment"), tokens) for rank in (0, *RANKS)}

    def ratio(rank: int, period: int) -> float:
        return (1 + (period - 1) * increments[rank] / full) / period

    parameters = {
        rank: sum(
            program.values[c.operands[2]].elements
            for program in (program_of(rank, 2),)
            for c in program.layers
            if c.name.endswith((".A", ".B"))
        )
        for rank in RANKS
    }
    return {
        "full_gmac": full / 1e9,
        "increment_gmac": {f"r{rank}": increments[rank] / 1e9 for rank in RANKS},
        "reuse_gmac": increments[0] / 1e9,
        "mac_ratio": {f"p{p}_r{r}": ratio(r, p) for p in PERIODS for r in RANKS},
        "reuse_ratio": {f"p{p}": ratio(0, p) for p in PERIODS},
        "parameters_2_20": {f"r{rank}": count / 2**20 for rank, count in parameters.items()},
    }


# --- cycles -----------------------------------------------------------------------------------------------------------------


def _subop(work: Work, shares: Shares | None, k_max: int) -> SubOp:
    """A work whose rows are all alike; without shares every element makes two slots."""
    splits, elements = split_k(work.k, k_max), work.groups * work.rows * work.k
    if shares is None:
        return SubOp(work, splits, None, 0, 0, elements)
    low, full = round(elements * shares.low), round(elements * shares.full)
    total = low + 2 * full
    each = np.zeros((len(splits), work.groups * work.rows), np.uint16)
    flat = each.reshape(-1)
    flat[:] = total // len(flat)
    flat[: total % len(flat)] += 1
    return SubOp(work, splits, each, elements - low - full, low, full)


def _mode_of(command: Command, temporal: bool, a_classified: bool) -> Mode:
    """As the table has it: adaLN and what stands outside the blocks original, the rest temporal if asked."""
    if command.op == "linear_increment":
        return "temporal"
    if "reference" in command.attrs:
        return "temporal" if a_classified else "original"
    block = command.name.startswith("transformer_blocks") and ".norm1." not in command.name
    return "temporal" if temporal and block else "original"


def _lane_mcycles(
    program: Program, design: str, temporal: bool, a_classified: bool = True, ending: str = ""
) -> float:
    """Of one step on the paper's chip, in aggregate: the lanes alone."""
    chip = load_chip("paper")
    pricer = Pricer(program, chip, load_design(design))
    total = 0
    for group in pricer.layers:
        command = group.layer
        assert command is not None
        if not command.name.endswith(ending) or _repeated(command):
            continue
        mode = _mode_of(command, temporal, a_classified)
        shares = CLASSIFIED if "reference" in command.attrs else PUBLISHED["temporal"]
        works = tuple(
            _subop(w, shares if mode == "temporal" else None, chip.geometry.k_max)
            for w in pricer.works(group, mode)
        )
        total += int(pricer.lanes(group, stack([works]), mode).total[0])
    return total / 1e6


def cycles() -> list[dict[str, Any]]:
    """A row a configuration: million lane cycles of a full step and of an increment, their mean over a period, and that against
    ITC and against Ditto alone."""
    dit = workload_program("dit")
    itc, original = (_lane_mcycles(dit, design, False) for design in ("itc", "ditto"))
    ditto = _lane_mcycles(dit, "ditto", True)
    rows: list[dict[str, Any]] = [
        {"configuration": "itc", "full": itc},
        {"configuration": "ditto, original", "full": original},
        {"configuration": "ditto, temporal", "full": ditto},
    ]
    for period in PERIODS:
        rows.append(_row(f"reuse p{period}", period, ditto, program_of(0, period), {}))
        for rank in RANKS:
            for classified, a in ((False, "A at 2 slots"), (True, "A at ≤ 1 slot")):
                name = f"icc p{period} r{rank}, {a}"
                made = {"period": period, "rank": rank, "a_classified": classified}
                rows.append(_row(name, period, ditto, program_of(rank, period), made))
    for row in rows:
        mean = row.setdefault("mean", row["full"])
        row |= {"speedup_over_itc": itc / mean, "speedup_over_ditto": ditto / mean}
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def _row(name: str, period: int, full: float, program: Program, made: Mapping[str, Any]) -> dict[str, Any]:
    increments, classified = program.of("increment"), bool(made.get("a_classified", True))
    step = _lane_mcycles(increments, "ditto", True, classified)
    stages = {
        stage: _lane_mcycles(increments, "ditto", True, classified, f".{stage.upper()}") for stage in "ab"
    }
    mean = (full + (period - 1) * step) / period
    return {
        "configuration": name,
        **made,
        "full": full,
        "increment": step,
        **(stages if made else {}),
        "mean": mean,
    }


def traffic() -> dict[str, dict[str, float]]:
    """MB of a step by class, everything streamed: full in temporal mode, and an increment of rank 128."""
    found = {}
    chip = replace(load_chip("paper"), residency="streaming")
    for name, step_class in (("full", "full"), ("increment_r128", "increment")):
        pricer = Pricer(program_of(128, 3).of(step_class), chip, load_design("ditto"))  # type: ignore[arg-type]  # one of the two
        sums = {"linear_weights": 0, "adaln_weights": 0, "previous_input": 0, "previous_output": 0}
        for group in pricer.layers:
            command = group.layer
            assert command is not None
            if (
                _repeated(command)
                or not command.name.startswith("transformer_blocks")
                or command.op == "matmul"
            ):
                continue
            mode = _mode_of(command, True, True)
            reads, writes = pricer.traffic(group, mode, mode == "temporal" and group.has_state)
            sums["adaln_weights" if ".norm1." in command.name else "linear_weights"] += program_bytes(
                pricer, command
            )
            for kind in ("previous_input", "previous_output"):
                sums[kind] += reads.get(kind, 0) + writes.get(kind, 0)
        found[name] = {kind: round(nbytes / 1e6, 1) for kind, nbytes in sums.items()}
    return found


def program_bytes(pricer: Pricer, command: Command) -> int:
    """Of a layer's weights."""
    return pricer.program.values[command.operands[2]].nbytes


def runs(chip_name: str = "paper") -> list[dict[str, Any]]:
    """Whole runs, DRAM and the vector unit included, under ITC, Ditto and Ditto+: million cycles and megabytes a step."""
    chip = load_chip(chip_name)
    rows = []
    baseline: dict[str, float] = {}
    asked = [("every step full", workload_program("dit"))]
    asked += [(f"reuse p{p}", program_of(0, p)) for p in (2, 3)]
    asked += [(f"icc p{p} r{r}", program_of(r, p)) for p in (2, 3) for r in (128, 256)]
    for name, program in asked:
        columns = _columns(program, chip.geometry.k_max)
        for design in ("itc", "ditto", "ditto_plus"):
            found = price_run(columns, chip, load_design(design))
            each = found.total_cycles / STEPS / 1e6
            baseline.setdefault(design, each)
            rows.append(
                {
                    "run": name,
                    "design": design,
                    "mcycles_a_step": round(each, 4),
                    "mbytes_a_step": round(found.total_bytes / STEPS / 1e6, 1),
                    "joules": round(found.total_energy_pj / 1e12, 4),
                    "speedup_over_itc": round(baseline["itc"] / each, 3),
                    "speedup_over_ditto": round(baseline.get("ditto", each) / each, 3),
                    **_classes(found),
                }
            )
    return rows


def _classes(found: RunTime) -> dict[str, float]:
    named = {"full_mcycles": False, "increment_mcycles": True}
    counted = {name: found.of_class(increments) for name, increments in named.items()}
    return {name: round(total / steps / 1e6, 4) for name, (steps, total) in counted.items() if steps}


def _columns(program: Program, k_max: int) -> RecordColumns:
    """A synthetic record: every step alike but for its class, differences at the paper's mix."""
    made: dict[str, StepRecord] = {}
    steps = []
    for step in range(STEPS):
        kind = f"{program.step_class(step)} {'first' if step == 0 else ''}"
        if kind not in made:
            made[kind] = _step(program, step, k_max)
        steps.append(replace(made[kind], step=step))
    info = RunInfo(program.to_dict(), "DiT-XL/2", "", "", "", "synthetic", "twos4", STEPS, 0, k_max)
    return RecordColumns(program, info, steps)


def _step(program: Program, step: int, k_max: int) -> StepRecord:
    of_class = program.step_class(step)
    made = synthetic_step(program.of(of_class), step, PUBLISHED, k_max)
    records = []
    for at, record in zip(program.layers_of(of_class), made.layers, strict=True):
        command, works = program.layers[at], dict(record.works)
        if command.op == "linear_increment":
            works = {"temporal": works["temporal"]}
        elif "reference" in command.attrs:
            works["temporal"] = tuple(_subop(s.work, CLASSIFIED, k_max) for s in works["original"])
        records.append(LayerRecord(at, "temporal" if "temporal" in works else "original", False, works))
    return StepRecord(step, tuple(records))


# --- a recorded run ---------------------------------------------------------------------------------------------------------

PLACES = {
    "q, k, v": ("to_q", "to_k", "to_v"),
    "proj": ("to_out.0",),
    "fc1": ("net.0.proj",),
    "fc2": ("net.2",),
}
"""Corrected layers by the specification's names."""


def slots_by_lag(columns: RecordColumns) -> list[dict[str, Any]]:
    """A row a distance to the step that differences are taken to: shares of the corrected layers' elements, slots an element, and
    those by place. Of a cached run the B products, by their distance to the full step; of any other its temporal differences."""
    period = columns.program.period
    ending = ".B" if period > 1 else ""
    found: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
    for layer, command in enumerate(columns.program.layers):
        name = command.name.removesuffix(ending)
        place = next((p for p, ends in PLACES.items() if name.endswith(ends)), None)
        met = columns.met[layer].get("temporal")
        if place is None or met is None or not command.name.endswith(ending):
            continue
        for at, works in zip(met.at, met.works, strict=True):
            lag = columns.steps[at] % period if period > 1 else 1
            counts = found.setdefault(lag, {p: np.zeros(4) for p in PLACES})[place]
            for work in works:
                counts += (work.zero, work.low, work.full, work.slot_total)
    rows = []
    for lag, by_place in sorted(found.items()):
        zero, low, full, slots = np.sum(list(by_place.values()), axis=0).tolist()
        elements = zero + low + full
        row = {
            "period": period,
            "lag": lag,
            "zero": zero / elements,
            "low": low / elements,
            "full": full / elements,
        }
        row |= {"slots_an_element": slots / elements}
        row |= {place: counts[3] / max(counts[:3].sum(), 1) for place, counts in by_place.items()}
        rows.append({k: round(float(v), 4) if isinstance(v, float) else v for k, v in row.items()})
    return rows


# --- fashion-dit ------------------------------------------------------------------------------------------------------------


def ordering() -> list[dict[str, Any]]:
    """As it was measured and kept: reuse, SVD, CA and CD by period and rank, PSNR of the pictures to those of full steps."""
    text = resources.files("ditto_cosim.study").joinpath(MEASURED).read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)["ordering"]
    return with_excess(found)


def with_excess(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `int8_excess_db`: how far int8's pictures are below what they would be if ICC's error in fp32 and int8's with
    every step full were independent and added up."""
    (full,) = (r["psnr_int8_to_fp32_db"] for r in rows if r["method"] == "full")

    def excess(row: Mapping[str, Any]) -> float:
        both = sum(10 ** (-db / 10) for db in (full, row["psnr_fp32_db"]))
        return round(-10 * math.log10(both) - float(row["psnr_int8_to_fp32_db"]), 2)

    return [row if row["method"] == "full" else row | {"int8_excess_db": excess(row)} for row in rows]


def measure(
    pictures: int, ranks: Iterable[int], periods: Iterable[int], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """`ordering` made again: pictures of fashion-dit in fp32 (the published algorithm) and in int8 (golden)."""
    from ditto_cosim.host.analysis.quality import on_golden
    from ditto_cosim.host.compiler.cache import METHODS, Cache
    from ditto_cosim.host.pipeline.model_factors import factor_model
    from ditto_cosim.host.pipeline.models import Wish, load_model

    wish = Wish(50, 7, pictures, tuple(i % 10 for i in range(pictures)), guidance=2.0)

    def made(cached: Cache | None, factors: Any = None) -> Any:
        model = load_model("fashion-dit")
        on_golden(model.pipe, scales=model.scales, cache=cached, factors=factors)
        return model.pipe(**model.arguments(wish), output_type="np").images

    tell("fp32, every step full")
    model = load_model("fashion-dit")
    fp32 = model.pipe(**model.arguments(wish), output_type="np").images
    tell("int8, every step full")
    int8 = made(None)
    rows = [{"method": "full", "psnr_int8_to_fp32_db": psnr_db(int8, fp32)}]
    asked: list[tuple[str, int]] = [("reuse", 0), *((m, r) for r in ranks for m in METHODS)]
    factors = {}
    for method, rank in asked:
        for period in periods:
            tell(f"{method} p{period}" + (f" r{rank}" if rank else ""))
            if rank and (method, rank) not in factors:
                factors[method, rank] = factor_model(load_model("fashion-dit"), method, rank)
            cached = Cache("icc", period, rank) if rank else Cache("reuse", period)
            published = _published(wish, cached, method)
            found = made(cached, factors.get((method, rank)))
            rows.append(
                {
                    "method": method,
                    "period": period,
                    "rank": rank,
                    "psnr_fp32_db": psnr_db(published, fp32),
                    "psnr_int8_db": psnr_db(found, int8),
                    "psnr_int8_to_fp32_db": psnr_db(found, fp32),
                }
            )
    return rows


def _published(wish: Any, cached: Any, method: str) -> Any:
    """Pictures of the published algorithm in fp32."""
    from ditto_cosim.host.analysis.increments import increments
    from ditto_cosim.host.compiler.cache import outputs, places
    from ditto_cosim.host.pipeline.model_factors import factor_pairs_of
    from ditto_cosim.host.pipeline.models import load_model

    model = load_model("fashion-dit")
    found = places(model.denoiser)
    pairs: dict[str, Any] = dict.fromkeys(outputs(list(found), cached.parts))
    if cached.kind == "icc":
        pairs = factor_pairs_of(model, method, cached.rank)
    with increments(model.denoiser, pairs, cached.period):
        return model.pipe(**model.arguments(wish), output_type="np").images


def psnr_db(pictures: Any, reference: Any) -> float:
    """Mean over the pictures, values in 0…1."""
    return round(float(np.mean(psnrs_db(pictures, reference))), 2)


def psnrs_db(pictures: Any, reference: Any) -> list[float]:
    """Of each picture."""
    pairs = zip(pictures, reference, strict=True)
    errors = [float(np.mean(np.square(a.astype(np.float64) - b))) for a, b in pairs]
    return [10 * math.log10(1 / e) if e else math.inf for e in errors]
