# SPDX-License-Identifier: Apache-2.0
"""Every message that crosses the wire, as a type. `SPEC.md` says what each means and when it is sent.

A message is the MessagePack header of frame 0; tensors, programs and snapshots follow as raw frames.
`frame_count` says how many a message carries, so that the codec can refuse a message whose frames do not
match it. What this file does not do: bytes (codec.py), arrays (tensors.py), sockets.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Name = Annotated[str, msgspec.Meta(max_length=512)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
RunId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Digest = Annotated[str, msgspec.Meta(min_length=32, max_length=32, pattern="^[0-9a-f]*$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Observe = Literal["none", "all"] | list[Count]
"""Which values a step sends back as it computes them: none, every one, or these."""

WireType = Literal["f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"]
Dimension = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Something inside a message."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    @property
    def frame_count(self) -> int:
        """Raw frames that follow the header."""
        return 0


class _Request(_Message, frozen=True, kw_only=True):
    """Asks for exactly one reply of the same (run, seq); asking again never executes twice."""

    run: RunId
    seq: Count
    done_below: Count = 0
    """Every request with a smaller seq has been answered, so its cached reply may go."""


class _Reply(_Message, frozen=True, kw_only=True):
    run: RunId
    seq: Count


# --- parts --------------------------------------------------------------------------------------------------


class TensorHeader(_Part, frozen=True, kw_only=True):
    """Name, type and shape of a tensor whose bytes are a frame: little-endian, row-major."""

    name: Name
    dtype: WireType
    shape: Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=8)]


class TensorKey(_Part, frozen=True, kw_only=True):
    """A constant by its content."""

    digest: Digest
    """BLAKE2b-128 of its bytes."""
    dtype: WireType
    shape: Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=8)]


class Piece(_Part, frozen=True, kw_only=True):
    """Part of a constant, or all of it, whose bytes are a frame."""

    digest: Digest
    """Which constant."""
    offset: Count = 0
    """Where the frame belongs, in bytes."""


class RunSpec(_Part, frozen=True, kw_only=True):
    """What a run is, but for its program and weights. An empty name takes the device's default."""

    backend: Name = ""
    """Name of a backend, or `module:Class`."""
    chip: Name = ""
    design: Name = ""
    rtl_layers: list[Name] = []
    """Patterns (`mid.*`) of layers that the `rtl` backend computes, whatever `backend` is."""
    cross_check: Name = ""
    """A second backend that computes every layer too; any difference is an error."""
    geometry: Name = ""
    """Digest of the tile the host expects; empty accepts the backend's own."""
    memory_bytes: Count = 0
    """Most memory the run may hold on the device; 0 takes the device's limit."""


class Limits(_Part, frozen=True, kw_only=True):
    """What the device grants and accepts."""

    header_bytes: Count = 4 << 20
    program_bytes: Count = 64 << 20
    frame_bytes: Count = 1 << 30
    """Longest frame; a longer constant travels in chunks."""
    frames: Count = 4096
    """Most frames of one message."""
    depth: Count = 8
    """Not looked at since 2.0: the types of its fields bound a header's nesting."""
    chunk_bytes: Count = 64 << 20
    """Bytes of constants that one PutTensors carries; a longer constant travels in pieces."""
    window_requests: Count = 64
    """Requests a host may have unanswered, all runs together."""
    window_bytes: Count = 256 << 20
    """Bytes of frames a host may have unanswered; one request may always be under way."""
    run_bytes: Count = 16 << 30
    """Most memory of one run."""
    store_bytes: Count = 16 << 30
    """Memory for constants, shared by all runs of a host."""
    runs: Count = 8
    """Most runs a host may have open at once."""
    sessions: Count = 16
    """Most hosts at once."""
    idle_s: float = 60.0
    """A host not heard of for so long loses its runs."""
    stream_bytes: Count = 64 << 20
    """Most stream bytes sent unacknowledged, per run, whatever Hello asks for."""
    progress_s: float = 60.0
    """A product may take so long, and a second more for every million multiplications."""


class LayerReport(_Part, frozen=True, kw_only=True):
    """One layer, one step, as it happened."""

    step: Count
    layer: Count
    """Position among the program's layers."""
    name: Name
    op: Name
    mode: Name
    forced_base: bool = False
    """A changed scale or zero point forced the base mode."""
    zero: Count = 0
    low: Count = 0
    full: Count = 0
    """Elements by class."""
    slots: Count = 0
    cycles: Count = 0
    """From the end of the layer before to its own: layers overlap."""
    lane_cycles: Count = 0
    """Of these, those of the lanes' stage: as measured, or by the written contract."""
    unit_cycles: dict[Name, Count] = {}
    """Busy cycles by unit."""
    stall_cycles: dict[Name, Count] = {}
    """Cycles lost, by cause."""
    traffic_bytes: dict[Name, Count] = {}
    """DRAM bytes by traffic class."""
    measured: bool = False
    """Whether RTL or hardware counted the cycles (otherwise modelled)."""
    line_bytes: dict[Name, Count] = {}
    """Bytes that crossed a board's line, frames and all, by what they carried; a simulator has no line."""


class Progress(_Part, frozen=True, kw_only=True):
    """Where a run is."""

    run: RunId
    seq: Count
    """Request under way, or the last one finished."""
    busy: bool
    step: Count = 0
    layer: Count = 0
    """Layers of this step that are done."""
    name: Name = ""
    """The last of them."""
    request_s: float = 0.0
    """Seconds the request has been under way."""


