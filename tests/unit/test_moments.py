# SPDX-License-Identifier: Apache-2.0
"""Where generations begin, told from the calls of a calibration."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from ditto_cosim.host.pipeline.moments import Moment, Reach, begins_by_form, begins_of, steps_of


def told(times: Sequence[float | None], timesteps: Sequence[object] | None = None) -> list[Moment]:
    return [Moment(0, t, None if timesteps is None else timesteps[i]) for i, t in enumerate(times)]


@pytest.mark.parametrize(
    ("times", "begins", "steps"),
    [
        ([9, 5, 1], [0], 3),
        ([9, 9, 5, 5, 1, 1], [0], 3),  # a conditional and an unconditional call
        ([9, 5, 1, 9, 5, 1, 7, 3], [0, 3, 6], 3),
        ([0, 1, 2, 3], [0], 4),  # a sampler whose time rises
        ([0, 1, 2, 0, 1, 2], [0, 3], 3),
        ([None, None, None], [0], 3),
        ([5], [0], 1),
    ],
)
def test_moments_without_a_scheduler(times: list[float | None], begins: list[int], steps: int) -> None:
    assert begins_of(told(times)) == begins
    assert steps_of(told(times)) == steps


def test_moments_follow_a_scheduler_that_goes_back_in_time() -> None:
    first, second = object(), object()
    moments = told([9, 5, 7, 3, 9, 5], [first] * 4 + [second] * 2)
    assert begins_of(moments) == [0, 4]


def test_moments_of_two_forms_that_take_turns() -> None:
    moments = [Moment(i % 2, t) for i, t in enumerate([9, 9, 5, 5, 9, 9, 5, 5])]
    assert begins_by_form(moments) == {0: [0, 2], 1: [0, 2]}


def test_reach_tells_inputs_and_times_beyond_it() -> None:
    reach = Reach()
    for time in (900, 100):
        reach.add(
            {"x": torch.tensor([-2.0, 1.0]), "timestep": torch.tensor(time), "attention_mask": torch.ones(1)}
        )
    assert not reach.beyond({"x": torch.tensor([2.9]), "timestep": torch.tensor(999)})
    assert reach.beyond({"x": torch.tensor([3.1])}) == ["x reaches 3.1 (it saw 2)"]
    assert reach.beyond({"timestep": torch.tensor(1500)}) == ["timestep is 1500 (it saw 100 to 900)"]
    assert not reach.beyond({"attention_mask": torch.full((1,), 1e9), "unseen": torch.ones(1)})
