# SPDX-License-Identifier: Apache-2.0
"""Timing drawings of a lane, from the RTL itself: `python docs/waves.py` runs a pass on the Verilated tile `tiny`.

    handshake   operands and results of a lane, where the driver holds back now and then
    pass        the same pass unhindered: two rows, encoded and summed

Each is WaveDrom's source (`drawings/NAME.wave.json`) and its picture (`drawings/NAME.svg`). A test runs the pass again and holds
the sources to it, so the drawings are what the RTL does; `ditto rtl wave` shows the same in a viewer.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ditto_cosim.protocol.hardware import GEOMETRIES
from ditto_cosim.sim_harness.tile import Stalls, Tile, TileRun

DRAWINGS = Path(__file__).parent / "drawings"
K, ROWS, LANE = 16, 2, 0


def passes() -> dict[str, TileRun]:
    """The drawn passes."""
    geometry = GEOMETRIES["tiny"]
    numbers = np.random.default_rng(5)
    rows = ROWS * geometry.lanes
    current = numbers.integers(-9, 10, (rows, K), dtype=np.int8)
    reference = np.where(numbers.random((rows, K)) < 0.5, current, np.int8(0)).astype(np.int8)
    weights = numbers.integers(-128, 128, (K, 2 * geometry.columns), dtype=np.int8)
    go = np.ones((geometry.lanes, 12), np.uint8)
    offer, accept = go.copy(), go.copy()
    offer[:, [1, 2, 7]] = 0
    accept[:, [3, 4, 5, 9]] = 0
    with Tile(geometry) as tile:
        tile.load_weights(weights)
        held = tile.run(current, reference, "temporal", stalls=Stalls(offer, accept), record=True)
        free = tile.run(current, reference, "temporal", record=True)
    return {"handshake": held, "pass": free}


def source(name: str, run: TileRun) -> dict[str, Any]:
    """WaveDrom's description of lane 0's ports."""
    assert run.ports is not None
    ports = {
        n: getattr(run.ports, n)[LANE]
        for n in ("operand_valid", "operand_ready", "result_valid", "result_ready")
    }
    cycles = len(ports["operand_valid"])
    signals: list[Any] = [{"name": "clk", "wave": "p" + "." * (cycles - 1)}]
    for side in ("operand", "result"):
        valid, ready = ports[f"{side}_valid"], ports[f"{side}_ready"]
        moved = valid & ready
        beats = np.cumsum(moved) - moved
        signals += [
            {},
            {"name": f"{side}_valid", "wave": bits(valid)},
            {"name": f"{side}_ready", "wave": bits(ready)},
            {"name": f"{side} taken", **data(moved, beats, "beat " if side == "operand" else "block ")},
        ]
    lanes = GEOMETRIES["tiny"].lanes
    enc, done = run.enc_done[LANE::lanes].tolist(), run.done[LANE::lanes].tolist()
    told = ", ".join(
        f"row {r} encoded {e}, summed {d}" for r, (e, d) in enumerate(zip(enc, done, strict=True))
    )
    return {
        "signal": signals,
        "head": {"text": f"cycles of a lane of tiny: {told}", "tick": 0},
        "config": {"hscale": 1},
    }


def bits(levels: Any) -> str:
    """A level a cycle; a dot where it stays."""
    return "".join(str(v) if i == 0 or v != levels[i - 1] else "." for i, v in enumerate(levels.tolist()))


def data(moved: Any, beats: Any, word: str) -> dict[str, Any]:
    wave = "".join("=" if m else "x" if i == 0 or moved[i - 1] else "." for i, m in enumerate(moved.tolist()))
    return {"wave": wave, "data": [f"{word}{beats[i]}" for i in np.flatnonzero(moved)]}


def text(name: str, run: TileRun) -> str:
    return json.dumps(source(name, run), indent=1) + "\n"


def main() -> None:
    import wavedrom

    for name, run in passes().items():
        described = text(name, run)
        (DRAWINGS / f"{name}.wave.json").write_text(described, encoding="utf-8")
        wavedrom.render(described).saveas(str(DRAWINGS / f"{name}.svg"))


if __name__ == "__main__":
    main()