# --- host to device -----------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, kw_only=True):
    protocol: Name
    package: Name
    parameters: Name
    host: Name = ""
    """For the device's log: machine and process."""
    stream_bytes: Count = 64 << 20
    """Stream bytes the device may send unacknowledged, per run."""
    token: Name = ""
    """On loopback without keys: what a file says that the device's user alone can read."""


class OpenRun(_Request, frozen=True, kw_only=True):
    """Frame 1: the program."""

    spec: RunSpec
    constants: dict[Name, TensorKey]

    @property
    def frame_count(self) -> int:
        return 1


class PutTensors(_Request, frozen=True, kw_only=True):
    """Frames: pieces of missing constants, in the order of their headers."""

    pieces: list[Piece]

    @property
    def frame_count(self) -> int:
        return len(self.pieces)


class Start(_Request, frozen=True, kw_only=True):
    """All constants are there: build the machine."""


class Step(_Request, frozen=True, kw_only=True):
    """Frames: the inputs, in the order of their headers."""

    step: Count
    inputs: list[TensorHeader]
    observe: Observe = "none"
    timed: bool = True
    """False: rebuild temporal state only; neither the clock nor Defo notices."""

    @property
    def frame_count(self) -> int:
        return len(self.inputs)


class Restore(_Request, frozen=True, kw_only=True):
    """Frame 1: a snapshot that a StepDone carried."""

    @property
    def frame_count(self) -> int:
        return 1


class CloseRun(_Request, frozen=True, kw_only=True):
    """Frees the run; a step under way is cancelled."""


class Ack(_Message, frozen=True, kw_only=True):
    """Stream messages 0 … received−1 of this request are used up: their bytes go back to the window."""

    run: RunId
    seq: Count
    received: Count


class Query(_Message, frozen=True, kw_only=True):
    """A host waits: send again stream messages from `received` on, and the reply; Missing if the request is unknown."""

    run: RunId
    seq: Count
    received: Count


class Ping(_Message, frozen=True, kw_only=True):
    token: Count


class Bye(_Message, frozen=True, kw_only=True):
    """The host leaves; its runs may go."""


# --- device to host -----------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, kw_only=True):
    protocol: Name
    package: Name
    parameters: Name
    device: Name
    """Identity of this device process; another one after a restart."""
    backends: list[Name]
    limits: Limits


class Moved(_Message, frozen=True, kw_only=True):
    """The answer to Hello where the device has a process for every host: greet that one, at its own address."""

    address: Name


class Opened(_Reply, frozen=True, kw_only=True):
    missing: list[Digest]
    """Constants that the device does not hold yet."""


class Stored(_Reply, frozen=True, kw_only=True):
    """A PutTensors arrived."""


class Started(_Reply, frozen=True, kw_only=True):
    spec: RunSpec
    """What the host asked for, defaults filled in."""
    geometry: Name
    """Digest of the backend's tile."""
    measures: bool
    state_bytes: Count
    facts: dict[Name, Text | Count] = {}
    """What a record says of the machine: chip and design whole (JSON), digest, clock, low rule, longest row."""


class Reports(_Message, frozen=True, kw_only=True):
    """Stream message `index` of a step: layers that are done."""

    run: RunId
    seq: Count
    index: Count
    reports: list[LayerReport]


class Observed(_Message, frozen=True, kw_only=True):
    """Stream message `index` of a step: one value. Frame 1: its bytes."""

    run: RunId
    seq: Count
    index: Count
    value: Count
    tensor: TensorHeader

    @property
    def frame_count(self) -> int:
        return 1


class StepDone(_Reply, frozen=True, kw_only=True):
    """Frames: the snapshot, then outputs, then record, in the order of their headers."""

    step: Count
    streamed: Count
    """Stream messages of this step; the step is complete when all have arrived."""
    outputs: list[TensorHeader]
    record: list[TensorHeader]
    """The step's record, which any design can be priced from; empty for an untimed step."""
    totals: dict[Name, Count]
    """Sums over the run so far, cycles first of all."""

    @property
    def frame_count(self) -> int:
        return 1 + len(self.outputs) + len(self.record)


class Restored(_Reply, frozen=True, kw_only=True):
    """The snapshot is in place."""


class Closed(_Reply, frozen=True, kw_only=True):
    """The run is gone."""


class Missing(_Message, frozen=True, kw_only=True):
    """The device has not seen this request: send it again."""

    run: RunId
    seq: Count


class Pong(_Message, frozen=True, kw_only=True):
    token: Count
    device: Name
    progress: list[Progress]


class Error(_Message, frozen=True, kw_only=True):
    """Reply to the request (run, seq), or to a message that had none (run empty)."""

    run: Annotated[str, msgspec.Meta(max_length=64)] = ""
    seq: Count = 0
    kind: Name
    message: Annotated[str, msgspec.Meta(max_length=65536)]
    state: Annotated[str, msgspec.Meta(max_length=262144)] = ""


Request = OpenRun | PutTensors | Start | Step | Restore | CloseRun
Reply = Opened | Stored | Started | StepDone | Restored | Closed | Error
Stream = Reports | Observed
HostMessage = Hello | Request | Ack | Query | Ping | Bye
DeviceMessage = Welcome | Moved | Reply | Stream | Missing | Pong
Message = HostMessage | DeviceMessage
