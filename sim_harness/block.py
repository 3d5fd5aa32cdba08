# SPDX-License-Identifier: Apache-2.0
"""Any SystemVerilog block as an object: matrices in, matrices out, one row a clock cycle, the loop in C++.

    block = Block([Path("dot.sv")], "dot", {"N": 8})
    block.reset()
    out = block.run({"valid_i": ones, "a_i": a, "b_i": b}, ["valid_o", "sum_o"])      # arrays [cycles, ...]

Nothing here knows the accelerator. Ports are read from the source by slang, so names, shapes and directions are checked before
anything runs: a port of up to 64 bits is an unsigned integer (signed arrays are taken as their bits), a wider one is 32-bit
words, lowest first, and unpacked dimensions are the array's. `open_by_hand` gives the same build as a PyVerilator object.
What it does not do: know handshakes, or drive tiles at full speed (`tile.py`).
"""

from __future__ import annotations

import ctypes
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.kept import digest, publish
from ditto_cosim.toolchain import BuildError, ToolMissingError, cache_dir, compiler, compiler_id, run_tool

from .build import CXX_FLAGS, VERILATOR_VERSION, BuildOptions, run_verilator, runtime, verilator_root
from .errors import HarnessError, TileInputError
from .interface import PortShape, modules
from .ports import Port, accessors, storage_bytes

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
_DRIVER = Path(__file__).with_name("block_driver.cpp")


@dataclass(frozen=True, slots=True)
class BlockPort:
    """One port as an array: what one cycle of it is."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bits: int
    """Of one element."""

    @classmethod
    def of(cls, name: str, port: PortShape) -> BlockPort:
        count = int(np.prod(port.unpacked, dtype=np.int64)) or 1
        bits = port.bits // count
        if bits > 64:
            return cls(
                name, port.direction == "input", (*port.unpacked, -(-bits // 32)), np.dtype(np.uint32), bits
            )
        dtype = np.dtype(f"u{storage_bytes(bits)}")
        return cls(name, port.direction == "input", port.unpacked, dtype, bits)

    @property
    def bytes(self) -> int:
        """Of one cycle."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def build_block(
    files: Sequence[Path], top: str, parameters: Mapping[str, int], clock: str, coverage: bool = False
) -> tuple[Path, dict[str, BlockPort]]:
    """(library, its ports) of this block; compiled if nobody has."""
    found, said = modules(files, dict(parameters), top)
    if said:
        raise BuildError(f"block: slang refuses these files:\n{said}")
    ports = {name: BlockPort.of(name, shape) for name, shape in found[top].ports.items()}
    if clock not in ports:
        raise BuildError(f"block: {top} has no port {clock}; its ports are {', '.join(ports)}")
    root, options = verilator_root(), BuildOptions(trace="vcd", optimize=False, coverage=coverage)
    text = _interface(ports, clock)
    chosen = ";".join(f"{name}={value}" for name, value in sorted(parameters.items()))
    parts = [_DRIVER.read_bytes(), *(path.read_bytes() for path in files)]
    counted = ["--coverage-line", "--coverage-toggle"] if coverage else []
    key = digest(
        *parts, top, chosen, text, _accessors(ports, top), VERILATOR_VERSION, compiler_id(), *counted
    )
    target = cache_dir() / f"block-{key}"

    def make(work: Path) -> None:
        log.info("building block %s %s", top, key)
        objects = runtime(root, options, cache_dir())
        generated = work / "generated"
        run_verilator(
            [
                "--cc", "--top-module", top, "--prefix", "Vblock", "-Wno-fatal", "--assert", "--trace-vcd", "--trace-structs",
                "--trace-max-width", "8192", *counted, "--Mdir", str(generated), *(f"-G{n}={v}" for n, v in parameters.items()),
                *map(str, files),
            ],
            f"block {top}",
        )  # fmt: skip
        unity = "".join(f'#include "generated/{path.name}"\n' for path in sorted(generated.glob("*.cpp")))
        (work / "unity.cpp").write_text(f'{unity}{text}#include "{_DRIVER.name}"\n{_accessors(ports, top)}')
        include = root / "include"
        command = [
            str(compiler()),
            *CXX_FLAGS,
            "-O1",
            "-shared",
            "-DVM_TRACE=1",
            "-DVM_TRACE_VCD=1",
            f"-I{generated}",
            *(["-DVM_COVERAGE=1"] if coverage else []),
        ]
        command += [f"-I{_DRIVER.parent}", f"-I{include}", f"-I{include / 'vltstd'}", "unity.cpp"]
        command += [*map(str, sorted(objects.glob("*.o"))), "-o", "block.so", "-lpthread"]
        run_tool(command, f"compiling {top}", work)
        shutil.rmtree(generated)

    publish(target, make)
    return target / "block.so", ports


