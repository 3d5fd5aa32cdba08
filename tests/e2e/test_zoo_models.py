# SPDX-License-Identifier: Apache-2.0
"""Every model that ships, one step through the device's model backend: the same bits as the int8 reference."""

from __future__ import annotations

from typing import Any

import pytest

from ditto_cosim.host.pipeline.accelerate import accelerate, find_parts
from ditto_cosim.host.pipeline.models import Wish, load_model
from ditto_cosim.host.zoo import models

WITH_WEIGHTS = [name for name, model in models().items() if model.weights is not None]
LARGE = {"cifar-ddpm", "cifar-ddpm-small-relu"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in LARGE else n for n in WITH_WEIGHTS]
)
def test_one_step_is_bit_identical_on_the_scales_that_ship(name: str) -> None:
    loaded = load_model(name)
    assert loaded.scales is not None, "ditto calibrate makes them"
    pipe = accelerate(loaded.pipe, backend="model", scales=loaded.scales, verify=True)
    denoiser: Any = next(iter(find_parts(pipe).values()))
    wish = Wish(steps=2, prompt=loaded.prompts[0] if loaded.prompts else "")
    try:
        pipe(**loaded.arguments(wish), output_type="latent" if loaded.prompts else "np")
        verdict = denoiser.run.seen.verdict
        layers = len(denoiser.run.compiled.program.layers)
    finally:
        denoiser.finish()
        denoiser.shut_down()
    assert verdict.bit_identical
    assert verdict.layers_checked == 2 * layers > 100
