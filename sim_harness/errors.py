# SPDX-License-Identifier: Apache-2.0
"""Everything the harness raises.

HarnessError                  a DittoError
├── TileInputError            an argument is wrong; nothing has run            (also a ValueError)
├── TileStuckError            no handshake for too long; carries the state     (also a TimeoutError)
├── TileFaultError            the RTL broke its protocol; carries the state
│   └── TileAssertionError    one of its assertions said so (checked builds)
└── TileBusyError             the same tile was used from two threads at once

`ditto_cosim.toolchain` has those of building: a tool that failed or is not there.
"""

from __future__ import annotations

from ditto_cosim.protocol.errors import DittoError


class HarnessError(DittoError):
    """Base of the harness's errors."""


class TileInputError(HarnessError, ValueError):
    """An argument that no tile of this geometry can take."""


class TileStuckError(HarnessError, TimeoutError):
    """A pass without a handshake for longer than the watchdog allows. `state`: every port and the driver's position."""

    ours = True

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message, state=state)


class TileFaultError(HarnessError):
    """The tile did what no tile may do: results out of order, rows asked for that are not there."""

    ours = True

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message, state=state)


class TileAssertionError(TileFaultError):
    """An assertion of the RTL failed (checked builds only)."""


class TileBusyError(HarnessError):
    """Two threads used one tile; make one per thread."""
