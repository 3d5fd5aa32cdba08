# SPDX-License-Identifier: Apache-2.0
"""cocotb: the slot buffer replays every row once per block, whatever the receiver does, and never mixes banks."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge


@cocotb.test()
async def slot_buffer_replays_rows_once_a_block(dut: Any) -> None:
    rng = random.Random(3)
    words_a_group = len(dut.group_i)
    rows, blocks = 25, 3
    Clock(dut.clk_i, 2, "step").start()
    for name in (
        "rst_ni",
        "start_i",
        "group_valid_i",
        "row_end_i",
        "word_ready_i",
        "cycle_i",
        "group_addr_i",
    ):
        getattr(dut, name).value = 0
    dut.rows_i.value, dut.last_block_i.value, dut.k_i.value = rows, blocks - 1, 64
    dut.row_slots_i.value, dut.row_full_i.value = 0, 0
    await RisingEdge(dut.clk_i)
    await FallingEdge(dut.clk_i)
    dut.rst_ni.value, dut.start_i.value = 1, 1
    await FallingEdge(dut.clk_i)
    dut.start_i.value = 0

    lengths = [rng.choice([0, 1, 3, 4, 5, rng.randint(0, 128)]) for _ in range(rows)]
    content = [[rng.getrandbits(64) for _ in range(max(1, -(-s // 4)))] for s in lengths]
    expected = [
        (row, block, i, word, i == 0, i == len(content[row]) - 1)
        for row in range(rows)
        for block in range(blocks)
        for i, word in enumerate(content[row])
    ]

    async def fill() -> None:
        for row, words in enumerate(content):
            while not int(dut.free_o.value) or rng.random() < 0.3:
                await FallingEdge(dut.clk_i)
            for group in range(-(-len(words) // words_a_group)):
                dut.group_valid_i.value, dut.group_addr_i.value = 1, group
                for i in range(words_a_group):
                    at = group * words_a_group + i
                    dut.group_i[i].value = words[at] if at < len(words) else rng.getrandbits(64)
                await FallingEdge(dut.clk_i)
                dut.group_valid_i.value = 0
                while rng.random() < 0.3:
                    await FallingEdge(dut.clk_i)
            dut.row_end_i.value, dut.row_slots_i.value = 1, lengths[row]
            dut.row_full_i.value = lengths[row] // 3
            await FallingEdge(dut.clk_i)
            dut.row_end_i.value = 0

    cocotb.start_soon(fill())
    seen: list[tuple[int, int, int, int, bool, bool]] = []
    for cycle in range(20_000):
        valid = int(dut.word_valid_o.value)
        ready = rng.random() < 0.6 if valid else True  # as the PE array: it waits only with a word in hand
        dut.word_ready_i.value, dut.cycle_i.value = int(ready), cycle
        await ReadOnly()
        if valid and ready:
            row, block = int(dut.word_row_o.value), int(dut.word_block_o.value)
            first, last = bool(dut.word_first_o.value), bool(dut.word_last_o.value)
            at = sum(1 for r, b, *_ in seen if (r, b) == (row, block))
            seen.append((row, block, at, int(dut.word_o.value), first, last))
            if last and block == blocks - 1:
                assert int(dut.row_done_o.value)
                full = lengths[row] // 3
                counts = (int(dut.zero_o.value), int(dut.low_o.value), int(dut.full_o.value))
                low = lengths[row] - 2 * full
                assert counts == ((64 - low - full) % 2048, low, full)
        if len(seen) == len(expected):
            break
        await FallingEdge(dut.clk_i)
    assert seen == expected
