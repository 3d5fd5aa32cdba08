# SPDX-License-Identifier: Apache-2.0
"""Pictures a second: several at once, several chips, guidance's halves apart. Priced by the same engine as one picture.

Contract
    batch B        B pictures take each step together: a layer's weights are fetched and loaded once, everything else B times.
                   Products of two activations have no weights to share.
    in flight M    M such batches share a chip, layer by layer in turn, each fetching all that it needs: one computes while
                   another waits. Nothing is shared, so their steps need not be the same ones.
    chips N        N chips, each with its weights, on pictures of their own. `shared_dram`: they hang on one chip's DRAM, and each
                   has an Nth of its channels.
    halves         two chips take one picture: each half of the rows (the guided and the unguided half), with all weights, and one
                   result crosses between them at the end of a step, at the speed of one DRAM stack.
    Latency is one picture's, from its first step to its last, among the others. What is resident shares the buffer with the
    others' state. Every picture meets what the recorded one met: its counts stand for all.

Interface
    throughput(columns, chip, design, batch, in_flight, chips, shared_dram, halves) -> Throughput

What this file does not do: energy (a chip's units do the same work per picture; only its weights' traffic is told), or networks
between chips beyond that one result.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from ditto_cosim.device.chips import Chip
from ditto_cosim.device.designs.base import Design
from ditto_cosim.device.pricing.contracts import Pipelined
from ditto_cosim.device.pricing.cost import GroupCost, PricingError
from ditto_cosim.device.pricing.recorded import Asked, RecordColumns, asked_of_run
from ditto_cosim.device.timing.buffers import CHUNKS_SET_ASIDE
from ditto_cosim.device.timing.engine import run_steps
from ditto_cosim.device.timing.flow import GroupWork
from ditto_cosim.protocol.record import TRAFFIC

I64 = npt.NDArray[np.int64]
WEIGHTS = TRAFFIC.index("weights")
FIELDS = {f.name: i for i, f in enumerate(fields(GroupWork))}
LINK_CHANNELS = 8
"""Between two halves: what a DRAM stack moves."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """A way of working and what it comes to."""

    batch: int
    in_flight: int
    chips: int
    shared_dram: bool
    halves: bool
    pictures_per_s: float
    latency_s: float
    cycles_per_picture: float
    """Of all chips together, divided by the pictures they make meanwhile."""
    busy: float
    """Share of a chip's cycles in which its PEs work."""
    weight_bytes_per_picture: float
    """From DRAM."""


def throughput(
    columns: RecordColumns,
    chip: Chip,
    design: Design,
    *,
    batch: int = 1,
    in_flight: int = 1,
    chips: int = 1,
    shared_dram: bool = False,
    halves: bool = False,
) -> Throughput:
    if min(batch, in_flight, chips) < 1:
        raise PricingError("throughput: batch, pictures in flight and chips are at least 1")
    sets = chips
    if halves:
        if chips % 2:
            raise PricingError(
                f"throughput: halves take two chips each; expected an even number, not {chips}"
            )
        _refuse_odd(columns)
        sets = chips // 2
    mine = _share(chip, batch * in_flight, chips if shared_dram else 1)
    cycles = busy = weights = 0
    for asked in asked_of_run(columns, mine, design):
        contract = asked.pricer.contract
        if not isinstance(contract, Pipelined):
            raise PricingError(
                f"{design.name} on {chip.name}: time there is a closed form, so nothing can overlap; expected a chip with "
                "timing = 'tlm' and a design without a roofline"
            )
        steps = np.array([_scaled(rows, asked, costs, batch, halves) for rows, costs in asked.steps])
        laid = np.stack([_interleaved(step, in_flight) for step in steps])
        causes, _ = run_steps(contract.config, laid)
        cycles += int(asked.weights @ causes.sum(axis=(1, 2)))
        busy += int(asked.weights @ causes[:, :, 0].sum(axis=1))
        if halves:
            cycles += int(asked.weights.sum()) * _crossing(columns, mine) * in_flight
        once = np.array([sum(c.traffic[WEIGHTS] for c in costs) for _, costs in asked.steps])
        weights += int(asked.weights @ once) * in_flight * (2 if halves else 1)
    made = batch * in_flight * sets
    seconds = cycles / chip.clock_hz
    return Throughput(
        batch=batch,
        in_flight=in_flight,
        chips=chips,
        shared_dram=shared_dram,
        halves=halves,
        pictures_per_s=made / seconds,
        latency_s=seconds,
        cycles_per_picture=cycles * chips / made,
        busy=busy / cycles,
        weight_bytes_per_picture=weights / (batch * in_flight),
    )


