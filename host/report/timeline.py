# SPDX-License-Identifier: Apache-2.0
"""A run as a timeline in Perfetto's own format: ui.perfetto.dev opens `timeline.pftrace`.

    trace(report) -> bytes          steps, layers and what the PEs did, for the whole run
    Trace(title)                    .track(name) .slice(…) .counter(…) .bytes: what other timelines are made with

The trace's time is the chip's: cycles over its clock, in nanoseconds; every slice has its cycles as an argument, so that
totals can be read back exactly. Layers run one after another, each from the end of the one before to its own. Slices are
named by mode, because the viewer colours by name. When each transfer and chunk happened inside a step is for
`ditto timeline RUN --step S` to say. What this file does not do: play steps again.
"""

from __future__ import annotations

from collections.abc import Mapping

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent
from perfetto.trace_builder.proto_builder import TraceProtoBuilder

from ditto_cosim.host.report import summary
from ditto_cosim.host.report.model import ABSENT, RunReport
from ditto_cosim.protocol.hardware import MODES

TIMELINE = "timeline.pftrace"
SEQUENCE = 1


class Trace:
    """Tracks under one title, slices and counters on them."""

    def __init__(self, title: str, clock_hz: int) -> None:
        self._builder = TraceProtoBuilder()
        self._clock_hz = clock_hz
        self._tracks = 1
        top = self._builder.add_packet()
        top.track_descriptor.uuid = 1
        top.track_descriptor.process.pid = 1
        top.track_descriptor.process.process_name = title

    def ns(self, cycles: int) -> int:
        return round(cycles * 1e9 / self._clock_hz)

    def track(self, name: str, counter: bool = False) -> int:
        self._tracks += 1
        packet = self._builder.add_packet()
        packet.track_descriptor.uuid = self._tracks
        packet.track_descriptor.parent_uuid = 1
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
        begin = self._event(track, start, TrackEvent.TYPE_SLICE_BEGIN)
        begin.name = name
        for key, value in {"cycles": end - start, **(facts or {})}.items():
            note = begin.debug_annotations.add()
            note.name = key
            if isinstance(value, str):
                note.string_value = value
            else:
                note.int_value = value
        begin.flow_ids.extend(flows)
        self._event(track, end, TrackEvent.TYPE_SLICE_END)

    def counter(self, track: int, at: int, value: float) -> None:
        self._event(track, at, TrackEvent.TYPE_COUNTER).double_counter_value = value

    def _event(self, track: int, cycles: int, kind: int) -> TrackEvent:
        packet = self._builder.add_packet()
        packet.timestamp = self.ns(cycles)
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
            made.slice(layers, f"{MODES[report.mode[s, i]]} {name}", clock, end, facts)
            at = clock
            for cause, array in causes.items():
                if spent := int(array[s, i]):
                    made.slice(pes, summary.CAUSES.get(cause, cause), at, at + spent)
                    at += spent
            made.counter(bandwidth, clock, sum(moved.values()) / max(end - clock, 1))
            for kind, track in kinds.items():
                made.counter(track, clock, float(getattr(report, kind)[s, i]))
            clock = end
    return made.bytes
