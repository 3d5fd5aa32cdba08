# SPDX-License-Identifier: Apache-2.0
"""`ditto trace`: from a pixel, or from where a verification failed, to a row in the RTL and its waveform."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ditto_cosim.pixel import PixelPath
    from ditto_cosim.sim_harness.recorded import RowPass


def trace(
    run: Annotated[Path, typer.Argument(help="Directory that `ditto generate` wrote")],
    pixel: Annotated[
        str, typer.Option(help="Column,row of the picture from its upper left, such as 12,7")
    ] = "",
    step: Annotated[int, typer.Option(help="Denoising step  [default: the last]")] = -1,
    picture: Annotated[int, typer.Option(min=0, help="Which picture of a batch")] = 0,
    value: Annotated[
        str, typer.Option(help="Instead of a pixel: an element of a value, such as 1307:0,3,12,7")
    ] = "",
    layer: Annotated[
        str, typer.Option(help="The layer whose row runs in RTL again  [default: the path's last]")
    ] = "",
    chunk: Annotated[
        int, typer.Option(min=0, help="Which chunk of a row that is longer than the tile's")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Waveform (.vcd)  [default: trace.vcd in the run]")
    ] = None,
    layers: Annotated[int, typer.Option(min=0, help="How many layers of the path to show; 0: all")] = 12,
    replay: Annotated[bool, typer.Option(help="Run the row in RTL and write its waveform")] = True,
    view: Annotated[bool, typer.Option(help="Open the waveform in Surfer or GTKWave, where one is")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table")] = False,
) -> None:
    """From a pixel to the flip-flops: layers, the row of each, its slots, and the row's pass in RTL at its cycle.

    Of a run whose verification failed, the path of the first value that differs, if neither pixel nor value is given.
    """
    from ditto_cosim.cli.output import emit
    from ditto_cosim.cli.rtl import LaneReference
    from ditto_cosim.pixel import as_dict, failed_at, path_of_pixel, path_of_value, replayed

    if pixel and value:
        raise typer.BadParameter("give a pixel or a value, not both", param_hint="--pixel")
    failed = failed_at(run) if not pixel and not value else None
    if value:
        number, index = _value(value)
        if step < 0:
            raise typer.BadParameter("--value needs --step", param_hint="--step")
        path = path_of_value(run, step, number, index)
    elif failed is not None:
        path = path_of_value(run, *failed)
    else:
        if not pixel:
            raise typer.BadParameter(
                "say which pixel, column,row of the picture: --pixel 12,7", param_hint="--pixel"
            )
        column, _, row = pixel.partition(",")
        if not (column.strip().isdigit() and row.strip().isdigit()):
            raise typer.BadParameter(
                f"{pixel!r} is not column,row of the picture, such as --pixel 12,7", param_hint="--pixel"
            )
        path = path_of_pixel(run, (int(column), int(row)), step, picture)
    stop = path.stop(layer)
    found = None
    if replay:
        waveform = output or run / "trace.vcd"
        if output is None and waveform.is_symlink():  # of somebody else's run
            waveform.unlink()
        found = replayed(path, stop, waveform, LaneReference(), chunk)
    viewer = ""
    if found is not None and view and not as_json:
        from ditto_cosim.sim_harness.viewer import open_viewer

        viewer = open_viewer(found.waveform, found.time, _ports(found.waveform))
    if as_json:
        emit("trace", {**as_dict(path), "replay": None if found is None else _figures(found, stop.name)})
    else:
        _show(path, layers)
        if found is not None:
            _show_pass(found, stop.name, viewer)
    if found is not None and found.mismatch is not None:
        raise typer.Exit(1)


def _value(text: str) -> tuple[int, tuple[int, ...]]:
    """`1307:0,3,12,7`."""
    if not re.fullmatch(r"\d+(:\d+(,\d+)*)?", text):
        raise typer.BadParameter(
            f"{text!r} is not value:element, such as 1307:0,3,12,7", param_hint="--value"
        )
    number, _, index = text.partition(":")
    return int(number), tuple(int(i) for i in index.split(",") if i)


def trace_command(run: str, place: dict[str, Any]) -> str:
    """What to type to follow a value that differs."""
    import shlex

    element = ",".join(map(str, place["element"]))
    return shlex.join(
        ["ditto", "trace", run, "--step", str(place["step"]), "--value", f"{place['value']}:{element}"]
    )


def _ports(waveform: Path) -> list[str]:
    """The tile's ports, as far as a viewer shows them on a line: the first scope of the waveform, up to 64 bits wide."""
    scopes: list[str] = []
    found: list[str] = []
    with waveform.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if not words:
                continue
            if words[0] == "$enddefinitions" or (found and words[0] == "$scope"):
                break
            if words[0] == "$scope":
                scopes.append(words[2])
            elif words[0] == "$upscope":
                scopes.pop()
            elif words[0] == "$var" and int(words[2]) <= 64:
                found.append(".".join([*scopes, words[4]]))
    return found


def _show(path: PixelPath, layers: int) -> None:
    from ditto_cosim.cli.show import print_rows

    if path.pixel is not None and path.picture is not None:
        print(
            f"pixel {path.pixel[0]},{path.pixel[1]} of {path.picture[0]} × {path.picture[1]}, step {path.step}"
        )
    else:
        print(f"step {path.step}, the value's way back")
    for note in path.notes:
        print(f"  {note}")
    print_rows(
        [
            {
                "layer": s.name, "op": s.op, "mode": s.mode or "—", "row": s.row, "of": s.rows,
                "comes from": s.reached, "elements": s.elements, "slots": s.slots,
            }
            for s in path.stops[: layers or None]
        ]
    )  # fmt: skip
    if layers and len(path.stops) > layers:
        print(f"… and {len(path.stops) - layers} layers before them (--layers 0 shows all)")


def _show_pass(found: RowPass, layer: str, viewer: str) -> None:
    first, row = found.rows
    print(
        f"\n{layer}: row {row} in RTL ({found.set}), lane {found.lane}, elements {found.elements[0]}…{found.elements[1]}, "
        f"{found.columns} columns; rows {first}…{row} ran"
    )
    print(f"slots     {found.slots:,}: {found.zero:,} elements zero, {found.low:,} low, {found.full:,} full")
    print(
        f"cycles    encoded {found.encode_begin:,} to {found.enc_done:,}, summed by {found.done:,}; "
        f"the pass has {found.pass_cycles:,}"
    )
    print(f"RTL       {found.mismatch or 'agrees with the contract: values, classes and cycles'}")
    print(f"waveform  {found.waveform}, the row begins at time {found.time:,}")
    if viewer:
        print(f"opened in {viewer}")


def _figures(found: RowPass, layer: str) -> dict[str, Any]:
    return {
        "layer": layer,
        "set": found.set,
        "lane": found.lane,
        "rows": list(found.rows),
        "elements": list(found.elements),
        "columns": found.columns,
        "zero": found.zero,
        "low": found.low,
        "full": found.full,
        "slots": found.slots,
        "encode_begin_cycle": found.encode_begin,
        "encode_done_cycle": found.enc_done,
        "done_cycle": found.done,
        "pass_cycles": found.pass_cycles,
        "waveform": str(found.waveform),
        "time": found.time,
        "mismatch": None if found.mismatch is None else str(found.mismatch),
    }
