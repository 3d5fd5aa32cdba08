# SPDX-License-Identifier: Apache-2.0
"""The paper's 43 claims: published value, ours under both presets, deviation, verdict and why.

Interface
    judge(paper, tlm, measured=None) -> list[JudgedClaim] from two `Evaluation`s
    null_test(paper, tlm) -> the same with every design equal to its baseline: nothing may be reproduced then
    claims() is the list itself (`claims.csv`): what was published, the judgements that no number gives, why each is what it is

Verdicts, on the worst of a claim's numbers under the `paper` preset (under `tlm` where the preset has no such number):
    reproduced   near   failed
    input        we put it in, or it follows from what we put in
    uncheckable  needs what is not published
    underivable  published averages do not decide it: some models with these averages agree, others do not
    contradicted other claims of the paper exclude it; `why` shows how
What is graded is the effect, not the ratio: a speed-up of 1.5 is an effect of 0.5, 17.74 % less energy one of −0.1774, and ours
may miss it by 10 % of itself (reproduced) or by 25 % (near). Plain shares and counts may miss by 5 and 10 %. A claim that says
only "more than" is reproduced when ours is, by at least 1 %. Where a sentence has two readings both are shown and the closer
one is graded.

What this file does not do: price anything (`evaluation.py`), draw (`figures.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from ditto_cosim.device.timing.defo import ENTRIES
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.study import measured as shipped
from ditto_cosim.study.evaluation import Evaluation, bops, mean
from ditto_cosim.study.workloads import WORKLOADS, workload_program

Judgement = Literal["reproduced", "near", "failed", "uncheckable", "underivable", "contradicted", "input"]
_JUDGEMENTS: Mapping[str, Judgement] = {judgement: judgement for judgement in get_args(Judgement)}
REPRODUCED, NEAR = 0.05, 0.10
EFFECT_REPRODUCED, EFFECT_NEAR = 0.10, 0.25
MORE_THAN = 0.01
"""Ours must exceed a bound by so much to count as beyond it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of `claims.csv`."""

    id: str
    text: str
    published: str
    where: str
    configuration: str
    given: Judgement | None
    """The judgement where it does not follow from the numbers; otherwise none."""
    why: str


Kind = Literal["effect", "share", "count", "more"]
"""effect: a ratio to a baseline. share: no baseline. count: of what the models and the unit are, whatever the designs do.
more: a bound to be exceeded."""


@dataclass(frozen=True, slots=True)
class Number:
    """One figure of a claim."""

    label: str
    published: float
    ours: Callable[[Evaluation], float | None]
    kind: Kind = "share"
    reading: str = ""
    """Of numbers with different readings the closest is graded."""

    def deviation(self, ours: float) -> float:
        """Of the effect, or of the number where there is no baseline to compare with; −1: not beyond its bound."""
        if self.kind == "more":
            return 0.0 if ours > self.published + MORE_THAN else -1.0
        baseline = 1.0 if self.kind == "effect" else 0.0
        return (ours - baseline) / (self.published - baseline) - 1

    def grade(self, ours: float) -> int:
        """0 reproduced, 1 near, 2 failed."""
        size = abs(self.deviation(ours))
        good, fair = (EFFECT_REPRODUCED, EFFECT_NEAR) if self.kind == "effect" else (REPRODUCED, NEAR)
        return 0 if size <= good else 1 if size <= fair else 2


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """One claim beside what this model of the accelerator makes of it."""

    id: str
    claim: str
    published: str
    ours_paper: str
    ours_tlm: str
    ours_measured: str
    deviation: float | None
    verdict: Judgement
    why: str


@cache
def claims() -> tuple[Claim, ...]:
    text = resources.files("ditto_cosim.study").joinpath("claims.csv").read_text(encoding="utf-8")
    return tuple(
        Claim(
            row["id"],
            row["claim"],
            row["value"],
            row["where"],
            row["configuration"],
            _JUDGEMENTS[row["given"]] if row["given"] else None,
            row["why"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def judge(paper: Evaluation, tlm: Evaluation, measured: Evaluation | None = None) -> list[JudgedClaim]:
    """Every claim, in order."""
    verdicts = []
    for claim in claims():
        numbers = NUMBERS.get(claim.id, ())
        ours = [_values(numbers, e) for e in (paper, tlm, measured)]
        judged = ours[0] if any(v is not None for v in ours[0]) else ours[1]
        grade, deviation = _grade(numbers, judged)
        shown = [_show(numbers, values) for values in ours]
        verdicts.append(
            JudgedClaim(
                id=claim.id,
                claim=claim.text,
                published=claim.published,
                ours_paper=shown[0],
                ours_tlm=shown[1],
                ours_measured="; ".join(filter(None, (shown[2], shipped.shown(claim.id)))),
                deviation=deviation,
                verdict=claim.given or grade,
                why=claim.why,
            )
        )
    return verdicts


def _values(numbers: Sequence[Number], evaluation: Evaluation | None) -> list[float | None]:
    return [None if evaluation is None else n.ours(evaluation) for n in numbers]


def _grade(numbers: Sequence[Number], values: Sequence[float | None]) -> tuple[Judgement, float | None]:
    """The worst of a claim's numbers, of each reading; then the best reading."""
    by_reading: dict[str, list[tuple[int, float]]] = {}
    for number, value in zip(numbers, values, strict=True):
        if value is not None:
            judged = number.grade(value), number.deviation(value)
            by_reading.setdefault(number.reading, []).append(judged)
    if not by_reading:
        return "uncheckable", None
    worst = [max(found, key=lambda j: (j[0], abs(j[1]))) for found in by_reading.values()]
    grade, deviation = min(worst, key=lambda j: (j[0], abs(j[1])))
    return _GRADES[grade], deviation


