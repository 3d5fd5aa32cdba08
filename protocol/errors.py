"""Every error a user of host or device can meet, and how an error crosses the wire.

    DittoError
    ├── ProtocolError           the other side sent something that is no message of this protocol
    │   ├── LimitError          … larger, deeper or more than was agreed
    │   ├── VersionError        … in a protocol version that does not go with ours
    │   └── ParametersError     … with other hardware parameters than ours
    ├── RequestError            a well-formed request that cannot be served
    │   ├── TensorError         an input or constant of the wrong name, type or shape
    │   ├── QuotaError          more memory or runs than the device grants
    │   ├── UnknownRunError     a run the device does not hold: closed, freed, or before its restart
    │   └── NonFiniteError      NaN or infinity where a command quantizes or reduces
    ├── BackendError            a backend refused a layer or failed in it
    │   └── WatchdogError       … made no progress; `state` holds what it was doing
    ├── DeviceError             the device failed in a way that has no better name; its log has the traceback
    │   ├── CancelledError      the run was closed, or the device stopped, while a step was under way
    │   └── CrashedError        the process that served this host ended, and its runs with it
    └── LinkError               host and device cannot talk
        ├── DeviceLostError     the device does not answer any more, or its process ended
        └── SecurityError       an address or a key that the rules of the wire do not allow

`isa.IsaError` and `hardware.GeometryError` belong to what they check; they cross the wire by name too.
What this file does not do: decide who retries. The client does that.
"""

from __future__ import annotations

from ditto_cosim.protocol.hardware import GeometryError
from ditto_cosim.protocol.isa import IsaError


class DittoError(Exception):
    """Root of the tree. `state` is free text for a person: a register dump, the end of a log."""

    def __init__(self, message: str, *, state: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.state = state

    def __str__(self) -> str:
        return f"{self.message}\n{self.state}" if self.state else self.message


class ProtocolError(DittoError):
    pass


class LimitError(ProtocolError):
    pass


class VersionError(ProtocolError):
    pass


class ParametersError(ProtocolError):
    pass


class RequestError(DittoError):
    pass


class TensorError(RequestError):
    pass


class QuotaError(RequestError):
    pass


class UnknownRunError(RequestError):
    pass


class NonFiniteError(RequestError):
    pass


class BackendError(DittoError):
    pass


class WatchdogError(BackendError):
    pass


class DeviceError(DittoError):
    pass


class CancelledError(DeviceError):
    pass


class CrashedError(DeviceError):
    pass


class LinkError(DittoError):
    pass


class DeviceLostError(LinkError):
    pass


class SecurityError(LinkError):
    pass


WIRE_ERRORS: dict[str, type[Exception]] = {
    cls.__name__: cls
    for cls in (
        ProtocolError,
        LimitError,
        VersionError,
        ParametersError,
        RequestError,
        TensorError,
        QuotaError,
        UnknownRunError,
        NonFiniteError,
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


def describe(error: BaseException) -> tuple[str, str, str]:
    """An exception as (kind, message, state); what has no kind becomes a DeviceError naming its type."""
    kind = type(error).__name__
    if WIRE_ERRORS.get(kind) is type(error):
        message = error.message if isinstance(error, DittoError) else str(error)
        return kind, message, getattr(error, "state", "")
    for base in type(error).__mro__:
        if WIRE_ERRORS.get(base.__name__) is base and base is not DittoError:
            return base.__name__, f"{kind}: {error}", getattr(error, "state", "")
    return "DeviceError", f"unexpected {kind}: {error}. The device's log has the traceback.", ""


def revive(kind: str, message: str, state: str = "") -> Exception:
    """The exception that `describe` took apart, to be raised where the user called."""
    cls = WIRE_ERRORS.get(kind, DeviceError)
    if issubclass(cls, DittoError):
        return cls(message, state=state)
    return cls(message)
