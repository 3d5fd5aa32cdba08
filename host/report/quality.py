# SPDX-License-Identifier: Apache-2.0
"""A quality measurement as plain data and as a table: with error bars, fp32 beside int8's policies and SQ-DM's formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from ditto_cosim.host.analysis.quality import Quality

POLICIES = ("static", "clustered", "dynamic")
"""Of int8, as `compiler/quantize.py` has them (a page is made without PyTorch); other series say their own numbers."""

_COUNTED = ("frechet_distance", "inception_like", "accuracy", "recalled", "nearest_training_difference")
_LABELS = {
    "frechet_distance": "Fréchet distance to the training pictures",
    "inception_like": "Inception-like score, 1 to 10",
    "accuracy": "drawn as asked",
    "recalled": "nearest training picture is the one named",
    "nearest_training_difference": "difference to the nearest training picture, of 1",
}


def quality_figures(quality: Quality) -> dict[str, Any]:
    """Everything measured, as plain data."""
    from ditto_cosim.host.zoo import find
    from ditto_cosim.host.zoo.measure import extractor_of

    found: dict[str, Any] = {
        "model": quality.model,
        "count": quality.count,
        "seeds": list(quality.seeds),
        "steps": quality.steps,
        "extractor": "none: a folder does not say what its model was trained on"
        if Path(quality.model).is_dir()
        else extractor_of(find(quality.model).dataset),
        "series": {},
    }
    for name, series in quality.series.items():
        row: dict[str, Any] = {
            figure: {
                "mean": series.mean(figure),
                "error": series.error(figure),
                "by_seed": [one[figure] for one in series.figures],
            }
            for figure in _COUNTED
            if series.figures[0].get(figure) is not None
        }
        if name in quality.policies:
            costs = {figure: quality.cost(name, figure) for figure in row}
            for figure, (mean, error) in costs.items():
                row[figure] |= {"change": mean, "change_error": error}
            row["psnr_db"] = quality.psnr_db(name)
            row["mean_absolute_difference"] = quality.mean_absolute_difference(name)
        row["wall_s"] = series.wall_s
        found["series"][name] = row
    return found


def quality_table(figures: dict[str, Any]) -> Table:
    """`quality_figures` for a person."""
    series = figures["series"]
    title = (
        f"{figures['model']}: {figures['count']} pictures from each of {len(figures['seeds'])} seeds, "
        f"{figures['steps']} steps, the same noise in every column"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for name in series:
        table.add_column(f"int8 {name}" if name in POLICIES else name, justify="right")
    for figure in (f for f in _COUNTED if f in series["fp32"]):
        table.add_row(
            _LABELS[figure],
            *(_with_error(row[figure]["mean"], row[figure]["error"]) for row in series.values()),
        )
        table.add_row(
            "  change from fp32, seed by seed",
            *(
                _with_error(row[figure]["change"], row[figure]["change_error"], sign="+")
                if "change" in row[figure]
                else ""
                for row in series.values()
            ),
            style="dim",
        )
    for label, key, digits in (
        ("PSNR against fp32, dB", "psnr_db", 1),
        ("mean absolute difference, of 1", "mean_absolute_difference", 4),
        ("wall time, s", "wall_s", 1),
    ):
        table.add_row(label, *(f"{row[key]:.{digits}f}" if key in row else "" for row in series.values()))
    return table


def _with_error(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")
