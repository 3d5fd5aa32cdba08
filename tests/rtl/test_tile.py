# SPDX-License-Identifier: Apache-2.0
"""The tile as an object: results, arguments, errors. Cycles are test_contract.py's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditto_cosim.protocol.hardware import GEOMETRIES, Mode
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.errors import HarnessError, TileBusyError, TileInputError, TileStuckError
from ditto_cosim.sim_harness.regression import SETS
from ditto_cosim.sim_harness.tile import GemmRun, Stalls, Tile, TilePlan

RNG = np.random.default_rng(1)


def int8(*shape: int) -> np.ndarray:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def product(current: np.ndarray, reference: np.ndarray | int, weights: np.ndarray) -> np.ndarray:
    return (current.astype(np.int64) - reference) @ weights.astype(np.int64)


@pytest.mark.parametrize("mode", ["original", "temporal", "spatial"])
@pytest.mark.parametrize("name", ["tiny", "mag4_banks", "wide"])
def test_tile_accumulates_exactly(tiles: dict[str, Tile], name: str, mode: Mode) -> None:
    tile = tiles[name]
    k, n = tile.geometry.k_max, tile.geometry.n_max
    current, reference, weights = int8(9, k), int8(9, k), int8(k, n)
    assert tile.load_weights(weights) == k * (n // tile.geometry.columns)
    run = tile.run(current, reference, mode)
    np.testing.assert_array_equal(run.accumulators, product(current, reference, weights))
    np.testing.assert_array_equal(run.zero + run.low + run.full, np.full(9, k))
    assert (run.full == k).all() == (mode == "original")


def test_tile_takes_a_zero_point_as_reference(tiles: dict[str, Tile]) -> None:
    tile, current, weights = tiles["tiny"], int8(1, 21), int8(21, 5)
    tile.load_weights(weights)
    for zero_point in (-128, 0, 127):
        run = tile.run(current, zero_point, "original")
        np.testing.assert_array_equal(run.accumulators, product(current, zero_point, weights))


def test_tile_takes_rows_of_any_stride_and_writes_into_any(tiles: dict[str, Tile]) -> None:
    tile, big, other, weights = tiles["tiny"], int8(20, 90), int8(20, 64), int8(33, 16)
    tile.load_weights(np.asfortranarray(weights).copy(order="C")[:, 3:11])
    out = np.zeros((20, 100), np.int32)
    run = tile.run(big[::2, 7:40], other[:10, :33], "temporal", accumulators=out[:10, 50:58])
    expected = product(big[::2, 7:40], other[:10, :33], weights[:, 3:11])
    np.testing.assert_array_equal(out[:10, 50:58], expected)
    assert run.accumulators.base is out
    assert not out[:, :50].any()
    assert not out[:, 58:].any()
    assert not out[10:].any()


def test_tile_keeps_weights_between_passes_and_loads_the_next_ones_behind_rows(
    tiles: dict[str, Tile],
) -> None:
    tile, first, second = tiles["mag4_banks"], int8(40, 12), int8(64, 9)
    tile.load_weights(first)
    for _ in range(2):
        current = int8(3, 40)
        run = tile.run(current, 0, "temporal")
        np.testing.assert_array_equal(run.accumulators, product(current, 0, first))
    current = int8(30, 40)
    run = tile.run(current, 0, "temporal", next_weights=second)
    np.testing.assert_array_equal(run.accumulators, product(current, 0, first))
    assert run.next_weights_cycles == 64 * 3
    current = int8(2, 64)
    np.testing.assert_array_equal(tile.run(current, 0, "temporal").accumulators, product(current, 0, second))


@pytest.mark.parametrize("name", ["tiny", "mag4_banks"])
def test_tile_clocked_directly_does_what_eval_does(name: str) -> None:
    """Whole images run through the short way to clock the model: it must show at every port what the documented one does."""
    rng = np.random.default_rng(7)

    def everything(options: BuildOptions) -> list[np.ndarray]:
        seen: list[np.ndarray] = []
        with Tile(SETS[name], options=options) as tile:
            banks, lanes = tile.geometry.weight_banks, tile.geometry.lanes
            for m, k, n in ((1, 16, 3), (9, 37, 12), (14, 64, 9)):
                weights, rows, before = (
                    rng.integers(-128, 128, s, np.int8) for s in ((k, n), (m, k), (m, k))
                )
                patterns = (rng.random((lanes, 50)) < 0.6).astype(np.uint8)
                tile.load_weights(weights)
                for stalls in (None, Stalls(patterns, patterns[:, ::-1].copy())):
                    for more in (None, weights[:, ::-1].copy()) if banks == 2 and stalls is None else (None,):
                        run = tile.run(
                            rows, before, "temporal", stalls=stalls, record=True, next_weights=more
                        )
                        assert run.ports is not None
                        seen += [run.accumulators, run.enc_done, run.done, run.zero, run.full, run.busy]
                        seen += [
                            run.starved,
                            run.stalled,
                            np.array(run.cycles),
                            np.array(run.next_weights_cycles),
                        ]
                        seen += [run.ports.operand_ready, run.ports.result_valid]
        return seen

    direct = everything(BuildOptions())
    rng = np.random.default_rng(7)
    documented = everything(BuildOptions(documented_eval=True))
    assert len(direct) == len(documented) > 60
    for a, b in zip(direct, documented, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["original", "temporal"])
def test_product_in_one_call_is_its_passes_one_by_one(tiles: dict[str, Tile], mode: Mode) -> None:
    tile, current, weights = tiles["tiny"], int8(20, 150), int8(150, 20)
    reference: int | np.ndarray = -3 if mode == "original" else int8(20, 150)
    chunks, edges = (64, 64, 22), np.array([0, 1, 8, 12, 20])
    together = tile.run_product(current, reference, weights, mode, chunks=chunks, edges=edges)
    np.testing.assert_array_equal(together.accumulators, product(current, reference, weights))
    classes, at = np.zeros((3, 20), int), 0
    for chunk, length in enumerate(chunks):
        part = slice(at, at + length)
        at += length
        assert together.loaded[chunk] == tile.load_weights(weights[part])
        for i, (first, last) in enumerate(pairwise(edges)):
            rows = slice(first, last)
            before = reference if isinstance(reference, int) else reference[rows, part]
            alone = tile.run(current[rows, part], before, mode)
            assert together.cycles[chunk, i] == alone.cycles
            classes[:, rows] += [alone.zero, alone.low, alone.full]
    np.testing.assert_array_equal(together.classes, classes)


def test_product_refuses_what_does_not_fit(tiles: dict[str, Tile]) -> None:
    tile, current, weights = tiles["tiny"], int8(20, 30), int8(30, 20)
    assert (
        tile.run_product(current, 0, weights, "temporal").accumulators == product(current, 0, weights)
    ).all()
    wrong: dict[str, dict[str, Any]] = {
        "edges must be int64": {"edges": np.array([0, 19])},
        "rise by at least one row": {"edges": np.array([0, 5, 5, 20])},
        "add up to K = 30": {"chunks": (16, 16)},
        "positive numbers": {"chunks": (31, -1)},
    }
    for message, how in wrong.items():
        with pytest.raises(TileInputError, match=message):
            tile.run_product(current, 0, weights, "temporal", **how)
    deep = tile.geometry.k_max + 1
    with pytest.raises(TileInputError, match=f"a chunk of {deep} is over k_max"):
        tile.run_product(int8(2, deep), 0, int8(deep, 4), "temporal")
    with pytest.raises(TileInputError, match="current has K = 29"):
        tile.run_product(current[:, :29].copy(), 0, weights, "temporal")


SHARES = [  # group, part, k, chunk, chunks, column, n, row, rows, edge, ranges, cycles, loaded
    [0, 0, 0, 0, 2, 0, 16, 0, 12, 0, 2, 0, 0],
    [0, 0, 0, 0, 2, 16, 4, 0, 12, 0, 2, 4, 2],
    [0, 1, 128, 2, 1, 0, 16, 0, 12, 0, 2, 8, 4],
    [0, 1, 128, 2, 1, 16, 4, 0, 12, 0, 2, 10, 5],
    [1, 0, 0, 0, 2, 0, 20, 0, 5, 3, 1, 12, 6],
    [1, 0, 0, 0, 2, 0, 20, 5, 7, 5, 1, 14, 8],
    [1, 1, 128, 2, 1, 0, 20, 0, 12, 0, 2, 16, 10],
]
CHUNKS, EDGES = (64, 64, 22), (0, 4, 12, 0, 5, 0, 7)


def plan_of(shares: list[list[int]] = SHARES, chunks: tuple[int, ...] = CHUNKS) -> TilePlan:
    arrays = (np.array(a, np.int64) for a in (shares, chunks, EDGES))
    return TilePlan((2, 12, 150, 20), 2, *arrays)


@pytest.mark.parametrize("mode", ["original", "temporal"])
def test_products_of_many_groups_in_one_call_are_their_shares_one_by_one(
    tiles: dict[str, Tile], mode: Mode
) -> None:
    tile, plan = tiles["tiny"], plan_of()
    current, weights = int8(12, 2, 150).transpose(1, 0, 2), int8(2, 150, 40)[..., ::1][..., 3:23]
    reference: int | np.ndarray = 7 if mode == "original" else int8(2, 12, 150)
    into = GemmRun.of(plan)
    tile.run_gemm(current, reference, weights, mode, plan, into)
    tile.run_gemm(
        current, reference, weights, mode, plan, into
    )  # another thread's tile, which finds none left
    whole = np.stack(
        [product(current[g], reference if isinstance(reference, int) else reference[g], weights[g]) for g in (0, 1)]
    )  # fmt: skip
    np.testing.assert_array_equal(into.accumulators.sum(0), whole)
    for group, part, k, chunk, count, column, n, row, rows, edge, ranges, cycles, loaded in SHARES:
        at, columns, lengths = (
            slice(row, row + rows),
            slice(column, column + n),
            CHUNKS[chunk : chunk + count],
        )
        deep = slice(k, k + sum(lengths))
        alone = tile.run_product(
            current[group, at, deep],
            reference if isinstance(reference, int) else reference[group, at, deep],
            weights[group, deep, columns],
            mode,
            chunks=lengths,
            edges=np.array(EDGES[edge : edge + ranges + 1]),
        )
        np.testing.assert_array_equal(into.accumulators[part, group, at, columns], alone.accumulators)
        np.testing.assert_array_equal(into.classes[part, :, group, at], alone.classes)
        passes, loads = into.cycles[cycles : cycles + count * ranges], into.loaded[loaded : loaded + count]
        np.testing.assert_array_equal(passes.reshape(count, ranges), alone.cycles)
        np.testing.assert_array_equal(loads, alone.loaded)


def test_products_of_many_groups_refuse_what_does_not_fit(tiles: dict[str, Tile]) -> None:
    def changed(field: int, value: int) -> list[list[int]]:
        return [[*SHARES[0][:field], value, *SHARES[0][field + 1 :]], *SHARES[1:]]

    for field, value, message in (
        (0, 2, "group reach past 2"),
        (1, 2, "part reach past 2"),
        (2, 64, "the shares' K do not fit"),
        (4, 4, "chunks reach past 3"),
        (6, 21, "columns reach past 20"),
        (7, 1, "rows reach past 12"),
        (8, 11, "do not rise from 0 to 11"),
        (10, 7, "edges reach past 7"),
    ):
        with pytest.raises(TileInputError, match=message):
            plan_of(changed(field, value))
    with pytest.raises(TileInputError, match="do not fit K = 150"):
        plan_of(chunks=(64, 64, 21))
    tile, plan = tiles["tiny"], plan_of()
    current, weights = int8(2, 12, 150), int8(2, 150, 20)
    bad: list[tuple[Any, Any, Any, str]] = [
        (current[:, :11], 0, weights, r"current is int8\[2, 11, 150\], int8 \[2, 12, 150\] is expected"),
        (current, 0, weights.astype(np.int16), "weights is int16"),
        (current, 200, weights, "reference = 200"),
        (current, current.transpose(2, 1, 0).copy().transpose(2, 1, 0), weights, "bytes apart"),
    ]
    for *operands, message in bad:
        with pytest.raises(TileInputError, match=message):
            tile.run_gemm(operands[0], operands[1], operands[2], "temporal", plan, GemmRun.of(plan))
    with pytest.raises(TileInputError, match="mode = 'sideways'"):
        tile.run_gemm(current, 0, weights, "sideways", plan, GemmRun.of(plan))  # type: ignore[arg-type]  # that is the test


BAD: dict[str, tuple[Callable[..., tuple[Any, ...]], str]] = {
    "current is a list": (lambda a, w: ([[1]], a, "temporal"), "current is a list"),
    "float operands": (lambda a, w: (a.astype(float), a, "temporal"), "current has dtype float64"),
    "one row": (lambda a, w: (a[0], a, "temporal"), "current has shape"),
    "K of other weights": (lambda a, w: (a[:, :3].copy(), 0, "temporal"), "current has K = 3"),
    "no rows": (lambda a, w: (a[:0], 0, "temporal"), "M = 0"),
    "elements apart": (lambda a, w: (np.repeat(a, 2, 1)[:, ::2], 0, "temporal"), "bytes apart"),
    "reference of another shape": (lambda a, w: (a, a[1:], "temporal"), "reference has shape"),
    "reference out of range": (lambda a, w: (a, 128, "temporal"), "reference = 128"),
    "reference of another type": (lambda a, w: (a, "0", "temporal"), "reference is a str"),
    "unknown mode": (lambda a, w: (a, 0, "diagonal"), "mode = 'diagonal'"),
}


@pytest.mark.parametrize("what", BAD)
def test_tile_refuses_bad_arguments_by_name(tiles: dict[str, Tile], what: str) -> None:
    make, words = BAD[what]
    current, weights = int8(4, 10), int8(10, 8)
    tiles["tiny"].load_weights(weights)
    with pytest.raises(TileInputError, match=words):
        tiles["tiny"].run(*make(current, weights))


@pytest.mark.parametrize(
    ("shape", "words"), [((257, 8), "K = 257"), ((8, 65), "N = 65"), ((0, 8), "K = 0"), ((8, 0), "N = 0")]
)
def test_tile_refuses_weights_no_split_was_made_for(
    tiles: dict[str, Tile], shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(TileInputError, match=words):
        tiles["tiny"].load_weights(np.zeros(shape, np.int8))


def test_tile_refuses_what_it_cannot_do(tiles: dict[str, Tile]) -> None:
    tile = Tile(GEOMETRIES["tiny"], options=BuildOptions(assertions=True))
    with pytest.raises(TileInputError, match="no weights are loaded"):
        tile.run(int8(1, 4), 0, "original")
    tile.load_weights(int8(4, 4))
    with pytest.raises(TileInputError, match="weight_banks = 2"):
        tile.run(int8(1, 4), 0, "original", next_weights=int8(4, 4))
    with pytest.raises(TileInputError, match="accumulators has shape"):
        tile.run(int8(1, 4), 0, "original", accumulators=np.zeros((2, 4), np.int32))
    with pytest.raises(TileInputError, match=r"stalls.offer has shape \(1, 5\)"):
        tile.run(
            int8(1, 4), 0, "original", stalls=Stalls(np.ones((1, 5), np.uint8), np.ones((2, 5), np.uint8))
        )
    tile.close()
    with pytest.raises(HarnessError, match="closed"):
        tile.run(int8(1, 4), 0, "original")


def test_tile_stuck_says_where_and_stays_usable(tiles: dict[str, Tile]) -> None:
    tile, current, weights = tiles["tiny"], int8(5, 12), int8(12, 8)
    tile.load_weights(weights)
    never = np.zeros((2, 10), np.uint8)
    with pytest.raises(TileStuckError, match="no handshake for 3000 cycles") as caught:
        tile.run(current, 0, "temporal", stalls=Stalls(np.ones_like(never), never))
    assert "result_valid_o[0] 1" in caught.value.state
    assert "result_ready_i[0] 0" in caught.value.state
    with pytest.raises(TileInputError, match="no weights"):
        tile.run(current, 0, "temporal")
    tile.load_weights(weights)
    np.testing.assert_array_equal(tile.run(current, 0, "temporal").accumulators, product(current, 0, weights))


def test_tile_state_names_every_scalar_port(tiles: dict[str, Tile]) -> None:
    lines = dict(line.rsplit(" ", 1) for line in tiles["tiny"].state().splitlines())
    assert {"busy_o", "cycle_o", "operand_ready_o[1]", "result_row_o[0]", "starved_cycles_o[1]"} <= set(lines)
    assert lines["busy_o"] == "0"


def test_tile_belongs_to_one_thread_at_a_time_and_releases_the_gil() -> None:
    tile = Tile(GEOMETRIES["cosim"])
    tile.load_weights(int8(1024, 512))
    current = int8(2000, 1024)
    failures: list[BaseException] = []

    def use() -> None:
        try:
            tile.run(current, 0, "original")
        except TileBusyError as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 2  # so the first one was inside while the others tried: the GIL was free


def test_tiles_of_two_threads_do_not_disturb_each_other() -> None:
    work = [(int8(60, 300), int8(300, 256)) for _ in range(2)]
    results: dict[int, np.ndarray] = {}

    def use(index: int) -> None:
        tile = Tile(GEOMETRIES["cosim"])
        tile.load_weights(work[index][1])
        for _ in range(5):
            results[index] = tile.run(work[index][0], 3, "temporal").accumulators

    threads = [threading.Thread(target=use, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, (current, weights) in enumerate(work):
        np.testing.assert_array_equal(results[index], product(current, 3, weights))


@pytest.mark.parametrize("suffix", ["vcd", "fst"])
def test_tile_writes_a_waveform(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tile.{suffix}"
    weights, current = int8(9, 8), int8(3, 9)
    with Tile(GEOMETRIES["tiny"], trace=path) as tile:
        tile.load_weights(weights)
        run = tile.run(current, 0, "temporal")
    np.testing.assert_array_equal(run.accumulators, product(current, 0, weights))
    content = path.read_bytes()
    assert len(content) > 1000
    if suffix == "vcd":
        assert b"u_encoder" in content
        assert b"partial" in content


def test_tile_trace_must_be_a_known_format(tmp_path: Path) -> None:
    with pytest.raises(TileInputError, match="neither in"):
        Tile(GEOMETRIES["tiny"], trace=tmp_path / "tile.wave")


def test_view_drives_a_row_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("pyverilator")
    from ditto_cosim.sim_harness.view import open_view

    def word(values: list[int]) -> int:
        return int.from_bytes(np.array(values, np.int8).tobytes(), "little")

    sim = open_view(GEOMETRIES["tiny"])
    sim.start_vcd_trace(str(tmp_path / "view.vcd"))
    io = sim.io
    sim.clock.tick()
    io.rst_ni = 1
    weights = int8(2, 8)
    for k in range(2):
        io.weight_valid_i, io.weight_k_i, io.weight_i = 1, k, word(list(weights[k]))
        sim.clock.tick()
    io.weight_valid_i = 0
    io.start_i, io.mode_i, io.rows_i, io.k_i, io.blocks_i = 1, 1, 1, 2, 1
    sim.clock.tick()
    io.start_i = 0
    io.current_i_0, io.operand_valid_i_0, io.result_ready_i_0 = word([3, -100, 0, 0]), 1, 1
    for _ in range(20):
        if int(io.result_valid_o_0):
            break
        taken = int(io.operand_ready_o_0)
        sim.clock.tick()
        if taken:
            io.operand_valid_i_0 = 0
    got = np.frombuffer(int(io.result_o_0).to_bytes(32, "little"), np.int32)
    np.testing.assert_array_equal(got, product(np.array([[3, -100]], np.int8), 0, weights)[0])
    assert (int(io.low_o_0), int(io.full_o_0)) == (1, 1)
    assert (tmp_path / "view.vcd").stat().st_size > 1000
