# SPDX-License-Identifier: Apache-2.0
"""The harness on somebody else's block: matrices through `dot.sv`, held to NumPy.

python examples/library/dot.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ditto_cosim.sim_harness.block import Block

LATENCY = 2


def main(cycles: int = 1000, width: int = 8, wave: Path | None = None) -> int:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 128, (cycles, width)).astype(np.int8) for _ in range(2))
    valid = rng.random(cycles) < 0.7
    with Block([Path(__file__).with_name("dot.sv")], "dot", {"N": width}, trace=wave) as dot:
        dot.reset()
        out = dot.run({"valid_i": valid, "a_i": a, "b_i": b}, ["valid_o", "sum_o"])
    sums = (a.astype(np.int64) * b).sum(1)
    agree = np.array_equal(out["valid_o"][LATENCY:], valid[:-LATENCY])
    agree &= np.array_equal(
        out["sum_o"][LATENCY:].view(np.int32)[valid[:-LATENCY]], sums[:-LATENCY][valid[:-LATENCY]]
    )
    print(f"{cycles} cycles of {width} products: RTL and NumPy {'agree' if agree else 'DIFFER'}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
