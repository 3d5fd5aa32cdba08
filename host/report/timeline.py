# SPDX-License-Identifier: Apache-2.0
"""A run as a timeline in Perfetto's own format: ui.perfetto.dev opens `timeline.pftrace`.

    trace(report) -> bytes          steps, layers and what the PEs did, for the whole run
    Trace(title)                    .track(name) .slice(…) .counter(…) .bytes: what other timelines are made with

Two groups of tracks. The chip's time is cycles over its clock, in nanoseconds; every slice has its cycles as an argument, so that
totals can be read back exactly. Layers run one after another, each from the end of the one before to its own. Slices are
named by mode, because the viewer colours by name. Host and wire are in wall-clock since the run began: what the host did itself,
what it compared, and from when to when it waited for each layer; an arrow joins a layer there to the same layer on the chip.
When each transfer and chunk happened inside a step is for `ditto timeline RUN --step S` to say.
What this file does not do: play steps again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent
from perfetto.trace_builder.proto_builder import TraceProtoBuilder

from ditto_cosim.host.report import summary
from ditto_cosim.host.report.model import ABSENT, RunReport
from ditto_cosim.protocol.hardware import MODES

TIMELINE = "timeline.pftrace"
SEQUENCE = 1


class Trace:
    """Tracks under a title or several, slices and counters on them."""

    def __init__(self, title: str, clock_hz: int) -> None:
        self._builder = TraceProtoBuilder()
        self._clock_hz = clock_hz
        self._tracks = 0
        self._group = self.group(title)

    def group(self, title: str) -> int:
        """Tracks from now on are under this title."""
        self._tracks += 1
        self._group = self._tracks
        packet = self._builder.add_packet()
        packet.track_descriptor.uuid = self._group
        packet.track_descriptor.process.pid = self._group
        packet.track_descriptor.process.process_name = title
        return self._group

    def ns(self, cycles: int) -> int:
        return round(cycles * 1e9 / self._clock_hz)

    def track(self, name: str, counter: bool = False) -> int:
        self._tracks += 1
        packet = self._builder.add_packet()
        packet.track_descriptor.uuid = self._tracks
        packet.track_descriptor.parent_uuid = self._group
        packet.track_descriptor.name = name
        packet.track_descriptor.sibling_order_rank = self._tracks
        if counter:
            packet.track_descriptor.counter.unit_name = name
        return self._tracks

    def slice(
        self,
        track: int,
        name: str,
        start: int,
        end: int,
        facts: Mapping[str, int | str] | None = None,
        flows: tuple[int, ...] = (),
    ) -> None:
        """From one cycle to another; slices of a flow are joined by arrows."""
        told = {"cycles": end - start, **(facts or {})}
        self.slice_ns(track, name, self.ns(start), self.ns(end), told, flows)

    def slice_ns(
        self,
        track: int,
        name: str,
        start_ns: int,
        end_ns: int,
        facts: Mapping[str, int | str],
        flows: tuple[int, ...] = (),
    ) -> None:
        """The same in nanoseconds."""
        begin = self._event(track, start_ns, TrackEvent.TYPE_SLICE_BEGIN)
        begin.name = name
        for key, value in facts.items():
            note = begin.debug_annotations.add()
            note.name = key
            if isinstance(value, str):
                note.string_value = value
            else:
                note.int_value = value
        begin.flow_ids.extend(flows)
        self._event(track, end_ns, TrackEvent.TYPE_SLICE_END)

    def counter(self, track: int, at: int, value: float) -> None:
        self._event(track, self.ns(at), TrackEvent.TYPE_COUNTER).double_counter_value = value

    def _event(self, track: int, at_ns: int, kind: int) -> TrackEvent:
        packet = self._builder.add_packet()
        packet.timestamp = at_ns
        packet.trusted_packet_sequence_id = SEQUENCE
        event: TrackEvent = packet.track_event
        event.type = kind
        event.track_uuid = track
        return event

    @property
    def bytes(self) -> bytes:
        found: bytes = self._builder.serialize()
        return found


def trace(report: RunReport) -> bytes:
    """The whole run, layer by layer."""
    made = Trace(f"{report.design} on {report.chip} ({report.backend})", report.clock_hz)
    steps, layers, pes = (made.track(name) for name in ("steps", "layers", "PEs: at work, or waiting for"))
    bandwidth = made.track("DRAM bytes a cycle", counter=True)
    kinds = {kind: made.track(f"{kind} elements", counter=True) for kind in ("zero", "low", "full")}
    causes = summary.causes(report)
    clock = 0
    for s, step in enumerate(report.steps):
        made.slice(steps, f"step {step}", clock, clock + int(report.cycles[s].sum()))
        for i, name in enumerate(report.names):
            if report.mode[s, i] == ABSENT:
                continue
            end = clock + int(report.cycles[s, i])
            moved = {f"{kind}_bytes": int(array[s, i]) for kind, array in report.traffic_bytes.items()}
            facts: dict[str, int | str] = {
                "layer": name,
                "op": report.ops[i],
                "step": step,
                "slots": int(report.slots[s, i]),
                "lane_cycles": "measured" if report.measured[s, i] else "modelled",
                "forced": int(report.forced[s, i]),
                **moved,
            }
            flow = (s * len(report.names) + i + 1,) if report.host_us else ()
            made.slice(layers, f"{MODES[report.mode[s, i]]} {name}", clock, end, facts, flow)
            at = clock
            for cause, array in causes.items():
                if spent := int(array[s, i]):
                    made.slice(pes, summary.CAUSES.get(cause, cause), at, at + spent)
                    at += spent
            made.counter(bandwidth, clock, sum(moved.values()) / max(end - clock, 1))
            for kind, track in kinds.items():
                made.counter(track, clock, float(getattr(report, kind)[s, i]))
            clock = end
    if report.host_us:
        _wall_clock(made, report)
    return made.bytes


def _wall_clock(made: Trace, report: RunReport) -> None:
    """Host and wire, in microseconds as they were noted."""
    made.group("host and wire, in wall-clock")
    host, wire = made.track("host"), made.track("wire and device: waiting for")
    asked, answered, arrived, begins, checks = (
        report.host_us[n] for n in ("asked", "answered", "arrived", "check_begin", "check")
    )
    before = 0
    for s, step in enumerate(report.steps):
        if asked[s] < 0:  # answered from the record of an earlier process
            continue
        _span(made, host, "pipeline", before, int(asked[s]), {"before_step": step})
        at, checked = int(asked[s]), int(asked[s])
        for i in np.argsort(arrived[s], kind="stable"):
            if arrived[s, i] < asked[s]:
                continue
            name, flow = report.names[i], (s * len(report.names) + int(i) + 1,)
            _span(made, wire, name, at, int(arrived[s, i]), {"step": step}, flow)
            at = int(arrived[s, i])
            if begins[s, i] >= 0:
                begin = max(int(begins[s, i]), checked)
                checked = begin + int(checks[s, i])
                _span(made, host, f"compare {name}", begin, checked, {"step": step})
        before = max(int(answered[s]), at, checked)
        _span(made, wire, f"outputs of step {step}", at, before, {"step": step})


def _span(
    made: Trace,
    track: int,
    name: str,
    begin_us: int,
    end_us: int,
    facts: Mapping[str, int | str],
    flows: tuple[int, ...] = (),
) -> None:
    made.slice_ns(track, name, begin_us * 1000, end_us * 1000, {"us": end_us - begin_us, **facts}, flows)