_GRADES: tuple[Judgement, ...] = ("reproduced", "near", "failed")


def null_test(paper: Evaluation, tlm: Evaluation) -> dict[str, Any]:
    """What the verdicts would be if no design differed from its baseline: a rule that then calls anything reproduced is no rule.
    Claims that say nothing about designs (how many layers there are) are not in it."""
    asked = {i for i, numbers in NUMBERS.items() if any(n.kind != "count" for n in numbers)}
    found = [j for j in judge(paper.null(), tlm.null()) if j.id in asked]
    graded = [j for j in found if j.verdict in _GRADES]
    return {
        "reproduced": sum(j.verdict == "reproduced" for j in graded),
        "near": sum(j.verdict == "near" for j in graded),
        "claims": [{"id": j.id, "verdict": j.verdict} for j in graded],
    }


def _show(numbers: Sequence[Number], values: Sequence[float | None]) -> str:
    return "; ".join(f"{n.label} {v:.4g}" for n, v in zip(numbers, values, strict=True) if v is not None)


# --- what our side says ---------------------------------------------------------------------------------


def _saved(mode: Mode, over: Mode) -> Callable[[Evaluation], float]:
    return lambda e: 1 - bops(e.shares[mode]) / bops(e.shares[over])


def _speedup(design: str, over: str = "itc") -> Callable[[Evaluation], float]:
    """Of mean speed-ups over ITC, as the paper compares designs."""
    return lambda e: mean(e.speedup(design)) / mean(e.speedup(over))


def _energy(design: str, over: str = "itc") -> Callable[[Evaluation], float]:
    return lambda e: mean(e.energy(design)) / mean(e.energy(over))


def _traffic(design: str) -> Callable[[Evaluation], float]:
    return lambda e: mean(e.traffic(design))


def _accuracy(design: str) -> Callable[[Evaluation], float]:
    return lambda e: mean(e.accuracy(design))


def _back(design: str) -> Callable[[Evaluation], float]:
    return lambda e: mean(e.back(design))


def _of_ideal(design: str, ideal: str, drifting: bool = False) -> Callable[[Evaluation], float | None]:
    def fraction(e: Evaluation) -> float | None:
        runs = list((e.drifting if drifting else e.runs).values())
        return mean([r[ideal].total_cycles / r[design].total_cycles for r in runs]) if runs else None

    return fraction


def _drift_accuracy(e: Evaluation) -> float | None:
    found = [r["ditto"].accuracy for r in e.drifting.values() if r["ditto"].accuracy is not None]
    return mean(found) if found else None


def _latency_share(cause: str) -> Callable[[Evaluation], float | None]:
    return lambda e: mean(e.stall_share("ditto", cause)) if e.preset == "tlm" else None


def _energy_share(unit: str) -> Callable[[Evaluation], float]:
    return lambda e: mean(e.energy_share("ditto", unit))


def _stall_ratio(e: Evaluation) -> float:
    return mean(e.dram_stall("ditto")) / mean(e.dram_stall("db_ds_attn"))


def _layers(_: Evaluation) -> float:
    return float(max(len(workload_program(name).layers) for name in WORKLOADS))


def _latte_back(e: Evaluation) -> float | None:
    return e.back("ditto_plus")[list(e.runs).index("latte")] if "latte" in e.runs else None


