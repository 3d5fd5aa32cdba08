# SPDX-License-Identifier: Apache-2.0
"""`ditto compare RUN RUN…`: runs of one model and seed in one table, and a plot of quality against cycles.

What this file does not do: price (`ditto_cosim/study/side_by_side.py`) or draw (`one_axis_chart.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ditto_cosim.cli.output import emit

PLOT = "compare.png"


def compare_runs(runs: Sequence[Path], chip: str, designs: Sequence[str], plot: bool, as_json: bool) -> None:
    """Prints it; the plot goes beside the first run."""
    from ditto_cosim.cli.tables import print_rows
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.study.side_by_side import side_by_side

    found = side_by_side(runs, load_chip(chip) if chip else None, designs)
    path = runs[0] / PLOT
    if plot:
        from ditto_cosim.study.one_axis_chart import save

        save(found["rows"], path)
    found |= {"runs": [str(run) for run in runs], "plot": str(path) if plot else None}
    if as_json:
        emit("compare", found)
        return
    print(f"on {found['chip']}; PSNR against {found['quality_against']}; speed over {found['over']}", end="")
    print_rows("", [
        {
            "run": row["way"],
            "design": row["design"],
            "steps": row["steps"],
            "PSNR": "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.2f}",
            "GMAC": f"{row['macs'] / 1e9:.3f}",
            "M slots": "" if row["slots"] is None else f"{row['slots'] / 1e6:.2f}",
            "G mult.": f"{row['multiplications'] / 1e9:.3f}",
            "cycles": f"{row['cycles']:,}",
            "MB": f"{row['bytes'] / 1e6:.1f}",
            "mJ": f"{row['energy_j'] * 1e3:.3f}",
            "speed": f"{row['speedup']:.2f}",
        }
        for row in sorted(found["rows"], key=lambda r: int(r["cycles"]))
    ])  # fmt: skip
    if plot:
        print(f"plot: {path}")
