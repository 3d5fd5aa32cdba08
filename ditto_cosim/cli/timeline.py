# SPDX-License-Identifier: Apache-2.0
"""`ditto timeline`: steps of a run transaction by transaction, in Perfetto's format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ditto_cosim.cli.output import emit

if TYPE_CHECKING:
    from ditto_cosim.device.pricing.moments import StepMoments
    from ditto_cosim.host.report.timeline import Trace

WORDS = {
    "read_early": "DMA: weights and state",
    "read_late": "DMA: this step's values",
    "load": "lanes: weights load",
    "encode": "lanes: encoder",
    "compute": "lanes: PEs",
    "vector": "vector unit",
    "write": "DMA: results",
}
BINS = 400


def timeline(
    run: Annotated[Path, typer.Argument(help="Directory that `ditto generate` wrote")],
    step: Annotated[
        list[int] | None, typer.Option(min=0, help="A step; may be repeated  [default: the first four]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File  [default: transactions.pftrace in the run]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Every transfer, and every chunk through lanes and vector unit, at the cycles it took place. Opens in ui.perfetto.dev.

    Arrows follow a chunk from DMA through the lanes to the vector unit and back to DRAM. Playing a step again takes
    seconds. Example: ditto timeline runs/demo --step 0 --step 2
    """
    from ditto_cosim.device.pricing.moments import moments
    from ditto_cosim.device.pricing.recorded import RecordColumns, chip_of, design_of
    from ditto_cosim.host.report.timeline import Trace
    from ditto_cosim.protocol.files import replacing
    from ditto_cosim.protocol.record import RunRecord

    columns = RecordColumns.load(RunRecord(run))
    chip, design = chip_of(columns.info), design_of(columns.info)
    wanted = sorted({*(step or columns.steps[:4])})
    played = [moments(columns, chip, design, s) for s in wanted]
    made = Trace(f"{design.name} on {chip.name}, in transactions", chip.clock_hz)
    draw(made, played)
    path = output or run / "transactions.pftrace"
    with replacing(path) as unfinished:
        unfinished.write_bytes(made.bytes)
    figures = {
        "path": str(path),
        "steps": [{"step": m.step, "cycles": m.cycles, "pieces": len(m.pieces)} for m in played],
    }
    if as_json:
        emit("timeline", figures)
        return
    for m in played:
        print(f"step {m.step}: {m.cycles:,} cycles, {len(m.pieces):,} transfers and chunks")
    print(f"timeline: {path} (open it in ui.perfetto.dev)")


def draw(made: Trace, played: list[StepMoments]) -> None:
    """Steps one after another, as the chip has them."""
    from ditto_cosim.device.pricing.moments import DMA_UNITS, ROOMS

    steps, groups = made.track("steps"), made.track("layers")
    tracks = {unit: made.track(words) for unit, words in WORDS.items()}
    bandwidth = made.track("DRAM bytes a cycle", counter=True)
    held = {room: made.track(f"buffer, {room}: bytes", counter=True) for room in ROOMS}
    spare = {unit: [tracks[unit]] for unit in DMA_UNITS}
    begin = 0
    for m in played:
        made.slice(steps, f"step {m.step}", begin, begin + m.cycles)
        at = 0
        for name, mode, end in zip(m.names, m.modes, m.ends, strict=True):
            made.slice(groups, f"{mode} {name}".strip(), begin + at, begin + end, {"layer": name})
            at = end
        free = {track: 0 for shared in spare.values() for track in shared}
        for p in m.pieces:
            track = tracks[p.unit]
            if p.unit in spare:  # transfers overlap: each in a row that is free
                track = next((t for t in spare[p.unit] if free[t] <= p.start), 0)
                if not track:
                    track = made.track(WORDS[p.unit])
                    spare[p.unit].append(track)
                free[track] = p.end
            flow = ((m.step + 1) << 40) | (p.group << 20) | p.chunk
            facts: dict[str, int | str] = {"layer": m.names[p.group], "chunk": p.chunk, "bytes": p.nbytes}
            name = f"{m.modes[p.group]} {m.names[p.group]}".strip()
            made.slice(track, name, begin + p.start, begin + p.end, facts, (flow,))
        for at, rate in zip(*m.bandwidth(BINS), strict=True):
            made.counter(bandwidth, begin + int(at), float(rate))
        for room, track in held.items():
            for at, level in m.fill(room):
                made.counter(track, begin + at, float(level))
        begin += m.cycles
