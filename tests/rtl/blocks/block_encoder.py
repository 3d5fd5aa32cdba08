# SPDX-License-Identifier: Apache-2.0
"""cocotb: the encoder's ports with random valid and random permission; slots against a scalar reading of the header."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge


def slots_of_row(row: list[tuple[int, int]], original: bool) -> list[tuple[int, int, int]]:
    """(k, value, position parity constraint) in order: what the header promises, element by element."""
    slots: list[tuple[int, int, int]] = []
    for k, (current, reference) in enumerate(row):
        d = current - reference
        low, high = abs(d) % 16, abs(d) // 16
        sign = -1 if d < 0 else 1
        if d == 0 and not original:
            continue
        if -8 <= d <= 7 and not original:
            slots.append((k, sign * low, 0))
        elif len(slots) % 2 == 0:
            slots += [(k, sign * high * 16, 1), (k, sign * low, 0)]
        else:
            slots += [(k, sign * low, 0), (k, sign * high * 16, 1)]
    return slots


def decode(word: int) -> tuple[int, int, int]:
    k, nibble, sign, hi = word >> 6, (word >> 2) & 15, (word >> 1) & 1, word & 1
    return k, (-1 if sign else 1) * (nibble << (4 * hi)), hi


@cocotb.test()
async def encoder_gives_every_row_its_slots(dut: Any) -> None:
    width = len(dut.current_i)
    Clock(dut.clk_i, 2, "step").start()
    dut.rst_ni.value, dut.valid_i.value, dut.open_i.value = 0, 0, 0
    await RisingEdge(dut.clk_i)
    await RisingEdge(dut.clk_i)
    await FallingEdge(dut.clk_i)
    dut.rst_ni.value = 1
    rng = random.Random(cocotb.RANDOM_SEED if hasattr(cocotb, "RANDOM_SEED") else 1)
    for _ in range(60):
        k = rng.choice([1, width - 1, width, width + 1, 3 * width, rng.randint(1, 64)])
        original = rng.random() < 0.2
        span = rng.choice([0, 1, 9, 30, 128])
        row = []
        for _ in range(k):
            reference = rng.randint(-128, 127)
            row.append((max(-128, min(127, reference + rng.randint(-span, span))), reference))
        if rng.random() < 0.2:
            row = [rng.choice([(127, -128), (-128, 127)]) for _ in range(k)]
        dut.k_i.value, dut.original_i.value = k, int(original)
        expected, got, at, last_beat, cycle = slots_of_row(row, original), {}, 0, None, 0
        while True:
            beat = row[at : at + width]
            offered = bool(beat) and (int(dut.valid_i.value) == 1 or rng.random() < 0.7)
            dut.valid_i.value = int(offered)
            dut.open_i.value = int((at == 0 and rng.random() < 0.5) or at > 0 or last_beat is not None)
            if offered:
                padding = [(rng.randint(-128, 127), rng.randint(-128, 127))] * (width - len(beat))
                for e, (current, reference) in enumerate(beat + padding):
                    dut.current_i[e].value, dut.reference_i[e].value = current & 255, reference & 255
            await cocotb.triggers.ReadOnly()
            taken = offered and int(dut.ready_o.value) == 1
            if int(dut.group_valid_o.value):
                base = int(dut.group_addr_o.value) * 2 * width
                for w in range(width // 2):
                    word = int(dut.group_o[w].value)
                    for i in range(4):
                        got[base + 4 * w + i] = decode(word >> (16 * i) & 0xFFFF)
            ended = int(dut.row_end_o.value) == 1
            await RisingEdge(dut.clk_i)
            await FallingEdge(dut.clk_i)
            cycle += 1
            if taken:
                at += width
                last_beat = cycle if at >= k else None
                if at >= k:
                    dut.valid_i.value = 0
            if ended:
                break
        assert last_beat is not None
        assert cycle - last_beat == 3, "a row ends three cycles after its last beat"
        assert int(dut.row_slots_o.value) == len(expected)
        assert int(dut.row_full_o.value) == sum(1 for c, r in row if original or not -8 <= c - r <= 7)
        for i, slot in enumerate(expected):
            assert got[i] == slot, f"slot {i}: {got[i]}, expected {slot}"
            assert not (slot[2] and i % 2)
        for i in range(len(expected), len(got)):
            assert got[i][1] == 0, "padding is worth nothing"
