# SPDX-License-Identifier: Apache-2.0
"""A network that loses, doubles, delays and reorders messages changes nothing in what a run gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ditto_cosim.device.serving import outgoing
from ditto_cosim.host.wire import link
from ditto_cosim.host.wire.client import connect
from ditto_cosim.protocol import loop
from ditto_cosim.protocol import messages as m
from support.wire_harness import Faults, Given, Proxy, run_steps, serving
from support.wire_programs import chain

STEPS = 4
SPEC = m.RunSpec(backend="model", chip="tiny", design="ditto")
KINDS = {
    "lose": Faults(lose=0.1),
    "double": Faults(double=0.9),
    "reorder": Faults(delay=0.5, delay_most_s=0.05),
    "all": Faults(lose=0.08, double=0.1, delay=0.3, delay_most_s=0.08),
}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ASK_AGAIN_S", 0.05)
    monkeypatch.setattr(link, "ASK_AGAIN_MOST_S", 0.2)
    monkeypatch.setattr(loop, "TICK_S", 0.02)
    monkeypatch.setattr(outgoing, "REPEAT_S", 0.02)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    with serving(f"ipc://{tmp_path_factory.mktemp('s')}/device") as address, connect(address) as device:
        yield run_steps(device.open_run(*chain(), SPEC), STEPS, observe="all")


def run_through(faults: Faults, seed: int, directory: Path, expected: Given) -> dict[str, int]:
    front = f"ipc://{directory}/front"
    with serving(f"ipc://{directory}/device") as address:
        proxy = Proxy(address, front, faults, seed)
        try:
            with connect(front) as device, device.open_run(*chain(), SPEC) as run:
                assert run_steps(run, STEPS, observe="all") == expected
                assert run.recoveries == 0
        finally:
            proxy.close()
    return proxy.counts


@pytest.mark.parametrize("kind", KINDS)
def test_bad_network_changes_nothing(kind: str, tmp_path: Path, expected: Given) -> None:
    counts = run_through(KINDS[kind], 7, tmp_path, expected)
    hit = {"lose": "lost", "double": "doubled", "reorder": "delayed", "all": "lost"}[kind]
    assert counts[hit] > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_bad_networks_change_nothing(seed: int, tmp_path: Path, expected: Given) -> None:
    run_through(KINDS["all"], seed, tmp_path, expected)
