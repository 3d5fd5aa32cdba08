# SPDX-License-Identifier: Apache-2.0
"""A generation as a person meets it: a line, a card in a notebook, a data frame, a page, its energy.

    generation = pipe.unet.generation
    generation                                        <generation: 20 steps of ditto on paper_twin (rtl), 1,234,567 cycles>
    generation.layers.group_by("name").sum()          one row per layer and step
    generation.energy["dram"]                         picojoules by unit
    generation.report()                               writes report.html, gives its path

What this file does not do: compute any of it; the host counted, the device's prices and the reports are asked.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ditto_cosim.host.pipeline.run import Generation
from ditto_cosim.protocol.errors import DittoError

if TYPE_CHECKING:
    import polars

    from ditto_cosim.host.report.model import RunReport


class NotRecordedError(DittoError):
    """Something that only a run's record can tell, asked of a generation that left none."""


@dataclass(repr=False)
class ShownGeneration(Generation):
    """What a generation has shown, in the forms that people and notebooks want it."""

    @property
    def cycles(self) -> int:
        """Of the whole run so far."""
        return self.totals.get("cycles", 0)

    @property
    def seconds(self) -> float:
        """What the run takes on the chip, at the chip's clock."""
        return self.cycles / self.clock_hz if self.clock_hz else 0.0

    @property
    def layers(self) -> polars.DataFrame:
        """One row per layer and step: mode, elements by class, slots, cycles, and where cycles and bytes went; its columns are
        those of `layers.parquet` (docs/record.md)."""
        from ditto_cosim.host.report.columns import frame

        return frame(self._run_report())

    @property
    def energy(self) -> Mapping[str, float]:
        """Picojoules by unit, as `ditto price` gives them, from the steps that are complete."""
        from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, design_of, price_run
        from ditto_cosim.protocol.record import RunRecord

        if self.directory is None:
            raise NotRecordedError(
                "this generation left no record, which energy is priced from; say where: accelerate(…, directory='runs/mine')"
            )
        columns = RecordColumns.load(RunRecord(self.directory))
        return price_run(columns, chip_of(columns.info), design_of(columns.info)).energy_totals()

    def report(self, directory: str | Path | None = None) -> Path:
        """Writes `report.html` with its figures beside it, into the record's directory unless another is given; its path."""
        from ditto_cosim.host.report import write_report

        where = Path(directory) if directory is not None else self.directory
        if where is None:
            raise NotRecordedError("say where the report goes: generation.report('runs/mine')")
        write_report(self._run_report(), where)
        return where / "report.html"

    def _run_report(self) -> RunReport:
        from ditto_cosim.host.generation import check_summary
        from ditto_cosim.host.report.model import RunReport

        spec = self.spec
        return RunReport.of(
            [report for report in self.reports if report.step < self.steps],
            model=self.model or "a denoiser",
            design=spec.design if spec else "",
            chip=spec.chip if spec else "",
            backend=spec.backend if spec else "",
            low_rule=self.low_rule,
            clock_hz=self.clock_hz,
            seed=self.seed,
            command_line="",
            wall_s=self.wall_s,
            total_cycles=self.cycles,
            verdict=None if self.verdict is None else check_summary(self.verdict),
            recoveries=self.recoveries,
            period=self.period,
        )

    # --- in words -----------------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, str]:
        spec = self.spec
        return {
            "model": self.model,
            "machine": f"{spec.design} on {spec.chip}, {spec.backend}" if spec else "",
            "steps": f"{self.steps}",
            "cycles": f"{self.cycles:,}",
            "on the chip": f"{self.seconds * 1e3:.3f} ms",
            "modes": ", ".join(f"{mode} {share:.0%}" for mode, share in self._modes().items()),
            "verification": self._verdict_words(),
            "record": str(self.directory or ""),
        }

    def _modes(self) -> dict[str, float]:
        """Share of the cycles by mode."""
        total = sum(report.cycles for report in self.reports) or 1
        found: dict[str, int] = {}
        for report in self.reports:
            found[report.mode] = found.get(report.mode, 0) + report.cycles
        return {mode: cycles / total for mode, cycles in sorted(found.items())}

    def _verdict_words(self) -> str:
        if self.verdict is None:
            return "not verified (verify=True)"
        if not self.verdict.bit_identical:
            return f"DIFFERS: {self.verdict.first_difference}"
        return f"bit-identical, {self.verdict.values_checked:,} values"

    def __repr__(self) -> str:
        spec = self.spec
        machine = f" of {spec.design} on {spec.chip} ({spec.backend})" if spec else ""
        verdict = "" if self.verdict is None else f", {self._verdict_words()}"
        return f"<generation: {self.steps} steps{machine}, {self.cycles:,} cycles{verdict}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self._facts().items()
            if text
        )
        return f"<table>{rows}</table>"