def _interface(ports: Mapping[str, BlockPort], clock: str) -> str:
    """Where the driver finds the ports."""
    cases = "".join(
        f"    case {i}: *bytes = sizeof(top->{name}); return &top->{name};\n" for i, name in enumerate(ports)
    )
    return (
        f'#include "Vblock.h"\n#define BLOCK_CLOCK {clock}\n'
        "static void* block_port(Vblock* top, int port, uint64_t* bytes) {\n  switch (port) {\n"
        f"{cases}  }}\n  *bytes = 0;\n  return nullptr;\n}}\n"
    )


def _accessors(ports: Mapping[str, BlockPort], top: str) -> str:
    """PyVerilator's view: one port an element."""
    listed = []
    for name, port in ports.items():
        size = port.dtype.itemsize * (port.shape[-1] if port.bits > 64 else 1)
        count = port.bytes // size
        for i in range(count):
            listed.append(
                Port(name if count == 1 else f"{name}_{i}", port.bits, name, i * size, port.is_input)
            )
    return accessors(listed, "Vblock", top)


class Block:
    """One Verilated block. Close it, or use it as a context manager, to finish a waveform."""

    def __init__(
        self,
        files: Sequence[Path],
        top: str,
        parameters: Mapping[str, int] | None = None,
        *,
        clock: str = "clk_i",
        reset: str = "rst_ni",
        reset_level: int = 0,
        trace: Path | None = None,
        plusargs: str = "",
        coverage: bool = False,
    ) -> None:
        """`plusargs`: one argument that the block's $value$plusargs may look for. `coverage`: with counters of lines and
        toggles, for `write_coverage`."""
        self.library, self.ports = build_block(files, top, parameters or {}, clock, coverage)
        self.name, self._clock, self._reset, self._reset_level = top, clock, reset, reset_level
        self._numbers = {name: i for i, name in enumerate(self.ports)}
        self._c = ctypes.CDLL(str(self.library))
        self._c.block_open.restype = ctypes.c_void_p
        self._c.block_open.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._c.block_close.argtypes = [ctypes.c_void_p]
        self._c.block_port_bytes.restype = ctypes.c_uint64
        self._c.block_port_bytes.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self._c.block_write_coverage.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._c.block_message_text.restype = ctypes.c_char_p
        self._c.block_run.restype = ctypes.c_int64
        self._c.block_run.argtypes = [
            ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._handle = self._c.block_open(None if trace is None else str(trace).encode(), plusargs.encode())
        for name, number in self._numbers.items():
            stored = self._c.block_port_bytes(self._handle, number)
            if stored != self.ports[name].bytes:
                raise HarnessError(
                    f"block: port {name} takes {stored} bytes, {self.ports[name].bytes} were expected"
                )

    def write_coverage(self, path: Path) -> None:
        """Writes the counters of a block built with them."""
        self._c.block_write_coverage(self._handle, str(path).encode())

    def reset(self, cycles: int = 2) -> None:
        """Holds the reset, all other inputs zero; afterwards the reset is off."""
        if self._reset not in self.ports:
            raise TileInputError(f"block: {self.name} has no port {self._reset}; say reset=…")
        idle = {n: np.zeros((cycles + 1, *p.shape), p.dtype) for n, p in self.ports.items() if p.is_input}
        del idle[self._clock]
        idle[self._reset][:cycles] = self._reset_level
        idle[self._reset][cycles:] = 1 - self._reset_level
        self.run(idle, [])

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Cycle c sets row c of every input and gives row c of every output, before the edge. What is left out stays."""
        lengths = {name: len(values) for name, values in inputs.items()}
        if not inputs or len(set(lengths.values())) != 1:
            raise TileInputError(f"block: inputs need one row a cycle, all as many; they have {lengths}")
        cycles = next(iter(lengths.values()))
        given = [self._given(name, values) for name, values in inputs.items()]
        for name in outputs:
            if name not in self.ports:
                raise TileInputError(
                    f"block: {self.name} has no port {name}; its ports are {', '.join(self.ports)}"
                )
        taken = [np.empty((cycles, *self.ports[n].shape), self.ports[n].dtype) for n in outputs]

        def numbers(names: Sequence[str]) -> Any:
            return (ctypes.c_int32 * max(1, len(names)))(*(self._numbers[name] for name in names))

        def pointers(arrays: Sequence[Array]) -> Any:
            return (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))

        ran = self._c.block_run(
            self._handle, cycles, len(given), numbers(list(inputs)), pointers(given), len(taken), numbers(outputs),
            pointers(taken),
        )  # fmt: skip
        if ran != cycles:
            raise HarnessError(f"block: {self.name}, cycle {ran}: {self._c.block_message_text().decode()}")
        return dict(zip(outputs, taken, strict=True))

    def _given(self, name: str, values: Array) -> Array:
        port = self.ports.get(name)
        if port is None or not port.is_input or name == self._clock:
            inputs = [n for n, p in self.ports.items() if p.is_input and n != self._clock]
            raise TileInputError(f"block: {name} is no input of {self.name}; those are {', '.join(inputs)}")
        if values.shape[1:] != port.shape:
            raise TileInputError(
                f"block: {name} has rows of shape {values.shape[1:]}, {port.shape} is expected"
            )
        if values.dtype.kind not in "iub":
            raise TileInputError(f"block: {name} has dtype {values.dtype}, integers are expected")
        if port.bits <= 64 and values.size:
            low, high = -(1 << (port.bits - 1)), (1 << port.bits) - 1
            if int(values.min()) < min(low, 0) or int(values.max()) > high:
                raise TileInputError(f"block: {name} has values that {port.bits} bits do not hold")
        mask = np.array((1 << min(port.bits, 64)) - 1 if port.bits <= 64 else 0xFFFF_FFFF, np.uint64)
        return np.ascontiguousarray((values.astype(np.int64).view(np.uint64) & mask).astype(port.dtype))

    def close(self) -> None:
        """Frees the model and finishes its waveform."""
        if self._handle:
            self._c.block_close(self._handle)
            self._handle = None

    def __enter__(self) -> Block:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


def open_by_hand(
    files: Sequence[Path],
    top: str,
    parameters: Mapping[str, int] | None = None,
    *,
    clock: str = "clk_i",
    reset: str = "rst_ni",
    reset_level: int = 0,
    wave: Path | None = None,
) -> Any:
    """The block as a `pyverilator.PyVerilator`, clocked through a reset, its other inputs zero."""
    try:
        import pyverilator
    except ImportError:
        raise ToolMissingError("poke: PyVerilator is not installed; `pip install pyverilator-mm`") from None
    library, ports = build_block(files, top, parameters or {}, clock)
    sim = pyverilator.PyVerilator(str(library))
    if wave is not None:
        sim.start_vcd_trace(str(wave))
    if reset in ports:
        sim.io[reset] = reset_level
        tick(sim, 2)
        sim.io[reset] = 1 - reset_level
    return sim


def tick(sim: Any, cycles: int = 1) -> None:
    """Clocks a PyVerilator object; its waveform shows the inputs before the edge that sees them."""
    for _ in range(cycles):
        sim.eval()
        if sim.vcd_trace is not None:
            sim.add_to_vcd_trace()
        sim.clock.tick()
