# SPDX-License-Identifier: Apache-2.0
"""The Defo table: order of measurements, saturation, ties, freezing, fallback, snapshots, limits."""

from __future__ import annotations

import pytest

from ditto_cosim.device.timing.defo import COUNTER_MAX, ENTRIES, DefoError, DefoTable


def decided(first: int, second: int, unit_log2: int = 0) -> DefoTable:
    table = DefoTable(1, unit_log2)
    table.observe(0, False, first)
    table.observe(0, True, second)
    return table


@pytest.mark.parametrize(("first", "second", "temporal"), [(10, 9, True), (10, 10, False), (10, 11, False)])
def test_defo_chooses_temporal_only_when_it_was_faster(first: int, second: int, temporal: bool) -> None:
    table = decided(first, second)
    assert table.wants_temporal(0) is temporal
    assert table.entries[0].tie is (first == second)


def test_defo_second_step_is_temporal_everywhere() -> None:
    table = DefoTable(3, 0)
    assert not any(table.wants_temporal(i) for i in range(3))
    for i in range(3):
        table.observe(i, False, 5)
    assert all(table.wants_temporal(i) for i in range(3))


def test_defo_forced_base_moves_the_second_measurement_to_the_next_step() -> None:
    table = DefoTable(1, 0)
    table.observe(0, False, 10)
    table.observe(0, False, 1)  # forced: not the temporal run that is awaited
    assert table.wants_temporal(0)
    assert table.entries[0].first == 10
    table.observe(0, True, 9)
    assert table.wants_temporal(0)
    assert table.entries[0].phase == "frozen"


def test_defo_is_frozen_unless_dynamic_and_dynamic_never_returns() -> None:
    table = decided(10, 5)
    table.observe(0, True, 50)
    assert table.wants_temporal(0)
    table.observe(0, True, 50, dynamic=True)
    assert not table.wants_temporal(0)
    table.observe(0, False, 1, dynamic=True)
    assert not table.wants_temporal(0)


def test_defo_counters_saturate_and_count_in_units() -> None:
    table = decided(1 << 30, (1 << 30) - 1)
    assert table.entries[0].first == table.entries[0].second == COUNTER_MAX
    assert table.entries[0].saturated
    assert not table.wants_temporal(0)
    coarse = decided(1000, 970, unit_log2=4)
    assert (coarse.entries[0].first, coarse.entries[0].second) == (62, 60)
    assert coarse.wants_temporal(0)
    assert not decided(1000, 993, unit_log2=4).wants_temporal(0)


def test_defo_snapshot_restores_every_field() -> None:
    table = DefoTable(4, 2)
    table.observe(0, False, 400)
    table.observe(1, False, 400)
    table.observe(1, True, 100)
    table.observe(2, False, 1 << 40)
    other = DefoTable(4, 2)
    other.restore(table.snapshot())
    assert other.dump() == table.dump()
    with pytest.raises(DefoError, match="expected 6 each"):
        other.restore(table.snapshot()[:-1])
    with pytest.raises(DefoError, match="entry 0"):
        other.restore(b"\x00\x00\x00\x00\x00\x07" + table.snapshot()[6:])


def test_defo_refuses_more_layers_than_entries() -> None:
    DefoTable(ENTRIES, 0)
    with pytest.raises(DefoError, match="513 layers"):
        DefoTable(ENTRIES + 1, 0)
