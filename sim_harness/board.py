# SPDX-License-Identifier: Apache-2.0
"""The Verilated board as a process behind a pseudo-terminal: what a host meets on a serial port, without a board.

Builds `rtl/board/` for one geometry into an executable, cached by content, and runs it; its `port` is opened like any
other. What it does not do: speak to the board (`device/backends/board.py`), or damage the line (tests do).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.protocol.kept import digest, publish
from ditto_cosim.toolchain import BuildError, cache_dir, compiler, compiler_id, run_tool

from .build import VERILATOR_VERSION, BuildOptions, parameters, runtime, verilator_root
from .sources import rtl_dir, sources

log = logging.getLogger(__name__)

BOARD_SOURCES = (
    "board/board_pkg.sv",
    "board/deframer.sv",
    "board/framer.sv",
    "board/engine.sv",
    "board/board_tile.sv",
    "board/board.sv",
)
DRIVER = "board_sim.cpp"
_VERILATOR = (
    "--cc", "--top-module", "board", "--prefix", "Vboard", "-Wall", "-O3", "--no-assert",
    "--unroll-count", "1", "--unroll-stmts", "1", "--x-assign", "fast", "--x-initial", "fast",
)  # fmt: skip
_CXX = ("-std=c++20", "-O3", "-march=native", "-w", "-DVL_USER_FINISH", "-DVL_USER_STOP", "-DVL_USER_FATAL")


@dataclass(frozen=True, slots=True)
class Memories:
    """What the board holds of a pass, per lane; the bitstream fixes it and its identity tells it."""

    operand_beats: int = 2048
    result_depth: int = 1024


def parameters_of(geometry: Geometry, memories: Memories) -> dict[str, str]:
    """Parameters of the board's top."""
    return {
        **{name: str(value) for name, value in parameters(geometry).items()},
        "OperandBeats": str(memories.operand_beats),
        "ResultDepth": str(memories.result_depth),
        "Digest": f"64'h{geometry.digest}",
    }


def build_board(geometry: Geometry, memories: Memories | None = None) -> Path:
    """The executable for this tile; compiled if nobody has."""
    memories = memories or Memories()
    tile, driver = sources(), Path(__file__).with_name(DRIVER)
    files = (tile.waivers, *tile.design, *(rtl_dir() / name for name in BOARD_SOURCES))
    flags = [f"-G{name}={value}" for name, value in parameters_of(geometry, memories).items()]
    key = digest(
        *(path.read_bytes() for path in files),
        driver.read_bytes(),
        " ".join((*_VERILATOR, *_CXX, *flags)),
        VERILATOR_VERSION,
        compiler_id(),
    )
    target = cache_dir() / f"board-{key}"

    def make(work: Path) -> None:
        log.info("building board %s (%s)", key, geometry)
        root, generated = verilator_root(), work / "generated"
        objects = sorted(runtime(root, BuildOptions(), cache_dir()).glob("*.o"))
        command = [str(root / "bin" / "verilator_bin"), *_VERILATOR, "--Mdir", str(generated), *flags]
        command += map(str, files)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "VERILATOR_ROOT": str(root)},
        )
        if done.returncode:
            raise BuildError(f"build: Verilator refused the board:\n{(done.stderr + done.stdout)[-4000:]}")
        unity = work / "unity.cpp"
        parts = sorted(generated.glob("*.cpp"))
        unity.write_text("".join(f'#include "{part}"\n' for part in (*parts, driver)))
        include = root / "include"
        compiling = [str(compiler()), *_CXX, f"-I{generated}", f"-I{include}", f"-I{include / 'vltstd'}"]
        compiling += [str(unity), *map(str, objects), "-o", "board", "-lpthread"]
        run_tool(compiling, "compiling the board", work)

    publish(target, make)
    return target / "board"


class SimulatedBoard:
    """A running board; `port` is where a host finds it."""

    def __init__(self, geometry: Geometry, memories: Memories | None = None) -> None:
        self._process = subprocess.Popen(
            [str(build_board(geometry, memories))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        if not self.port:
            self.close()
            raise BuildError("board: the simulated board ended before it had a terminal")

    @property
    def running(self) -> bool:
        """Until it is closed or unplugged."""
        return self._process.poll() is None

    def press_reset(self) -> None:
        """As the button on a board: everything it held is lost."""
        self._process.send_signal(signal.SIGUSR1)

    def unplug(self) -> None:
        """As pulling the cable: the port is gone."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
