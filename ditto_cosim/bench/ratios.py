# SPDX-License-Identifier: Apache-2.0
"""All ratios of the quick benches beside those last recorded for the same kind of processor: it informs, it fails nothing.

    make bench-quick                                  measures and compares
    python -m ditto_cosim.bench.ratios                the same, and writes them down in `recorded.json` as this processor's

What this file does not do: measure; it asks `rtl.py`, `model.py` and `generate.py`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from ditto_cosim.bench import generate, model, rtl

RECORDED = Path(__file__).with_name("recorded.json")
NAMES = {
    "model.ddpm.rtl_over_fp32": "an rtl step ÷ fp32, 35.7 M",
    "model.ddpm.rtl_wide_over_fp32": "an rtl_wide step ÷ fp32, 35.7 M",
    "model.ddpm.model_over_fp32": "a model step ÷ fp32, 35.7 M",
    "model.ddpm.golden_over_fp32": "golden's step ÷ fp32, 35.7 M",
    "model.icc.pictures.1.increment_over_full_slots": "a slot of an increment ÷ of a full step",
    "model.icc.pictures.16.increment_over_full_slots": "the same, 16 pictures",
    "model.icc.pictures.16.cached_run_over_full_slots": "a slot of the whole cached run, 16 pictures",
    "model.sq_dm.code_over_slot_million": "a code of SQ-DM's ÷ a slot",
    "rtl.gmac_per_s_per_core": "lane, C = 256, GMAC/s a core",
    "rtl.gmac_per_s_c128": "lane, C = 128, GMAC/s a core",
    "rtl.gmac_per_s_c64": "lane, C = 64, GMAC/s a core",
    "rtl.ddpm_mix_over_best": "C = 128 over the layers of 35.7 M ÷ its best",
    "rtl.eval_ratio": "a pass without driver ÷ with",
    "generate.to_first_step_s": "generate, seconds to the first step",
    "generate.second_run_to_first_step_s": "the same, again in one process",
    "generate.step_over_bench": "generate's step ÷ the bare machine's",
    "generate.verify_over_plain": "a verified step ÷ a plain one",
    "generate.two_devices": "two commands at once ÷ one",
}


def measure(quick: bool = True) -> dict[str, Any]:
    """The ratios by name, and what was recorded for this processor (None: nothing)."""
    benches = {"model": model.measure(quick), "rtl": rtl.measure(quick), "generate": generate.measure(quick)}
    ratios = {name: round(float(_at(benches, name.split("."))), 3) for name in NAMES}
    return {"processor": processor(), "ratios": ratios, "recorded": _recorded().get(processor())}


def table(figures: Mapping[str, Any]) -> str:
    """One line a ratio."""
    recorded = figures["recorded"]
    before = recorded["ratios"] if recorded else {}
    lines = [
        f"{figures['processor']}: " + (f"beside {recorded['date']}" if recorded else "nothing recorded yet")
    ]
    for name, value in figures["ratios"].items():
        was = before.get(name)
        beside = "" if not was else f"{was:10.2f}{value / was:9.2f}×"
        lines.append(f"{NAMES[name]:46}{value:10.2f}{beside}")
    return "\n".join(lines)


def processor() -> str:
    """The kind of processor, as it names itself, and how many of its cores there are."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _at(found: Any, path: list[str]) -> Any:
    for name in path:
        found = found[int(name) if name.isdigit() else name]
    return found


def _recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
    return found


def record(figures: Mapping[str, Any]) -> None:
    """Writes the ratios down as this processor's last."""
    kept = _recorded()
    kept[figures["processor"]] = {"date": date.today().isoformat(), "ratios": figures["ratios"]}
    RECORDED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    measured = measure()
    print(table(measured))
    record(measured)
