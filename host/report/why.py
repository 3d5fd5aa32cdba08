# SPDX-License-Identifier: Apache-2.0
"""The first result in sentences: how a run's design does against ITC, because of what, and what would change it.

    for sentence in sentences(report, prices): print(sentence)

Everything said is a price of this run's own record; nothing is a rule of thumb except which knob moves which cause.
"""

from __future__ import annotations

from ditto_cosim.host.report.model import RunReport
from ditto_cosim.host.report.prices import DesignPrice, Prices

KNOBS = {
    "weight_load": "a larger batch, so that more rows share the weights,",
    "vector": "more vector lanes",
    "dram": "more bandwidth, or a buffer that keeps previous outputs on the chip",
    "fill": "larger layers: a larger batch or model, or fewer tiles",
    "encode": "a wider encoder",
}
"""What moves a cause, in words."""
CAUSE_WORDS = {
    "compute": "the PEs' work",
    "weight_load": "weights",
    "vector": "the vector unit",
    "dram": "DRAM",
    "fill": "fills and drains",
    "encode": "the encoder",
}
NEAR = 0.02
"""Closer than this to 1 a ratio is called even."""


def sentences(report: RunReport, prices: Prices | None) -> list[str]:
    """What a person is told last; empty without prices."""
    base = None if prices is None else prices.of("itc")
    if prices is None or base is None:
        return []
    own = prices.own
    if own.name == base.name:
        best = min((d for d in prices.designs if d.name != base.name), key=lambda d: d.cycles, default=None)
        said = [f"{own.title} is what others are held against."]
        return said if best is None else [*said, _against(best, base)]
    return [_against(own, base), _energy(own, base), _change(own, base, prices)]


def cycles_by_cause(price: DesignPrice) -> dict[str, float]:
    """Every cycle of a price once."""
    shares = {"compute": price.computing, **price.waits}
    return {cause: share * price.cycles for cause, share in shares.items()}


def _against(own: DesignPrice, base: DesignPrice) -> str:
    ratio = base.cycles / max(own.cycles, 1)
    ours, theirs = cycles_by_cause(own), cycles_by_cause(base)
    saved = {cause: theirs.get(cause, 0.0) - ours.get(cause, 0.0) for cause in ours | theirs}
    gains = sorted((c for c in saved if saved[c] > 0), key=lambda c: -saved[c])
    losses = sorted((c for c in saved if saved[c] < 0), key=lambda c: saved[c])
    parts = []
    if gains:
        first = gains[0]
        parts.append(
            f"it saves {_cycles(saved[first])} of {_words(first)} ({saved[first] / max(theirs[first], 1):.0%} of what ITC "
            "spends there)"
        )
    if losses:
        back = -sum(saved[c] for c in losses)
        named = " and ".join(_words(c) for c in losses[:2])
        parts.append(f"{_cycles(back)} more go to {named}")
    because = ", but ".join(parts) if ratio < 1 + NEAR or len(parts) == 1 else "; ".join(parts)
    return f"{own.title} {ratio:.2f}× ITC{f' because {because}' if because else ''}."


def _energy(own: DesignPrice, base: DesignPrice) -> str:
    ratio = own.total_pj / max(base.total_pj, 1e-30)
    most = max(own.energy_pj, key=lambda unit: own.energy_pj[unit])
    extra = own.dram_bytes / max(base.dram_bytes, 1) - 1
    moved = f"; differences move {extra:+.0%} DRAM bytes" if abs(extra) >= NEAR else ""
    how = "even" if abs(ratio - 1) < NEAR else "less" if ratio < 1 else "more"
    word = CAUSE_WORDS.get(most, most.upper() if most.endswith("ram") else most.replace("_", " "))
    where = f"{own.energy_pj[most] / own.total_pj:.0%} of it in {word}"
    return f"Energy {ratio:.2f}× ITC ({how}): {own.total_pj / 1e9:,.1f} mJ, {where}{moved}."


def _change(own: DesignPrice, base: DesignPrice, prices: Prices) -> str:
    ratio = base.cycles / max(own.cycles, 1)
    worst = max(own.waits, key=lambda cause: own.waits[cause], default="")
    parts = []
    if worst and own.waits[worst] > 0:
        parts.append(
            f"the PEs work in {own.computing:.0%} of the cycles, and most of the rest waits for {_words(worst)} "
            f"({own.waits[worst]:.0%}): {KNOBS.get(worst, worst)} would help"
        )
    there = max(prices.elsewhere, key=lambda e: e.speedup, default=None)
    if there is not None and there.speedup > ratio + NEAR:
        parts.append(f"the same run on the chip {there.chip} is {there.speedup:.2f}× ITC")
    lead = "Differences hardly pay here" if ratio < 1 + 5 * NEAR else "What would change it"
    return f"{lead}: {'; '.join(parts)}." if parts else ""


def _words(cause: str) -> str:
    return CAUSE_WORDS.get(cause, cause.replace("_", " "))


def _cycles(count: float) -> str:
    return f"{count / 1e6:,.2f} M cycles" if count >= 1e5 else f"{count:,.0f} cycles"
