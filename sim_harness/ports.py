# SPDX-License-Identifier: Apache-2.0
"""The tile's ports by name, and C accessors to them with the names PyVerilator looks for.

Array ports appear once a lane, `result_o_0`, `result_o_1`, …, as one wide word each, element 0 lowest.
What it does not do: open the library (`view.py`), or name internal signals: waveforms show those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ditto_cosim.protocol.hardware import Geometry


@dataclass(frozen=True, slots=True)
class Port:
    """One accessor: bits of `member` from byte `offset` on."""

    name: str
    width: int
    member: str
    offset: int = 0
    is_input: bool = False
    """Whether a driver sets it."""


def _drives(name: str) -> bool:
    """By our naming: inputs end in `_i` or `_ni`, with or without a lane's number."""
    return name.rstrip("0123456789").rstrip("_").endswith(("_i", "_ni"))


_SCALARS = {
    "clk_i": 1, "rst_ni": 1, "start_i": 1, "swap_i": 1, "mode_i": 2, "rows_i": 24, "k_i": 11, "blocks_i": 12,
    "busy_o": 1, "refused_o": 1, "cycle_o": 32, "weight_valid_i": 1, "weight_ready_o": 1, "weight_block_i": 12, "weight_k_i": 11,
}  # fmt: skip
_PER_LANE = {
    "operand_valid_i": 1, "operand_ready_o": 1, "result_valid_o": 1, "result_ready_i": 1, "result_row_o": 24,
    "result_block_o": 12, "result_last_o": 1, "enc_done_o": 32, "done_o": 32, "zero_o": 11, "low_o": 11,
    "full_o": 11, "busy_cycles_o": 32, "starved_cycles_o": 32, "stalled_cycles_o": 32,
}  # fmt: skip


def storage_bytes(width: int) -> int:
    """Bytes Verilator keeps a port of this width in."""
    return 1 if width <= 8 else 2 if width <= 16 else 4 if width <= 32 else 8


def tile_ports(geometry: Geometry) -> list[Port]:
    """Every port of this tile."""
    e, c = geometry.encode_width, geometry.columns
    ports = [Port(name, width, name) for name, width in _SCALARS.items()]
    ports.append(Port("weight_i", 8 * c, "weight_i"))
    for lane in range(geometry.lanes):
        ports += [
            Port(f"{name}_{lane}", width, name, lane * storage_bytes(width))
            for name, width in _PER_LANE.items()
        ]
        ports += [Port(f"{name}_{lane}", 8 * e, name, lane * e) for name in ("current_i", "reference_i")]
        ports.append(Port(f"result_o_{lane}", 32 * c, "result_o", 4 * lane * c))
    return [replace(port, is_input=_drives(port.name)) for port in ports]


def accessors(ports: Sequence[Port], model: str, name: str) -> str:
    """C++ for the unity file of a library that PyVerilator can open: of the class `model`, for the module `name`."""
    lines = ['extern "C" {']
    for kind, chosen in (
        ("input", [p for p in ports if p.is_input]),
        ("output", [p for p in ports if not p.is_input]),
        ("internal_signal", []),
    ):
        names = ", ".join(f'"{p.name}"' for p in chosen) or "nullptr"
        widths = ", ".join(str(p.width) for p in chosen) or "0"
        lines += [
            f"DITTO_API extern const uint32_t _pyverilator_num_{kind}s = {len(chosen)};",
            f"DITTO_API const char* _pyverilator_{kind}s[] = {{{names}}};",
            f"DITTO_API extern const uint32_t _pyverilator_{kind}_widths[] = {{{widths}}};",
        ]
    lines += [
        f'DITTO_API const char* _pyverilator_module_name = "{name}";',
        'DITTO_API const char* _pyverilator_json_data = "null";',
    ]
    for port in ports:
        at = f"reinterpret_cast<char*>(&top->{port.member}) + {port.offset}"
        size = min(8, -(-port.width // 8))
        if port.width > 64:
            lines.append(
                f"DITTO_API uint32_t get_{port.name}(Vtile* top, uint32_t word) "
                f"{{ uint32_t v = 0; std::memcpy(&v, {at} + 4 * word, 4); return v; }}"
            )
            lines.append(
                f"DITTO_API int set_{port.name}(Vtile* top, uint64_t word, uint32_t v) "
                f"{{ std::memcpy({at} + 4 * word, &v, 4); return 0; }}"
            )
        else:
            kind = "uint64_t" if port.width > 32 else "uint32_t"
            stored = size if port.width % 8 == 0 and port.width > 32 else storage_bytes(port.width)
            lines.append(
                f"DITTO_API {kind} get_{port.name}(Vtile* top) "
                f"{{ {kind} v = 0; std::memcpy(&v, {at}, {stored}); return v; }}"
            )
            lines.append(
                f"DITTO_API int set_{port.name}(Vtile* top, {kind} v) "
                f"{{ std::memcpy({at}, &v, {stored}); return 0; }}"
            )
    return "\n".join([*lines, _SIMULATION, "}"]).replace("Vtile", model)


_SIMULATION = """
DITTO_API Vtile* construct() {
  auto* context = new VerilatedContext;  // lives as long as the process, like the view
  context->traceEverOn(true);
  return new Vtile(context);
}
DITTO_API int destruct(Vtile* top) { delete top; return 0; }
DITTO_API int eval(Vtile* top) { top->eval(); return 0; }
DITTO_API TraceFile* start_vcd_trace(Vtile* top, const char* path) {
  auto* file = new TraceFile;
  top->trace(file, 99);
  file->open(path);
  return file;
}
DITTO_API int add_to_vcd_trace(TraceFile* file, int time) { file->dump(time); return 0; }
DITTO_API int flush_vcd_trace(TraceFile* file) { file->flush(); return 0; }
DITTO_API int stop_vcd_trace(TraceFile* file) { file->close(); return 0; }
DITTO_API bool get_finished() { return false; }
DITTO_API void set_finished(bool) {}
DITTO_API void set_vl_finish_callback(void*) {}
DITTO_API void set_command_args(int, char**) {}
"""