NUMBERS: Mapping[str, Sequence[Number]] = {
    "C09": (Number("zero", 0.4448, lambda e: e.shares["temporal"].zero),),
    "C10": (Number("low", 0.5152, lambda e: e.shares["temporal"].low),),
    "C11": (Number("zero + low", 0.9601, lambda e: e.shares["temporal"].zero + e.shares["temporal"].low),),
    "C12": (Number("full", 0.0399, lambda e: e.shares["temporal"].full),),
    "C13": (
        Number("activations", 0.4228, lambda e: e.shares["original"].full),
        Number("spatial", 0.2558, lambda e: e.shares["spatial"].full),
    ),
    "C14": (
        Number("over act", 0.2612, lambda e: e.shares["temporal"].zero - e.shares["original"].zero),
        Number("over spatial", 0.1804, lambda e: e.shares["temporal"].zero - e.shares["spatial"].zero),
    ),
    "C15": (
        Number("vs act", 0.533, _saved("temporal", "original")),
        Number("vs spatial", 0.231, _saved("temporal", "spatial")),
    ),
    "C16": (Number("vs act", 0.388, _saved("spatial", "original")),),
    "C20": (
        Number(
            "per sub-operation",
            2.0,
            lambda e: bops(e.shares["original"]) / bops(e.shares["temporal"]),
            "more",
        ),
    ),
    "C21": (Number("naive", 2.75, lambda e: mean(e.naive) if e.naive else None, "effect"),),
    "C22": (Number("Defo", 0.92, _accuracy("ditto")), Number("Defo+", 0.8811, _accuracy("ditto_plus"))),
    "C23": (
        Number("layers", 347, _layers, "count"),
        Number("entries", 512, lambda e: float(ENTRIES), "count"),
    ),
    "C27": (Number("Ditto", 1.5, _speedup("ditto"), "effect"),),
    "C28": (Number("Ditto+/Ditto", 1.06, _speedup("ditto_plus", "ditto"), "effect"),),
    "C29": (Number("Diffy/Ditto", 0.76, _speedup("diffy", "ditto"), "effect"),),
    "C30": (Number("Ditto/Cambricon-D", 1.56, _speedup("ditto", "cambricon_d"), "effect"),),
    "C31": (
        Number("Ditto", 0.8226, _energy("ditto"), "effect"),
        Number("Ditto+", 0.7708, _energy("ditto_plus"), "effect"),
        Number("Diffy", 0.857, _energy("diffy"), "effect"),
    ),
    "C32": (
        Number("Ditto/Cambricon-D", 0.5676, _energy("ditto", "cambricon_d"), "effect", "of Cambricon-D's"),
        Number("Cambricon-D/Ditto", 1.4324, _energy("cambricon_d", "ditto"), "effect", "of Ditto's"),
    ),
    "C33": (Number("EU", 0.001, _latency_share("encode")), Number("VPU", 0.0017, _latency_share("vector"))),
    "C34": (Number("EU", 0.0223, _energy_share("encode")), Number("VPU", 0.029, _energy_share("vector"))),
    "C35": (
        Number("Cambricon-D", 1.95, _traffic("cambricon_d"), "effect"),
        Number("Ditto", 1.56, _traffic("ditto"), "effect"),
        Number("Ditto+", 1.36, _traffic("ditto_plus"), "effect"),
    ),
    "C36": (
        Number(
            "with Ditto's software", 1.16, _speedup("cambricon_d_ditto", "cambricon_d_original"), "effect"
        ),
    ),
    "C37": (
        Number("Ditto", 1.068, _speedup("ditto_sign_mask", "ditto"), "effect"),
        Number("Ditto+", 1.055, _speedup("ditto_plus_sign_mask", "ditto_plus"), "effect"),
    ),
    "C38": (
        Number("DS cycles over ITC", 1.0, lambda e: 1 / mean(e.speedup("ds")), "more"),
        Number("DB cycles over ITC", 1.0, lambda e: 1 / mean(e.speedup("db")), "more"),
    ),
    "C39": (
        Number("DB&DS", 1.0, lambda e: mean(e.speedup("db_ds")), "more"),
        Number("DB&DS&Attn.", 1.0, lambda e: mean(e.speedup("db_ds_attn")), "more"),
    ),
    "C40": (
        Number("stall", 0.6076, lambda e: _stall_ratio(e) if e.preset == "paper" else None, "effect"),
        Number("performance", 1.1832, _speedup("ditto", "db_ds_attn"), "effect"),
    ),
    "C41": (
        Number("Defo", 0.144, _back("ditto")),
        Number("Defo+", 0.3829, _back("ditto_plus")),
        Number("Latte Defo+", 0.816, _latte_back),
    ),
    "C42": (
        Number("Ditto", 0.988, _of_ideal("ditto", "ideal_ditto"), "effect"),
        Number("Ditto+", 0.958, _of_ideal("ditto_plus", "ideal_ditto_plus"), "effect"),
    ),
    "C43": (
        Number("accuracy", 0.85, _drift_accuracy),
        Number("Ditto", 0.9803, _of_ideal("ditto", "ideal_ditto", True), "effect"),
        Number("Dynamic-Ditto", 0.9818, _of_ideal("dynamic_ditto", "ideal_ditto", True), "effect"),
    ),
}
"""By claim; one that is not here has no figure of ours to compare."""
