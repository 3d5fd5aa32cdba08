# SPDX-License-Identifier: Apache-2.0
"""Every error of ditto-cosim: the tree's root, the branches that host and device share, and how an error crosses the wire.

    DittoError
    ├── ProtocolError           the other side sent something that is no message of this protocol
    │   ├── DamagedError        … or what was sent, damaged on the way: it is sent again
    │   ├── LimitError          … larger, deeper or more than was agreed
    │   ├── VersionError        … in a protocol version that does not go with ours
    │   └── ParametersError     … with other hardware parameters than ours
    ├── RequestError            a well-formed request that cannot be served
    │   ├── TensorError         an input or constant of the wrong name, type or shape
    │   ├── QuotaError          more memory or runs than the device grants
    │   ├── UnknownRunError     a run the device does not hold: closed, freed, or before its restart
    │   ├── NonFiniteError      NaN or infinity where a command quantizes or reduces
    │   └── GridError           a difference between values on two grids, which is none
    ├── BackendError            a backend refused a layer or failed in it
    │   └── WatchdogError       … made no progress; `state` holds what it was doing
    ├── DeviceError (ours)      the device failed in a way that has no better name; its log has the traceback
    │   ├── CancelledError      the run was closed, or the device stopped, while a step was under way
    │   └── CrashedError        the process that served this host ended, and its runs with it


    │   └── CancelledError      the run was closed, or the device stopped, while a step was under way
    ├── StorageError            a file that cannot be written: the disk is full, the folder gone
    ├── LinkError               host and device cannot talk
    │   ├── DeviceLostError     the device does not answer any more, or its process ended
    │   └── SecurityError       an address or a key that the rules of the wire do not allow
    ├── IsaError (ours)         a command that breaks its form
    └── GeometryError           a lane or tile that cannot be built

Errors of one room (a chip's, a record's, a tile's) are defined there and join the root. An error is the user's unless its
class says that it is `ours`: the user's is told in one sentence, ours with a traceback and the wish for a report.
What this file does not do: decide who retries. The client does that.
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar

_SETTINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EADDRINUSE}
"""What the machine, not the program, ran out of or forbids, though no file is named."""


class DittoError(Exception):
    """Root of the tree. `state` is free text for a person: a register dump, the end of a log."""

    ours: ClassVar[bool] = False
    """Whether it tells of a fault in this program rather than of something that its user can change."""

    def __init__(self, message: str, *, state: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.state = state

    def __str__(self) -> str:
        return f"{self.message}\n{self.state}" if self.state else self.message


class ProtocolError(DittoError):
    """The other side sent something that is no message of this protocol."""


class DamagedError(ProtocolError):
    """A message whose seal does not match: damaged on the way, or not of this protocol."""

    meant: object = None
    """The message, if its header at least is whole."""


class LimitError(ProtocolError):
    """A message larger, deeper or of more frames than was agreed."""


class VersionError(ProtocolError):
    """A peer whose protocol version does not go with ours."""


class ParametersError(ProtocolError):
    """A peer with another instruction set, or with other tiles where they matter."""


class RequestError(DittoError):
    """A well-formed request that cannot be served; asking again changes nothing."""


class TensorError(RequestError):
    """An input or constant of the wrong name, type or shape; the message names all three."""


class QuotaError(RequestError):
    """More memory or more runs than the device grants."""


class UnknownRunError(RequestError):
    """A run the device does not hold: closed, freed, or opened before it was restarted."""


class NonFiniteError(RequestError):
    """NaN or infinity where a command quantizes or reduces; the message names the command."""


class GridError(RequestError):
    """A difference between values on two grids, which is none; the message names the command and both."""


class BackendError(DittoError):
    """A backend refused a layer or failed in it; the message names the layer."""


class WatchdogError(BackendError):
    """A backend made no progress; `state` holds what it was doing."""


class DeviceError(DittoError):
    """The device failed in a way that has no better name; its log has the traceback."""

    ours = True


class CancelledError(DeviceError):
    """The run was closed, or the device stopped, while a step was under way."""

    ours = False


class CrashedError(DeviceError):
    """The process that served this host ended, and its runs with it."""

    ours = False


class StorageError(DittoError):
    """A file that cannot be written; nothing half is left, the message names the path."""


class LinkError(DittoError):
    """Host and device cannot talk."""


class DeviceLostError(LinkError):
    """The device does not answer any more, or its process ended; `state` holds the end of its log."""


class SecurityError(LinkError):
    """An address or a key that the rules of the wire do not allow."""


class IsaError(DittoError):
    """A command that breaks its form; the message names command, operand, what was met and what was expected."""

    ours = True


class GeometryError(DittoError):
    """A lane or tile that cannot be built; the message names the parameter, its value and the limit."""


WIRE_ERRORS: dict[str, type[DittoError]] = {
    cls.__name__: cls
    for cls in (
        ProtocolError,
        DamagedError,
        LimitError,
        VersionError,
        ParametersError,
        RequestError,
        TensorError,
        QuotaError,
        UnknownRunError,
        NonFiniteError,
        GridError,
        BackendError,
        WatchdogError,
        DeviceError,
        CancelledError,
        CrashedError,
        SecurityError,
        IsaError,
        GeometryError,
    )
}
"""Kinds that an Error message may name. A kind that is not here arrives as `DeviceError`."""


def is_ours(error: BaseException) -> bool:
    """Whether an error is a fault of this program. Outside the tree only a file that is not there, not allowed or not of
    the right kind is the user's, and a full or read-only disk."""
    if isinstance(error, DittoError):
        return error.ours
    return not (isinstance(error, OSError) and (error.filename is not None or error.errno in _SETTINGS))


def debugging() -> bool:
    """Whether DITTO_DEBUG asks for tracebacks of every error and a log of everything."""
    return os.environ.get("DITTO_DEBUG", "0") not in ("", "0")


def describe(error: BaseException) -> tuple[str, str, str]:
    """An exception as (kind, message, state). What has no kind of its own goes by its nearest relative that has one; an
    error of the user's that has none is a RequestError, and everything else a DeviceError that names its type."""
    if not isinstance(error, DittoError):
        return (
            "DeviceError",
            f"unexpected {type(error).__name__}: {error}. The device's log has the traceback.",
            "",
        )
    for base in type(error).__mro__:
        if WIRE_ERRORS.get(base.__name__) is base:
            inherited = base is not type(error)
            message = f"{type(error).__name__}: {error.message}" if inherited else error.message
            return base.__name__, message, error.state
    if error.ours:
        message = f"unexpected {type(error).__name__}: {error.message}. The device's log has the traceback."
        return "DeviceError", message, error.state
    return "RequestError", error.message, error.state


def revive(kind: str, message: str, state: str = "") -> DittoError:
    """The exception that `describe` took apart, to be raised where the user called."""
    return WIRE_ERRORS.get(kind, DeviceError)(printable(message), state=printable(state))


def printable(text: str) -> str:
    """Text of somebody else's as a terminal may show it: control characters spelled out, lines kept."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def printable_within(value: Any) -> Any:
    """Plain data of somebody else's with every text in it as a terminal may show it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(k): printable_within(v) for k, v in value.items()}
    return [printable_within(v) for v in value] if isinstance(value, list) else value
