# SPDX-License-Identifier: Apache-2.0
"""cocotb: the PE array sums random slot words under random back-pressure; results wait until they are taken."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


@cocotb.test()
async def pe_array_sums_words_under_back_pressure(dut: Any) -> None:
    rng = random.Random(5)
    columns, k_count, block_count = len(dut.weight_i), 16, 2
    Clock(dut.clk_i, 2, "step").start()
    for name in (
        "rst_ni",
        "weight_valid_i",
        "word_valid_i",
        "result_ready_i",
        "weight_bank_i",
        "active_bank_i",
    ):
        getattr(dut, name).value = 0
    for name in ("enc_done_i", "done_i", "zero_i", "low_i", "full_i", "row_done_i", "word_row_i"):
        getattr(dut, name).value = 0
    await RisingEdge(dut.clk_i)
    await FallingEdge(dut.clk_i)
    dut.rst_ni.value = 1
    weights = {}
    for block in range(block_count):
        for k in range(k_count):
            weights[block, k] = [rng.choice([-128, 127, rng.randint(-128, 127)]) for _ in range(columns)]
            dut.weight_valid_i.value, dut.weight_block_i.value, dut.weight_k_i.value = 1, block, k
            for c, w in enumerate(weights[block, k]):
                dut.weight_i[c].value = w & 255
            await FallingEdge(dut.clk_i)
    dut.weight_valid_i.value = 0

    words, expected = [], []
    for number in range(60):
        block, total = rng.randrange(block_count), [0] * columns
        length = rng.choice([1, 1, 2, 5])
        for i in range(length):
            word = 0
            for position in range(4):
                k, nibble, sign = (
                    rng.randrange(k_count),
                    rng.choice([0, 15, rng.randrange(16)]),
                    rng.randrange(2),
                )
                hi = rng.randrange(2) if position % 2 == 0 else 0
                word |= (k << 6 | nibble << 2 | sign << 1 | hi) << (16 * position)
                value = (-1 if sign else 1) * nibble * (16 if hi else 1)
                total = [t + value * w for t, w in zip(total, weights[block, k], strict=True)]
            words.append((word, i == 0, i == length - 1, block, number))
        expected.append((number, block, total))

    got, at, waiting = [], 0, False
    for _ in range(5000):
        if not waiting:
            waiting = at < len(words) and rng.random() < 0.8
        dut.word_valid_i.value = int(waiting)
        if waiting:
            word, first, last, block, number = words[at]
            dut.word_i.value, dut.word_first_i.value, dut.word_last_i.value = word, int(first), int(last)
            dut.word_block_i.value, dut.word_row_i.value = block, number
        dut.result_ready_i.value = int(rng.random() < 0.4)
        await ReadOnly()
        if waiting and int(dut.word_ready_o.value):
            at, waiting = at + 1, False
        if int(dut.result_valid_o.value) and int(dut.result_ready_i.value):
            values = [signed(int(dut.result_o[c].value), 32) for c in range(columns)]
            got.append((int(dut.result_row_o.value), int(dut.result_block_o.value), values))
        if len(got) == len(expected):
            break
        await FallingEdge(dut.clk_i)
    assert got == expected
