# SPDX-License-Identifier: Apache-2.0
"""The zoo: what it lists, that every configuration is the published one, and that shipped weights are sound.

Layer counts come from intercepting the ops of one call on `meta`, MACs from torch's own counter: neither uses
the project's capture or lowering. Nothing here touches the network.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ditto_cosim.host import zoo
from ditto_cosim.host.zoo.workloads import workloads

WITH_WEIGHTS = [name for name, model in zoo.models().items() if model.weights is not None]

PREDICTING_NOISE = [name for name in WITH_WEIGHTS if not zoo.models()[name].prompts]

# conv, linear, attention matmuls, GMAC of one call at batch 1, millions of parameters
PUBLISHED = {
    "ddpm": (65, 48, 12, 6.2, 35.7),
    "bed": (67, 88, 32, 101, 274),
    "chur": (88, 120, 42, 21, 288.5),
    "img": (99, 184, 64, 104, 401),
    "sdm": (98, 184, 64, 402, 860),
    "dit": (1, 256, 56, 119, 750),
    "latte": (1, 172, 56, 1863, 457),
}


class _CountOps(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_models_lists_weights_and_the_papers_seven() -> None:
    names = list(zoo.models())
    assert names[-7:] == ["ddpm", "bed", "chur", "img", "sdm", "dit", "latte"]
    assert "fashion-ddpm" in WITH_WEIGHTS
    assert all(model.name == name for name, model in zoo.models().items())


def test_workloads_steps_and_samplers_are_table_i() -> None:
    table = {name: (w.dataset, w.sampler, w.steps) for name, w in workloads().items()}
    assert table == {
        "ddpm": ("CIFAR-10", "DDIM", 100),
        "bed": ("LSUN-Bed", "DDIM", 200),
        "chur": ("LSUN-Church", "DDIM", 200),
        "img": ("ImageNet", "DDIM", 20),
        "sdm": ("COCO2017", "PLMS", 50),
        "dit": ("ImageNet", "DDIM", 250),
        "latte": ("UCF-101", "DDIM", 20),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_workload_on_meta_has_the_published_layers(name: str) -> None:
    convs, linears, matmuls, gmacs, parameters_millions = PUBLISHED[name]
    denoiser = zoo.build_denoiser(name, "meta")
    args, kwargs = zoo.example_inputs(name, "meta")
    with torch.no_grad(), _CountOps() as ops, FlopCounterMode(display=False) as flops:
        out = denoiser(*args, **kwargs).sample
    counts = ops.counts
    dead_caption_linears = 2 if name == "latte" else 0
    assert counts["convolution"] == convs
    assert counts["addmm"] + counts["mm"] - dead_caption_linears == linears
    assert counts["bmm"] == matmuls
    assert flops.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)
    assert sum(p.numel() for p in denoiser.parameters()) / 1e6 == pytest.approx(
        parameters_millions, rel=0.002
    )
    assert out.shape[-2:] == args[0].shape[-2:]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_shipped_weights_are_the_recorded_ones(name: str) -> None:
    folder = zoo.models()[name].weights
    assert folder is not None
    recorded = json.loads((folder / "training.json").read_text())["sha256"]
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.safetensors")}
    assert recorded == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


@pytest.mark.parametrize("name", PREDICTING_NOISE)
def test_shipped_model_predicts_noise(name: str) -> None:
    """On pure noise at the last training step, a trained denoiser predicts its own input."""
    pipeline = zoo.load_pipeline(name)
    denoiser = pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet
    _, kwargs = zoo.example_inputs(name, batch=4)
    config = denoiser.config
    noise = torch.randn(
        4,
        config.in_channels,
        config.sample_size,
        config.sample_size,
        generator=torch.Generator().manual_seed(0),
    )
    kwargs["timestep"] = torch.full((4,), 999)
    with torch.no_grad():
        predicted = denoiser(noise, **kwargs).sample
    assert torch.isfinite(predicted).all()
    correlation = torch.corrcoef(torch.stack([predicted.flatten(), noise.flatten()]))[0, 1]
    assert correlation > 0.95


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_shipped_pipeline_generates_a_picture(name: str) -> None:
    model = zoo.models()[name]
    pipeline = zoo.load_pipeline(name)
    kwargs: dict[str, Any] = {"class_labels": [3]} if model.class_conditional else {"batch_size": 1}
    if model.prompts:
        kwargs = {"prompt": model.prompts[0]}
    images = pipeline(
        **kwargs, num_inference_steps=4, generator=torch.Generator().manual_seed(1), output_type="np"
    ).images
    assert images.shape == (1, model.image_size, model.image_size, model.channels)
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_shipped_folder_matches_its_builder(name: str) -> None:
    pipeline = zoo.load_pipeline(name)
    loaded = (pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet).state_dict()
    built = zoo.build_denoiser(name, "meta").state_dict()
    assert {key: value.shape for key, value in loaded.items()} == {k: v.shape for k, v in built.items()}


def test_text_to_image_draws_the_colour_that_was_asked_for() -> None:
    pipeline = zoo.load_pipeline("emoji-sd")
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1)]
    red, blue = pipeline(
        ["red heart", "blue heart"],
        num_inference_steps=6,
        guidance_scale=3.0,
        generator=generators,
        output_type="np",
    ).images[:, 24:40, 24:40]
    assert red[..., 0].mean() > red[..., 2].mean() + 0.3
    assert blue[..., 2].mean() > blue[..., 0].mean() + 0.3


def test_unmodified_stable_diffusion_loads_the_folder() -> None:
    import diffusers

    folder = zoo.models()["emoji-sd"].weights
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    assert pipeline.safety_checker is None
    assert type(pipeline.unet) is diffusers.UNet2DConditionModel
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size


@pytest.mark.parametrize("name", [name for name in WITH_WEIGHTS if name.endswith("-relu")])
def test_relu_forms_have_no_silu_before_a_convolution_of_a_block(name: str) -> None:
    from diffusers.models.resnet import ResnetBlock2D

    blocks = [m for m in zoo.load_pipeline(name).unet.modules() if isinstance(m, ResnetBlock2D)]
    assert blocks
    assert {type(block.nonlinearity) for block in blocks} == {torch.nn.ReLU}


def test_all_weights_stay_within_the_size_limit() -> None:
    total_bytes = sum(path.stat().st_size for path in zoo.WEIGHTS.rglob("*") if path.is_file())
    assert total_bytes <= 64e6


def test_load_pipeline_without_weights_says_what_to_do() -> None:
    with pytest.raises(zoo.ZooError, match="build_denoiser"):
        zoo.load_pipeline("sdm")


def test_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(
        zoo.ZooError,
        match="'nope' is neither a folder nor a model of the zoo, which has emoji-sd, fashion-ddpm",
    ):
        zoo.load_pipeline("nope")
