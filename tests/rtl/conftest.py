# SPDX-License-Identifier: Apache-2.0
"""Tiles the RTL tests share: built once a session, with the RTL's assertions."""

from __future__ import annotations

import pytest

from ditto_cosim.device.timing import lane
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.regression import SETS
from ditto_cosim.sim_harness.tile import Tile
from support.lane_reference import LaneReference


@pytest.fixture(scope="session")
def model() -> LaneReference:
    return LaneReference(lane)


@pytest.fixture(scope="session")
def tiles() -> dict[str, Tile]:
    """Small tiles with assertions, by set."""
    return {
        name: Tile(SETS[name], options=BuildOptions(assertions=True), watchdog_idle_cycles=3000)
        for name in ("tiny", "mag4_banks", "wide")
    }
