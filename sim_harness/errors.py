"""Everything the harness raises.

HarnessError
├── BuildError                a tool failed; the message ends with its output
│   └── ToolMissingError      a tool is not there; the message says what to install
├── TileInputError            an argument is wrong; nothing has run            (also a ValueError)
├── TileStuckError            no handshake for too long; carries the state     (also a TimeoutError)
├── TileFaultError            the RTL broke its protocol; carries the state
│   └── TileAssertionError    one of its assertions said so (checked builds)
└── TileBusyError             the same tile was used from two threads at once
"""

from __future__ import annotations


class HarnessError(Exception):
    """Base of the harness's errors."""


class BuildError(HarnessError):
    """A tool failed while a tile was built."""


class ToolMissingError(BuildError):
    """A tool that is needed to build a tile is not installed."""


class TileInputError(HarnessError, ValueError):
    """An argument that no tile of this geometry can take."""


class TileStuckError(HarnessError, TimeoutError):
    """A pass in which no handshake happened for longer than the watchdog allows."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(f"{message}\n{state}")
        self.state = state
        """Every port of the tile and the driver's position, one per line."""


class TileFaultError(HarnessError):
    """The tile did what no tile may do: results out of order, rows asked for that are not there."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(f"{message}\n{state}")
        self.state = state
        """As in `TileStuckError`."""


class TileAssertionError(TileFaultError):
    """An assertion of the RTL failed (checked builds only)."""


class TileBusyError(HarnessError):
    """Two threads used one tile; make one per thread."""
