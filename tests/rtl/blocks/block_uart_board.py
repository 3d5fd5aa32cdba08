# SPDX-License-Identifier: Apache-2.0
"""cocotb: a whole product over the UART, bit by bit, by a host whose clock is not the board's."""

from __future__ import annotations

import random
import struct
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

from ditto_cosim.device.backends.board_link import DONE, HELLO, READ, WELCOME, WRITE, decode, encode

LANES, COLUMNS, WIDTH, K_MAX, BEATS, DEPTH = 2, 4, 4, 16, 16, 8
CLOCK_STEPS, CLOCKS_PER_BIT = 100, 8
REGISTER, WEIGHT, CURRENT, RESULT = (region << 28 for region in (0, 1, 2, 4))


async def send(dut: Any, data: bytes, bit_steps: int) -> None:
    for byte in data:
        for bit in (0, *((byte >> i) & 1 for i in range(8)), 1):
            dut.line_i.value = bit
            await Timer(bit_steps, "step")


async def listen(dut: Any, into: bytearray) -> None:
    """Samples the middle of every bit by the board's own clock; a stop bit must be there."""
    while True:
        await FallingEdge(dut.line_o)
        await Timer(CLOCK_STEPS * CLOCKS_PER_BIT * 3 // 2, "step")
        byte = 0
        for i in range(8):
            byte |= int(dut.line_o.value) << i
            await Timer(CLOCK_STEPS * CLOCKS_PER_BIT, "step")
        assert int(dut.line_o.value) == 1
        into.append(byte)


async def product(dut: Any, error: float) -> None:
    rng = random.Random(7)
    rows, k, n = 3, 11, 7
    current = [[rng.randrange(-128, 128) for _ in range(k)] for _ in range(rows)]
    weights = [[rng.randrange(-128, 128) for _ in range(n)] for _ in range(k)]
    bit_steps = round(CLOCK_STEPS * CLOCKS_PER_BIT * (1 + error))
    heard = bytearray()
    dut.line_i.value, dut.button_ni.value = 1, 1
    Clock(dut.clk_i, CLOCK_STEPS, "step").start()
    cocotb.start_soon(listen(dut, heard))
    await Timer(CLOCK_STEPS * 400, "step")  # the board wakes

    seq = 250  # past 255 within the test

    async def ask(kind: int, body: bytes) -> bytes:
        nonlocal seq
        before = len(heard)
        await send(dut, encode(bytes([kind, seq]) + body), bit_steps)
        for _ in range(4000):
            await Timer(bit_steps, "step")
            frames = [f for f in bytes(heard[before:]).split(b"\x7e") if f]
            if heard[before:].endswith(b"\x7e") and frames and (content := decode(frames[-1])) is not None:
                assert content[1] == seq
                seq = (seq + 1) % 256
                return content
        raise AssertionError(f"no answer to {kind}, heard {bytes(heard[before:])!r}")

    assert (await ask(HELLO, b"abcd"))[0] == WELCOME
    blocks = -(-n // COLUMNS)
    for block in range(blocks):
        part = bytes(
            (row[block * COLUMNS + c] if block * COLUMNS + c < n else 0) & 0xFF
            for row in weights
            for c in range(COLUMNS)
        )
        assert (await ask(WRITE, struct.pack("<I", WEIGHT + block * K_MAX * COLUMNS) + part))[0] == DONE
    beats = -(-k // WIDTH)
    for lane in range(LANES):
        mine = b"".join(
            bytes(v & 0xFF for v in row) + bytes(beats * WIDTH - k) for row in current[lane::LANES]
        )
        await ask(WRITE, struct.pack("<I", CURRENT + lane * BEATS * WIDTH) + mine)
    await ask(WRITE, struct.pack("<7I", REGISTER, 1, rows, k, blocks, 0, 1))
    for lane in range(LANES):
        rows_of_lane = current[lane::LANES]
        count = len(rows_of_lane) * blocks * COLUMNS * 4
        answer = await ask(READ, struct.pack("<IH", RESULT + lane * DEPTH * COLUMNS * 4, count))
        words = struct.unpack(f"<{count // 4}i", answer[2:])
        for i, row in enumerate(rows_of_lane):
            right = [sum(a * w[c] for a, w in zip(row, weights, strict=True)) for c in range(n)]
            assert list(words[i * blocks * COLUMNS : i * blocks * COLUMNS + n]) == right


@cocotb.test()
async def uart_carries_a_product(dut: Any) -> None:
    await product(dut, 0.0)


@cocotb.test()
async def uart_carries_a_product_from_a_slower_host(dut: Any) -> None:
    await product(dut, 0.025)
