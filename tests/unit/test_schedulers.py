# SPDX-License-Identifier: Apache-2.0
"""Another scheduler for a model: every name makes its class, what the denoiser is asked, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

from ditto_cosim.host.pipeline.bare import BarePipeline
from ditto_cosim.host.pipeline.models import ModelError, load_model
from ditto_cosim.host.pipeline.schedulers import SCHEDULERS, with_scheduler


def _pipe() -> Any:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
    )
    pipe = DDIMPipeline(unet, DDIMScheduler(beta_start=0.001, beta_end=0.01))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _pictures(pipe: Any, steps: int, seed: int = 0) -> tuple[Any, int]:
    """Its picture, and how often the denoiser was asked."""
    asked = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: asked.append(1))
    made = pipe(
        num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), output_type="np"
    ).images
    hook.remove()
    return made, len(asked)


def test_every_name_makes_its_class_with_the_models_own_noise() -> None:
    for name, wanted in SCHEDULERS.items():
        made = with_scheduler(_pipe(), name).scheduler
        assert type(made) is getattr(diffusers, wanted)
        assert (made.config.beta_start, made.config.beta_end) == (0.001, 0.01)
    assert (
        type(with_scheduler(_pipe(), "HeunDiscreteScheduler").scheduler).__name__ == "HeunDiscreteScheduler"
    )


@pytest.mark.parametrize(("name", "asked"), [("heun", 5), ("euler", 3), ("dpm++", 3), ("ddim", 3)])
def test_pipeline_asks_the_denoiser_as_often_as_the_scheduler_says(name: str, asked: int) -> None:
    pipe = with_scheduler(_pipe(), name)
    assert _pictures(pipe, 3)[1] == asked
    assert isinstance(pipe, DDIMPipeline if name == "ddim" else BarePipeline)


def test_scheduler_that_draws_noise_draws_it_from_the_seed() -> None:
    pipe = with_scheduler(_pipe(), "euler-ancestral")
    first, again, other = (_pictures(pipe, 3, seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_bare_pipeline_draws_what_ddims_own_does() -> None:
    own = _pipe()
    bare = BarePipeline(unet=own.unet, scheduler=own.scheduler)
    assert (_pictures(own, 3)[0] == _pictures(bare, 3)[0]).all()


def test_unknown_name_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ModelError, match=r"'huen' is unknown \(did you mean 'heun'"):
        load_model("no-such-model", scheduler="huen")


def test_scheduler_that_no_model_of_its_kind_takes_is_a_sentence() -> None:
    pipe = _pipe()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(
        ModelError, match="FlowMatchEulerDiscreteScheduler of this model cannot become a DDIM"
    ):
        with_scheduler(pipe, "ddim")


def test_scheduler_is_part_of_how_a_run_was_made(tmp_path: Path) -> None:
    _pipe().save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), scheduler="heun")
    assert loaded.options["scheduler"] == "heun"
    assert "heun" in type(load_model(str(tmp_path), **loaded.options).pipe.scheduler).__name__.lower()
