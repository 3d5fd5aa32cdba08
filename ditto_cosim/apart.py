# SPDX-License-Identifier: Apache-2.0
"""A finished run priced for its report in a process of its own, while its host draws the pictures again and writes the rest.

    prices = appraise_apart(Path("runs/demo"))           waits; call it from a thread

The host need not import what prices a run, and its interpreter is free meanwhile. What this file does not do: price
(`appraisal.py`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from ditto_cosim.host.report.prices import Prices
from ditto_cosim.protocol.errors import DittoError


class ApartError(DittoError):
    """What the process said that could not price the run."""


def appraise_apart(run: Path) -> Prices:
    """What `appraisal.appraise` gives."""
    words = [sys.executable, "-P", "-m", __name__, str(run)]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ApartError(said[-1] if said else f"its process ended with status {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Prices)


def _main(run: Path) -> None:
    from ditto_cosim.appraisal import appraise

    try:
        prices = appraise(run)
    except DittoError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(prices))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
