# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's claims beside what this model of it measures: on a recorded run, and on EDM's networks by shape.

Interface
    measure(columns, plan) -> Findings         everything that is computed, from a record and the plan beside its model
    judge(findings) -> list[Judged]            Q01…Q15: published, ours, verdict, why; `sq_dm_claims.csv` says what was published

Two kinds of cycles: those of the arrays alone (4-bit layers, a barrier after each), which the published ratios are of, and
those of whole steps through the engine with memory and vector unit. Every claim carries its standing: P the paper's first page,
S someone who had read it, D derived. Verdicts: reproduced ≤ 5 %, near ≤ 10 %, failed, input, uncheckable; words where a claim is
no number. What this file does not do: run a model (`ditto generate`), or price a layer (`device/pricing`).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import load_design
from ditto_cosim.device.pricing.recorded import RecordColumns, RunTime, price_run
from ditto_cosim.device.pricing.two_arrays import SPLITS, Bools, RecordedArrays, mean_tag, theta
from ditto_cosim.device.timing import hetero
from ditto_cosim.device.timing.channel_streams import requests
from ditto_cosim.device.timing.first_ready import simulate
from ditto_cosim.host.compiler.plan import FormatPlan
from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.study.edm import NETWORKS, Network

INTERVALS = (1, 2, 5, 10, 10**6)
AREAS = (1.0, 1.38, 2.0, 3.0, 4.0, 5.0)
"""Of a sparse array's multiplier, in those of the dense one; 1.38 is SIGMA's beside a systolic array (floating point)."""
BASELINES = (
    "fp16_dense",
    "int4_dense",
    "int4_vsq",
    "sq_dm",
    "sq_dm_shared",
    "sq_dm_channel_first",
    "sq_dm_sparse",
)
REPRODUCED, NEAR = 0.05, 0.10


class StudyError(DittoError):
    """A record that SQ-DM cannot be studied on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One claim."""

    id: str
    claim: str
    published: str
    standing: str
    ours: str
    deviation: float | None
    verdict: str
    why: str


class Measured(RecordedArrays):
    """A recorded SQ-DM run, judged."""

    def __init__(self, columns: RecordColumns, chip: Chip | None = None) -> None:
        super().__init__(columns, chip)
        if not self.layers:
            raise StudyError(
                f"the record of {columns.info.model} holds no 4-bit layers; make one: "
                "ditto generate --model fashion-ddpm-relu --design sq_dm --backend model -o RUN"
            )

    @cached_property
    def zeros(self) -> dict[str, npt.NDArray[np.float64]]:
        """Layer -> share of zero codes [steps, channels]."""
        found = {}
        for name, met in self.layers.items():
            assert met.channels is not None
            found[name] = 1 - met.channels[:, hetero.NONZERO] / met.pixels
        return found

    def sparsity(self) -> float:
        """Share of zero codes, by MACs."""
        macs = {name: met.work.macs for name, met in self.layers.items()}
        return sum(macs[n] * float(z.mean()) for n, z in self.zeros.items()) / sum(macs.values())

    def ideal(self) -> float:
        """Every code that is not 0, spread over all multipliers."""
        dense = sparse = 0
        for met in self.layers.values():
            assert met.channels is not None
            dense += met.work.macs * len(met.channels)
            sparse += int(met.channels[:, hetero.PRODUCTS].sum()) * met.work.n
        return dense / sparse

    def spread(self) -> tuple[float, float]:
        """Standard deviation of zero shares: over channels (mean of steps), over steps (mean of channels)."""
        channels = np.concatenate([z.mean(axis=0) for z in self.zeros.values()])
        steps = np.concatenate([z.std(axis=0) for z in self.zeros.values()])
        return float(channels.std()), float(steps.mean())

    def flips(self) -> float:
        """Share of tags that change from a step to the next."""
        tags = self.tags().values()
        changes = sum(int((t[1:] != t[:-1]).sum()) for t in tags)
        return changes / max(1, sum(t[1:].size for t in tags))


