# SPDX-License-Identifier: Apache-2.0
"""The paper's 43 claims: published value, ours under both presets, deviation, verdict and why.

Interface: `judge(paper, tlm, measured=None) -> list[JudgedClaim]` from two `Evaluation`s; `claims()` is the
list itself. What was published, the judgements that no number gives, and why each is what it is: `claims.csv`.

Verdicts, on the worst of a claim's numbers under the `paper` preset (under `tlm` where the preset has no such
number):
    reproduced ≤ 5 %   near ≤ 10 %   failed   input (we put it in)   uncheckable (needs what is not published)
    contradicted (other claims of the paper exclude it; `why` shows how)
Savings and "x % lower" are compared as the ratios they state: 17.74 % less energy is 0.8226.

What this file does not do: price anything (`evaluation.py`), draw (`figures.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, get_args

from ditto_cosim.device.timing.defo import ENTRIES
from ditto_cosim.protocol.hardware import Mode
from ditto_cosim.study.evaluation import Evaluation, bops, mean, naive_traffic
from ditto_cosim.study.workloads import WORKLOADS, workload_program

Judgement = Literal["reproduced", "near", "failed", "uncheckable", "contradicted", "input"]
_JUDGEMENTS: Mapping[str, Judgement] = {judgement: judgement for judgement in get_args(Judgement)}
REPRODUCED, NEAR = 0.05, 0.10


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


@dataclass(frozen=True, slots=True)
class Number:
    """One figure of a claim."""

    label: str
    published: float
    ours: Callable[[Evaluation], float | None]


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
        deviation = _deviation(numbers, ours[0] if any(v is not None for v in ours[0]) else ours[1])
        shown = [_show(numbers, values) for values in ours]
        verdicts.append(
            JudgedClaim(
                id=claim.id,
                claim=claim.text,
                published=claim.published,
                ours_paper=shown[0],
                ours_tlm=shown[1],
                ours_measured=shown[2],
                deviation=deviation,
                verdict=claim.given or _grade(deviation),
                why=claim.why,
            )
        )
    return verdicts


def _values(numbers: Sequence[Number], evaluation: Evaluation | None) -> list[float | None]:
    return [None if evaluation is None else n.ours(evaluation) for n in numbers]


def _deviation(numbers: Sequence[Number], values: Sequence[float | None]) -> float | None:
    found = [v / n.published - 1 for n, v in zip(numbers, values, strict=True) if v is not None]
    return max(found, key=abs) if found else None


def _grade(deviation: float | None) -> Judgement:
    if deviation is None:
        return "uncheckable"
    if abs(deviation) <= REPRODUCED:
        return "reproduced"
    return "near" if abs(deviation) <= NEAR else "failed"


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
            "per sub-operation over 2",
            1.0,
            lambda e: min(1.0, bops(e.shares["original"]) / bops(e.shares["temporal"]) / 2),
        ),
    ),
    "C21": (Number("naive", 2.75, lambda e: mean(naive_traffic()) if len(e.runs) > 1 else None),),
    "C22": (Number("Defo", 0.92, _accuracy("ditto")), Number("Defo+", 0.8811, _accuracy("ditto_plus"))),
    "C23": (Number("layers", 347, _layers), Number("entries", 512, lambda e: float(ENTRIES))),
    "C27": (Number("Ditto", 1.5, _speedup("ditto")),),
    "C28": (Number("Ditto+/Ditto", 1.06, _speedup("ditto_plus", "ditto")),),
    "C29": (Number("Diffy/Ditto", 0.76, _speedup("diffy", "ditto")),),
    "C30": (Number("Ditto/Cambricon-D", 1.56, _speedup("ditto", "cambricon_d")),),
    "C31": (
        Number("Ditto", 0.8226, _energy("ditto")),
        Number("Ditto+", 0.7708, _energy("ditto_plus")),
        Number("Diffy", 0.857, _energy("diffy")),
    ),
    "C32": (Number("Ditto/Cambricon-D", 0.5676, _energy("ditto", "cambricon_d")),),
    "C33": (Number("EU", 0.001, _latency_share("encode")), Number("VPU", 0.0017, _latency_share("vector"))),
    "C34": (Number("EU", 0.0223, _energy_share("encode")), Number("VPU", 0.029, _energy_share("vector"))),
    "C35": (
        Number("Cambricon-D", 1.95, _traffic("cambricon_d")),
        Number("Ditto", 1.56, _traffic("ditto")),
        Number("Ditto+", 1.36, _traffic("ditto_plus")),
    ),
    "C36": (Number("with Ditto's software", 1.16, _speedup("cambricon_d_ditto", "cambricon_d_original")),),
    "C37": (
        Number("Ditto", 1.068, _speedup("ditto_sign_mask", "ditto")),
        Number("Ditto+", 1.055, _speedup("ditto_plus_sign_mask", "ditto_plus")),
    ),
    "C38": (
        Number("DS cycles over ITC (at least)", 1.0, lambda e: 1 / mean(e.speedup("ds"))),
        Number("DB cycles over ITC (at least)", 1.0, lambda e: 1 / mean(e.speedup("db"))),
    ),
    "C39": (
        Number("DB&DS, at least 1", 1.0, lambda e: min(1.0, mean(e.speedup("db_ds")))),
        Number("DB&DS&Attn., at least 1", 1.0, lambda e: min(1.0, mean(e.speedup("db_ds_attn")))),
    ),
    "C40": (
        Number("stall", 0.6076, lambda e: _stall_ratio(e) if e.preset == "paper" else None),
        Number("performance", 1.1832, _speedup("ditto", "db_ds_attn")),
    ),
    "C41": (
        Number("Defo", 0.144, _back("ditto")),
        Number("Defo+", 0.3829, _back("ditto_plus")),
        Number("Latte Defo+", 0.816, _latte_back),
    ),
    "C42": (
        Number("Ditto", 0.988, _of_ideal("ditto", "ideal_ditto")),
        Number("Ditto+", 0.958, _of_ideal("ditto_plus", "ideal_ditto_plus")),
    ),
    "C43": (
        Number("accuracy", 0.85, _drift_accuracy),
        Number("Ditto", 0.9803, _of_ideal("ditto", "ideal_ditto", True)),
        Number("Dynamic-Ditto", 0.9818, _of_ideal("dynamic_ditto", "ideal_ditto", True)),
    ),
}
"""By claim; one that is not here has no figure of ours to compare."""
