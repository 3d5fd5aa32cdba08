# SPDX-License-Identifier: Apache-2.0
"""Unmodified diffusers pipelines, every family and several schedulers, through a device process, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from ditto_cosim import accelerate
from ditto_cosim.cli import main
from ditto_cosim.host.compiler.builder import LoweringError
from ditto_cosim.host.compiler.capture import CaptureError
from ditto_cosim.host.compiler.quantize import QuantizationError
from ditto_cosim.host.wire.client import Device
from ditto_cosim.host.wire.supervisor import LocalDevice
from support.families import build


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with LocalDevice(["--backend", "model"]) as found:
        yield found


def vae(channels: int) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(latent_channels=channels, block_out_channels=(8,), norm_num_groups=4, sample_size=16)


def unconditional(kind: str, scheduler: Any) -> Callable[[], Any]:
    def make() -> Any:
        import diffusers

        return getattr(diffusers, kind)(build("unet"), getattr(diffusers, scheduler)()), {"batch_size": 2}

    return make


def stable_diffusion(scheduler: Any) -> Callable[[], Any]:
    def make() -> Any:
        import diffusers

        pipe = diffusers.StableDiffusionPipeline(
            vae=vae(4),
            text_encoder=None,
            tokenizer=None,
            unet=build("unet-conditional"),
            scheduler=getattr(diffusers, scheduler)(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        embeds = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(1))
        return pipe, {
            "prompt_embeds": embeds,
            "negative_prompt_embeds": torch.zeros_like(embeds),
            "guidance_scale": 5.0,
            "height": 16,
            "width": 16,
        }

    return make


def dit() -> Any:
    import diffusers

    pipe = diffusers.DiTPipeline(build("dit"), vae(4), diffusers.DDIMScheduler())
    return pipe, {"class_labels": [1, 2], "guidance_scale": 3.0}


def latte() -> Any:
    import diffusers

    pipe = diffusers.LattePipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae(4),
        transformer=build("latte"),
        scheduler=diffusers.DDIMScheduler(),
    )
    embeds = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(1))
    return pipe, {
        "prompt_embeds": embeds,
        "negative_prompt_embeds": torch.zeros_like(embeds),
        "negative_prompt": None,
        "video_length": 4,
        "height": 8,
        "width": 8,
        "guidance_scale": 3.0,
        "clean_caption": False,
        "mask_feature": False,
        "enable_temporal_attentions": True,
        "output_type": "latent",
    }


PIPELINES = {
    "ddpm": unconditional("DDPMPipeline", "DDPMScheduler"),
    "ddim": unconditional("DDIMPipeline", "DDIMScheduler"),
    "sd-pndm": stable_diffusion("PNDMScheduler"),
    "sd-euler": stable_diffusion("EulerDiscreteScheduler"),
    "dit-cfg": dit,
    "latte-cfg": latte,
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in ("sd-pndm", "ddim") else n for n in PIPELINES]
)
def test_pipelines_run_unmodified_and_verify(name: str, device: Device) -> None:
    torch.manual_seed(0)
    pipe, arguments = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    steps = {"num_inference_steps": 4}
    fp32 = pipe(**arguments, **steps, generator=torch.Generator().manual_seed(3))
    accelerate(
        pipe,
        backend="model",
        chip="tiny",
        connect_to=device,
        verify=True,
        calibration={**arguments, **steps, "generator": torch.Generator().manual_seed(3)},
    )
    result = pipe(**arguments, **steps, generator=torch.Generator().manual_seed(3))
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    seen = denoiser.finish()
    assert seen.verdict.bit_identical
    assert seen.steps >= 4  # PNDM evaluates one timestep twice
    assert seen.verdict.snr_db > 15
    unforced = {r.mode for r in seen.reports if r.step == 1 and not r.forced_base}
    assert unforced == {"temporal"}  # Euler's inputs grow, so that some layers change their scales
    key = "images" if hasattr(result, "images") else "frames"
    assert type(result) is type(fp32)
    assert len(getattr(result, key)) == len(getattr(fp32, key))


def test_pipelines_make_one_generation_a_call(device: Device) -> None:
    torch.manual_seed(0)
    pipe, arguments = PIPELINES["ddim"]()
    accelerate(pipe, backend="model", chip="tiny", connect_to=device, calibration={"num_inference_steps": 2})
    for _ in range(2):
        pipe(**arguments, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    pipe.unet.finish()
    first, second = pipe.unet.generations
    assert (first.steps, first.totals) == (second.steps, second.totals)
    assert {r.mode for r in second.reports if r.step == 0} == {"original"}


def test_pipelines_accelerate_a_plain_module(device: Device) -> None:
    from support.families import calibrated

    calibrator, steps, _ = calibrated("odds")
    torch.manual_seed(0)  # the weights that were calibrated
    module = accelerate(
        build("odds"), backend="model", chip="tiny", connect_to=device, verify=True, scales=calibrator.grids()
    )
    for inputs in steps:
        assert module(**inputs).shape == (3, 12)
    assert module.finish().verdict.bit_identical


def test_pipelines_need_calibration_and_finite_inputs(device: Device) -> None:
    uncalibrated = accelerate(build("odds"), backend="model", chip="tiny", connect_to=device)
    sample = torch.randn(3, 12)
    with pytest.raises(QuantizationError, match="not calibrated"):
        uncalibrated(sample, torch.tensor(1))
    uncalibrated.first.weight.data[:] = 1.0
    ready = accelerate(
        build("odds"),
        backend="model",
        chip="tiny",
        connect_to=device,
        calibration={"sample": sample, "timestep": torch.tensor(1)},
    )
    with pytest.raises(QuantizationError, match="sample"):
        ready(torch.full((3, 12), float("nan")), torch.tensor(1))


def test_pipelines_that_need_arguments_say_which(device: Device) -> None:
    pipe, _ = PIPELINES["dit-cfg"]()
    with pytest.raises(QuantizationError, match="class_labels"):
        accelerate(pipe, backend="model", chip="tiny", connect_to=device)


def test_pipelines_refuse_wrong_shapes_and_rows_beyond_exactness(device: Device) -> None:
    """A sentence that names the input or the layer, and the run goes on afterwards."""
    settings: dict[str, Any] = {"backend": "model", "chip": "tiny", "connect_to": device}
    sample = torch.randn(3, 12)
    fine = {"sample": sample, "timestep": torch.tensor(1)}
    ready = accelerate(build("odds"), calibration=fine, **settings)
    with pytest.raises(CaptureError, match=r"sample.*\(3, 13\).*same reduction dim"):
        ready(torch.randn(3, 13), torch.tensor(1))
    assert ready(**fine).shape == (3, 12)
    ready.finish()
    wide = torch.randn(1, 65_794)
    with pytest.raises(
        LoweringError, match=r"K = 65794 could overflow 32 bits; the longest exact K is 65793.*in .0."
    ):
        accelerate(
            torch.nn.Sequential(torch.nn.Linear(65_794, 2)).eval(), calibration={"input": wide}, **settings
        )(wide)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["quality", "nowhere"],
            "'nowhere' is neither a folder nor a model of the zoo, which has ",
        ),
        (["calibrate", "/no/folder"], "'/no/folder' is neither a folder nor a model"),
        (["generate", "--model", "nowhere"], "'nowhere' is neither a folder nor a model"),
        (["quality", "ddpm"], "ddpm is a configuration without weights"),
        (["compile", "ddpm", "-o", "x"], "ddpm is a configuration without weights"),
    ],
)
def test_commands_name_a_model_they_do_not_have(
    command: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ditto", *command])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert f"error: {says}" in capsys.readouterr().err