def intervals(measured: Measured) -> list[dict[str, Any]]:
    """How long tags are kept, and where they come from, at every split."""
    return [
        {
            "dense_share": round(split, 4),
            "interval": "all steps" if each >= 10**6 else each,
            "tags": source,
            "speedup": round(measured.speedup(dense_share=split, interval=each, tags=source), 4),
        }
        for split in SPLITS
        for source in ("fresh", "carried")
        for each in INTERVALS
    ]


def areas(measured: Measured) -> list[dict[str, float]]:
    """Machines of equal area: the mix, and the sparse array alone, over the area of its multiplier."""
    return [
        {
            "sparse_area": a,
            "mix": round(measured.speedup(sparse_area=a), 4),
            "sparse_alone": round(measured.speedup(arrays="sparse", sparse_area=a), 4),
            "dense_alone": 1.0,
        }
        for a in AREAS
    ]


def layouts(measured: Measured) -> list[dict[str, Any]]:
    """Bursts and DRAM cycles of one layer's input under both address orders: the recorded net's in the middle of the run, and
    EDM's largest inputs of each network with the same share of sparse channels drawn at random."""
    cases: dict[str, tuple[int, Bools]] = {}
    for name, tags in measured.tags().items():
        cases[name] = (measured.layers[name].pixels, tags[len(tags) // 2])
    share, rng = mean_tag(measured.tags()), np.random.default_rng(0)
    for net in NETWORKS.values():
        widest = max(
            (x for x in net.layers if x.by_activation), key=lambda x: x.channels * (x.rows <= 32 * 32)
        )
        cases[f"{net.name} {widest.name}"] = (widest.rows, rng.random(widest.channels) < share)
    rows = []
    for name, (pixels, sparse) in cases.items():
        row: dict[str, Any] = {"layer": name, "channels": len(sparse), "sparse": int(sparse.sum())}
        for layout in ("channel_last", "channel_first"):
            asked = np.array(requests(layout, pixels, sparse), np.int64)
            row[f"{layout}_bursts"] = len(asked)
            row[f"{layout}_cycles"] = simulate(measured.chip.dram, asked, np.zeros(len(asked), bool)).cycles
        rows.append(row)
    return rows


# --- EDM by shape -----------------------------------------------------------------------------------------------------------


def quantization_speedup(net: Network, kept: int) -> float:
    """Over FP16, so many residual blocks at each end at 8 bits: throughput 4 : 2 : 1."""
    four = net.four_bit_macs(kept) / net.macs
    return 1 / (four / 4 + (1 - four) / 2)


def synthetic_speedup(net: Network, sparsity: float, multipliers: int = 256, seed: int = 0) -> float:
    """Of the 4-bit layers on two equal arrays, threshold 0.3, over one dense: channels' shares of zeros are drawn around the
    mean as widely as the note's measured net has them (0.28)."""
    rng = np.random.default_rng(seed)
    detector = hetero.Detector()
    mixed = dense = 0
    for layer in (x for x in net.layers if x.by_activation):
        spread = 0.28
        shape = sparsity * (sparsity * (1 - sparsity) / spread**2 - 1)
        zero = rng.beta(shape, shape * (1 - sparsity) / sparsity, layer.channels)
        nonzero = np.rint((1 - zero) * layer.rows).astype(np.int64)[None]
        sparse = detector.tags(nonzero, layer.rows)
        of_dense = np.array([int((~sparse).sum()) * layer.rows * layer.taps * layer.n])
        of_sparse = np.array([int((nonzero * sparse).sum()) * layer.taps * layer.n])
        half = multipliers // 2
        mixed += int(hetero.arrays(of_dense, of_sparse, 1, half, multipliers - half).total[0])
        dense += int(hetero.arrays(np.array([layer.macs]), np.array([0]), 1, multipliers, 0).total[0])
    return dense / mixed


# --- verdicts -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Findings:
    """Everything that a verdict rests on."""

    measured: Measured
    prices: Mapping[str, RunTime]
    """By design, of whole steps."""
    plan: FormatPlan | None
    formats: Mapping[str, float] | None = None
    """Signal to noise of the denoiser's output by formats, in dB, if they were measured."""

    @cached_property
    def theta(self) -> list[dict[str, float]]:
        return theta(self.measured)

    @cached_property
    def intervals(self) -> list[dict[str, Any]]:
        return intervals(self.measured)

    @cached_property
    def areas(self) -> list[dict[str, float]]:
        return areas(self.measured)

    def step_speedup(self, design: str, over: str) -> float:
        return self.prices[over].total_cycles / self.prices[design].total_cycles

    def energy_saving(self, over: str) -> float:
        return 1 - self.prices["sq_dm"].total_energy_pj / self.prices[over].total_energy_pj


def measure(
    columns: RecordColumns,
    plan: FormatPlan | None,
    chip: Chip | None = None,
    formats: Mapping[str, float] | None = None,
) -> Findings:
    measured = Measured(columns, chip)
    prices = {name: price_run(columns, measured.chip, load_design(name)) for name in BASELINES}
    return Findings(measured, prices, plan, formats)


def judge(found: Findings) -> list[Judged]:
    """Every claim, in order."""
    text = resources.files("ditto_cosim.study").joinpath("sq_dm_claims.csv").read_text(encoding="utf-8")
    ours = _ours(found)
    verdicts = []
    for row in csv.DictReader(text.splitlines()):
        words, published, value, holds = ours.get(row["id"], ("", None, None, None))
        deviation = None if published is None or value is None else value / published - 1
        verdicts.append(
            Judged(
                row["id"],
                row["claim"],
                row["published"],
                row["standing"],
                words,
                None if deviation is None else round(deviation, 4),
                row["given"] or _verdict(deviation, holds),
                row["why"],
            )
        )
    return verdicts


def _verdict(deviation: float | None, holds: bool | None) -> str:
    if holds is not None:
        return "reproduced" if holds else "failed"
    if deviation is None:
        return "uncheckable"
    return "reproduced" if abs(deviation) <= REPRODUCED else "near" if abs(deviation) <= NEAR else "failed"


Ours = tuple[str, float | None, float | None, bool | None]
"""(in words, published number, our number, whether a claim that is no number holds)"""


def _ours(found: Findings) -> dict[str, Ours]:
    measured, nets = found.measured, list(NETWORKS.values())
    cifar = NETWORKS["edm-cifar10"]
    quantized = [quantization_speedup(net, kept) for net in nets for kept in (0, 1)]
    alone, sparse = quantization_speedup(cifar, 0), synthetic_speedup(cifar, 0.65)
    gained = measured.speedup()
    best = max((r for r in found.theta if r["dense_share"] == 0.5), key=lambda r: r["speedup"])
    every = {
        r["interval"]: r["speedup"]
        for r in found.intervals
        if r["dense_share"] == 0.5 and r["tags"] == "fresh"
    }
    kept = [net.conv_activation_macs / net.macs for net in nets]
    computed = float(np.mean([1 - (f / 4 + (1 - f) / 2) for f in kept]))
    held = float(np.mean([1 - (4.25 * f + 8.25 * (1 - f)) / 16 for f in kept]))
    memory = [found.energy_saving(over) for over in ("int4_dense", "fp16_dense")]
    whole = found.step_speedup("sq_dm", "fp16_dense")
    rows: dict[str, Ours] = {
        "Q01": (
            f"{alone * sparse:.2f}x ({alone:.2f} × {sparse:.2f}); whole steps of {measured.columns.info.model}: {whole:.2f}x",
            6.91,
            alone * sparse,
            None,
        ),
        "Q02": (f"{memory[0]:.1%} over INT4 dense, {memory[1]:.1%} over FP16 dense", 0.515, memory[0], None),
        "Q03": (
            f"{min(quantized):.2f}…{max(quantized):.2f}x on EDM's shapes; whole steps of the recorded net "
            f"{found.step_speedup('int4_dense', 'fp16_dense'):.2f}x",
            3.78,
            alone,
            None,
        ),
        "Q04": (
            f"{gained:.2f}x of an ideal {measured.ideal():.2f} ({gained / measured.ideal():.0%}); synthetic 65 % on EDM "
            f"{sparse:.2f}x",
            1.83,
            gained,
            None,
        ),
        "Q05": (f"{measured.sparsity():.1%}", 0.65, measured.sparsity(), None),
        "Q06": (
            f"best at {best['threshold']:.1f} ({best['speedup']:.2f}x); at 0.3 {gained:.2f}x",
            None,
            None,
            gained >= 0.98 * best["speedup"],
        ),
        "Q07": (
            ", ".join(f"{u}: {v / every[1]:.3f}" for u, v in every.items()),
            None,
            None,
            every[1] >= max(every.values()),
        ),
        "Q08": (f"{computed:.1%}", 0.73, computed, None),
        "Q09": (f"{held:.1%}", 0.72, held, None),
        "Q10": (", ".join(f"{share:.1%}" for share in kept), 0.90, float(np.mean(kept)), None),
    }
    if found.plan is not None and found.plan.sensitivity:
        rows["Q11"] = _sensitive(found.plan)
    if found.formats is not None:
        rows["Q15"] = _quality(found.formats)
    return rows


def _sensitive(plan: FormatPlan) -> Ours:
    ranked = sorted(range(len(plan.sensitivity)), key=lambda i: plan.sensitivity[i].snr_db)
    count = len(plan.sensitivity)
    told = ", ".join(f"{i + 1} of {count} ({plan.sensitivity[i].snr_db:.1f} dB)" for i in ranked[:3])
    ends = all(i < 2 or i >= count - 2 for i in ranked[:3])
    return f"most sensitive: blocks {told}", None, None, ends


def _quality(formats: Mapping[str, float]) -> Ours:
    told = ", ".join(f"{name} {snr:.1f} dB" for name, snr in formats.items())
    holds = formats["sq_dm"] > formats["int4_vsq"] > formats["int4_tensor"]
    return told, None, None, holds


def tables(found: Findings) -> dict[str, Any]:
    """Everything beside the claims, as plain data."""
    measured = found.measured
    over_channels, over_steps = measured.spread()
    dense, sparse = measured.utilisation()
    return {
        "theta": found.theta,
        "intervals": found.intervals,
        "areas": found.areas,
        "layouts": layouts(measured),
        "sparsity": {
            "zero_codes_by_macs": round(measured.sparsity(), 4),
            "std_over_channels": round(over_channels, 4),
            "std_over_steps": round(over_steps, 4),
            "sparse_channels": round(mean_tag(measured.tags()), 4),
            "tag_flips_a_step": round(measured.flips(), 4),
            "ideal_speedup": round(measured.ideal(), 4),
        },
        "utilisation": {"dense": round(dense, 4), "sparse": round(sparse, 4)},
        "designs": {
            name: {
                "cycles": time.total_cycles,
                "speedup_over_fp16_dense": round(found.step_speedup(name, "fp16_dense"), 4),
                "dram_bytes": time.total_bytes,
                "energy_j": time.total_energy_pj / 1e12,
            }
            for name, time in found.prices.items()
        },
        "edm": [
            {
                "network": net.name,
                "gmacs": round(net.macs / 1e9, 2),
                "conv_activation_share": round(net.conv_activation_macs / net.macs, 4),
                "residual_blocks": len(net.residual_blocks),
                "heun_steps": net.heun_steps,
                "evaluations": net.evaluations,
                "quantization_speedup": [round(quantization_speedup(net, kept), 3) for kept in (0, 1)],
                "sparsity_speedup": round(synthetic_speedup(net, 0.65), 3),
            }
            for net in NETWORKS.values()
        ],
    }