def _share(chip: Chip, pictures: int, chips: int) -> Chip:
    """What a chip has for itself."""
    if chips > 1:
        dram = chip.dram
        if dram.bytes_per_cycle is None and dram.channels < chips:
            raise PricingError(
                f"throughput: {chips} chips cannot share {dram.channels} DRAM channels; expected a channel for each"
            )
        narrower = (
            replace(dram, channels=dram.channels // chips)
            if dram.bytes_per_cycle is None
            else replace(dram, bytes_per_cycle=max(1, dram.bytes_per_cycle // chips))
        )
        chip = replace(chip, dram=narrower)
    if chip.residency == "resident" and pictures > 1:
        least = CHUNKS_SET_ASIDE * chip.dma.chunk_bytes
        chip = replace(chip, buffer_bytes=max(least, chip.buffer_bytes // pictures))
    return chip


def _refuse_odd(columns: RecordColumns) -> None:
    """Halves need an even number of samples in the denoiser's batch."""
    program = columns.program
    samples = program.values[next(iter(program.outputs.values()))].shape[0]
    if samples % 2:
        raise PricingError(
            f"throughput: this run's denoiser takes {samples} sample a step, which has no halves; a guided run takes two"
        )


def _crossing(columns: RecordColumns, chip: Chip) -> int:
    """Cycles of half of a step's result between two chips."""
    program = columns.program
    nbytes = 4 * program.values[next(iter(program.outputs.values()))].elements // 2
    return replace(chip.dram, channels=LINK_CHANNELS, bytes_per_cycle=None).sustained_cycles(
        nbytes, chip.clock_mhz
    )


def _scaled(rows: I64, asked: Asked, costs: list[GroupCost], batch: int, halves: bool) -> I64:
    """A step's groups with other numbers of rows; weights stay as they are."""
    found = rows.copy()
    shared = np.array([any(t.traffic == "weights" for t in c.group.reads) for c in costs])
    weights = np.array([c.traffic[WEIGHTS] for c in costs], np.int64)
    through = np.array(
        [asked.weight_bytes(c) if s else 0 for c, s in zip(costs, shared, strict=True)], np.int64
    )

    def times(values: I64) -> I64:
        made: I64 = -(-values * batch // (2 if halves else 1))
        return made

    early, port = FIELDS["early_bytes"], FIELDS["port_bytes"]
    found[:, early] = np.minimum(weights, rows[:, early]) + times(np.maximum(rows[:, early] - weights, 0))
    kept = np.minimum(through, rows[:, port])
    found[:, port] = kept + times(rows[:, port] - kept)
    for name in (
        "late_bytes",
        "out_bytes",
        "starved_cycles",
        "busy_cycles",
        "streamed_cycles",
        "after_cycles",
    ):
        found[:, FIELDS[name]] = times(rows[:, FIELDS[name]])
    load = FIELDS["load_cycles"]
    found[:, load] = np.where(shared, rows[:, load], times(rows[:, load]))
    found[:, 0] = np.maximum(1, times(rows[:, 0]))
    return found


def _interleaved(rows: I64, count: int) -> I64:
    """A group of each in turn."""
    found: I64 = np.repeat(rows, count, axis=0)
    needs = FIELDS["needs"]
    own = np.tile(np.arange(count), len(rows))
    found[:, needs] = np.where(found[:, needs] >= 0, found[:, needs] * count + own, -1)
    return found
