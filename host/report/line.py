# SPDX-License-Identifier: Apache-2.0
"""What crossed the line to a board, and how long the same bytes would take on lines that boards have.

The simulated board's line is a pseudo-terminal and says nothing of time; its bytes are those of a real one, frames, stuffed
bytes, acknowledgements and repetitions included. What this file does not do: count them (`device/backends/board.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ditto_cosim.host.report.model import RunReport
from ditto_cosim.host.report.prices import Prices

UART_BITS = 10
"""On the line for a byte: start, eight, stop."""
ETHERNET_PAYLOAD, ETHERNET_FRAME = 1024, 1090
"""Bytes of ours in a UDP datagram, and what it takes on the wire: preamble 8, Ethernet 14 + 4, IP 20, UDP 8, gap 12."""
LINES: dict[str, float] = {
    "UART, 3 Mbaud": 3e6 / UART_BITS,
    "UART, 12 Mbaud": 12e6 / UART_BITS,
    "100 Mb Ethernet": 100e6 / 8 * ETHERNET_PAYLOAD / ETHERNET_FRAME,
    "FT245, synchronous": 40e6,
}
"""Bytes a second at best, each line full all the time; the last is what FTDI states for its FT2232H (AN_130)."""


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """A layer over the whole run."""

    name: str
    nbytes: int
    per_mac: float | None
    """Bytes a multiply-accumulate; None where the run was not priced, or has none."""


def carried(report: RunReport) -> dict[str, int]:
    """Bytes of the whole run by what they carried, most first; empty where no board computed."""
    sums = {what: int(counts.sum()) for what, counts in report.line_bytes.items()}
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def seconds_on(nbytes: int) -> dict[str, float]:
    """What so many bytes take on each of the lines."""
    return {line: nbytes / rate for line, rate in LINES.items()}


def layers(report: RunReport, prices: Prices | None) -> list[LayerBytes]:
    """Those that crossed most, first."""
    sums = sum(counts.sum(axis=0) for counts in report.line_bytes.values())
    macs = [layer.macs for layer in prices.layers] if prices is not None and prices.layers else None
    found = [
        LayerBytes(name, int(nbytes), int(nbytes) / macs[i] if macs and macs[i] else None)
        for i, (name, nbytes) in enumerate(zip(report.names, sums, strict=True))
    ]
    return sorted(found, key=lambda layer: -layer.nbytes)
