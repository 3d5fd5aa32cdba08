# SPDX-License-Identifier: Apache-2.0
"""The command line on folders: of pipelines with text, of denoisers alone, in half precision, with pictures and adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

from ditto_cosim.host.compiler.compiled import Compiled
from ditto_cosim.host.pipeline.models import ModelError, Wish, load_model
from support.families import build
from support.tiny_sd import tiny_stable_diffusion
from support.typed import ditto


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("folders")
    pipe = tiny_stable_diffusion(place / "tokenizer")
    pipe.save_pretrained(place / "sd")
    pipe.to(torch.float16).save_pretrained(place / "sd-fp16", variant="fp16", max_shard_size="30KB")
    build("unet").save_pretrained(place / "bare")
    DDPMPipeline(build("unet"), DDPMScheduler()).save_pretrained(place / "plain")
    Image.effect_noise((16, 16), 60).convert("RGB").save(place / "first.png")
    (place / "prompts.txt").write_text("a cat\n\na dog\n")
    return place


def generated(model: Any, tmp_path: Path, *words: Any) -> Any:
    asked = (
        "generate",
        "--model",
        model,
        "--backend",
        "model",
        "--chip",
        "tiny",
        "--steps",
        2,
        "--verify",
        "--json",
    )
    found = json.loads(ditto(*asked, *words, "-o", tmp_path / "run", "--overwrite").stdout)
    assert found["verify"]["bit_identical"]
    assert found["verify"]["snr_db"] > 20
    return found


def test_folders_with_text_take_prompts_from_a_file(folders: Any, tmp_path: Path) -> None:
    found = generated(folders / "sd", tmp_path, "--prompt-file", folders / "prompts.txt", "--guidance", 3)
    assert len(found["pictures"]) == 2
    found = json.loads(
        ditto("analyze", tmp_path / "run", "--model", folders / "sd", "--json", "--no-plots").stdout
    )
    assert found["run"] == str(tmp_path / "run")


def test_folders_in_half_precision_and_shards_begin_with_a_picture(folders: Any, tmp_path: Path) -> None:
    model = load_model(str(folders / "sd-fp16"), dtype="fp16")
    assert model.pipe.unet.dtype is torch.float16
    words = ("--prompt", "a cat", "--init-image", folders / "first.png", "--strength", 0.9, "--dtype", "bf16")
    assert generated(folders / "sd-fp16", tmp_path, *words)["steps"] in (1, 2)


def test_folders_of_a_denoiser_alone_are_calibrated_compiled_and_run(folders: Any, tmp_path: Path) -> None:
    scales = tmp_path / "scales.json"
    said = ditto("calibrate", folders / "bare", "-o", scales, "--steps", 2, "--batch", 1, "--json").stdout
    assert 0 <= min(json.loads(said)["clipped"].values()) <= max(json.loads(said)["clipped"].values()) < 0.01
    ditto("compile", folders / "bare", "-o", tmp_path / "c", "--scales", scales, "--steps", 2, "--json")
    assert len(Compiled.load(tmp_path / "c").program.layers) > 20
    found = generated(folders / "bare", tmp_path, "--scales", scales)
    assert len(found["pictures"]) == 1


@pytest.fixture(scope="module")
def adapter(folders: Any) -> Any:
    """A LoRA as peft and diffusers write it, strong enough to be seen."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = load_model(str(folders / "sd")).pipe
    names = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=names))
    with torch.no_grad():
        for name, tensor in pipe.unet.named_parameters():
            if "lora_B" in name:
                tensor.normal_(0, 1.0, generator=torch.Generator().manual_seed(len(name)))
    StableDiffusionPipeline.save_lora_weights(
        folders / "adapter", unet_lora_layers=get_peft_model_state_dict(pipe.unet)
    )
    return folders / "adapter"


def picture(tmp_path: Path) -> Any:
    return np.asarray(Image.open(tmp_path / "run" / "picture-0.png"), np.float32)


@pytest.mark.long
def test_folders_take_adapters_at_their_scale(folders: Any, adapter: Any, tmp_path: Path) -> None:
    """Judged, like every verified run, in dB against the live module, whose weights the adapter is part of."""
    made = {}
    for words in ((), ("--lora", adapter), ("--lora", f"{adapter}:0.25"), ("--lora", f"{adapter}:0")):
        generated(folders / "sd", tmp_path, "--prompt", "a cat", *words)
        made[words[1:]] = picture(tmp_path)
    plain, whole, quarter, none = made.values()
    assert np.array_equal(plain, none)
    assert 0 < np.abs(quarter - plain).mean() < np.abs(whole - plain).mean()


@pytest.mark.long
def test_folders_follow_a_controlnet(folders: Any, tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    torch.manual_seed(5)
    unet = load_model(str(folders / "sd")).pipe.unet
    ControlNetModel.from_unet(unet).save_pretrained(
        tmp_path / "net"
    )  # eight pixels a latent; this VAE has two
    words = ("--prompt", "a cat", "--controlnet", tmp_path / "net", "--control-image", folders / "first.png")
    said = ditto(
        "generate", "--model", folders / "sd", "--backend", "model", *words, "-o", tmp_path, status=2
    ).stderr
    assert "failed in its own fp32 calibration call" in said
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    with torch.no_grad():  # as trained: a fresh one adds nothing
        for layer in (
            *net.controlnet_down_blocks,
            net.controlnet_mid_block,
            net.controlnet_cond_embedding.conv_out,
        ):
            layer.weight.normal_(0, 0.5)
    net.save_pretrained(tmp_path / "net")
    Image.new("RGB", (16, 16), "black").save(tmp_path / "black.png")
    made = []
    for control in (folders / "first.png", tmp_path / "black.png"):
        words = ("--prompt", "a cat", "--controlnet", tmp_path / "net", "--control-image", control)
        generated(folders / "sd", tmp_path, *words)
        made.append(picture(tmp_path))
    assert not np.array_equal(*made)


@pytest.mark.long
def test_folders_paint_into_a_mask_and_in_few_steps(folders: Any, tmp_path: Path) -> None:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (8, 0, 16, 16))
    mask.save(tmp_path / "mask.png")
    words = ("--init-image", folders / "first.png", "--mask-image", tmp_path / "mask.png", "--strength", 1.0)
    assert len(generated(folders / "sd", tmp_path, "--prompt", "a cat", *words)["pictures"]) == 1

    pipe = load_model(str(folders / "sd")).pipe
    distilled = UNet2DConditionModel.from_config({**pipe.unet.config, "time_cond_proj_dim": 8})
    LatentConsistencyModelPipeline(
        **{**pipe.components, "scheduler": LCMScheduler(), "unet": distilled}, requires_safety_checker=False
    ).save_pretrained(tmp_path / "lcm")
    found = generated(tmp_path / "lcm", tmp_path, "--prompt", "a cat", "--guidance", 8)
    assert found["steps"] == 2


@pytest.mark.long
def test_folders_are_measured_against_their_own_fp32(folders: Any, tmp_path: Path) -> None:
    asked = ("--count", 3, "--seeds", 1, "--steps", 2, "--batch", 2, "--json", "-o", tmp_path / "all.png")
    for words in ((folders / "bare",), (folders / "sd", "--prompt-file", folders / "prompts.txt")):
        found = json.loads(ditto("quality", *words, *asked).stdout)
        assert found["series"]["static"]["psnr_db"] > 20
        assert "frechet_distance" not in found["series"]["static"]
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.height > 2 * 16


def test_folders_say_what_is_missing(folders: Any, tmp_path: Path) -> None:
    for words, says in [
        (("--model", folders / "sd"), "needs a prompt"),
        (("--model", folders / "bare", "--prompt", "a cat"), "takes no prompt"),
        (("--model", folders / "bare", "--lora", tmp_path), "takes no LoRA"),
        (("--model", folders / "sd", "--prompt", "a", "--lora", tmp_path), "not a LoRA"),
        (("--model", folders / "sd", "--prompt", "a", "--controlnet", tmp_path), "no ControlNet"),
        (("--model", folders / "sd", "--prompt-file", tmp_path / "none"), "not a file of prompts"),
        (
            ("--model", folders / "sd", "--prompt", "a", "--init-image", folders / "prompts.txt"),
            "not a picture",
        ),
        (("--model", folders / "sd", "--dtype", "int3"), "'int3' is unknown; known: fp32"),
        (("--model", folders / "tokenizer"), "not a folder that save_pretrained wrote"),
        (("sample=0", "--verify"), "sample=0"),
    ]:
        assert (
            says
            in ditto(
                "generate", "--backend", "model", "--steps", "1", "-o", tmp_path, *words, status=2
            ).stderr
        ), says


OWNED = "raise SystemExit('this folder ran its own code')\n"


def index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def config(folder: Path, **changes: Any) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights(folder: Path, change: Any) -> None:
    (path,) = (folder / "unet").glob("*.safetensors")
    save_file(change(load_file(path)), path, {"format": "pt"})


def pickled(folder: Path) -> None:
    (path,) = (folder / "unet").glob("*.safetensors")
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def own_pipeline(folder: Path) -> None:
    (folder / "pipeline.py").write_text(OWNED)
    index(folder, _class_name=["pipeline", "Evil"])


def own_denoiser(folder: Path) -> None:
    (folder / "unet" / "evil.py").write_text(OWNED)
    index(folder, unet=["evil", "Evil"])


def deep(name: str) -> Any:
    return lambda folder: (folder / name).write_text("[" * 100_000)


@pytest.mark.parametrize(
    "spoil",
    [
        own_pipeline,
        own_denoiser,
        lambda f: index(f, unet=["subprocess", "Popen"]),
        lambda f: index(f, unet=[1, 2]),
        lambda f: index(f, _class_name="Nothing"),
        lambda f: (f / "model_index.json").write_text("[]"),
        deep("model_index.json"),
        deep("unet/config.json"),
        lambda f: config(f, layers_per_block="x"),
        pickled,
        lambda f: weights(f, lambda t: {n: x for n, x in t.items() if n != "conv_in.weight"}),
        lambda f: weights(f, lambda t: {n: x[:1] if n == "conv_in.weight" else x for n, x in t.items()}),
        lambda f: (f / "scheduler" / "scheduler_config.json").write_text('{"num_train_timesteps": "x"}'),
    ],
)
def test_folders_that_were_made_to_hurt_are_a_sentence(folders: Any, tmp_path: Path, spoil: Any) -> None:
    """No code of theirs is run, nothing is unpickled, and no weight that is missing is a random number."""
    shutil.copytree(folders / "plain", tmp_path / "hostile")
    spoil(tmp_path / "hostile")
    with pytest.raises(ModelError, match="hostile: "):
        load_model(str(tmp_path / "hostile"))


def test_adapters_are_not_unpickled(folders: Any, tmp_path: Path) -> None:
    torch.save({"unet.to_q.lora_A.weight": torch.ones(4, 4)}, tmp_path / "adapter.bin")
    with pytest.raises(ModelError, match="adapters are read from safetensors files alone"):
        load_model(str(folders / "sd"), lora=[str(tmp_path / "adapter.bin")])


def test_folders_refuse_arguments_by_name(folders: Any) -> None:
    with pytest.raises(ModelError, match="DDIMPipeline takes no colour; it takes"):
        load_model("fashion-ddpm").arguments(Wish(more={"colour": 3}))
    with pytest.raises(ModelError, match="takes no guidance_scale"):
        load_model("fashion-ddpm").arguments(Wish(guidance=2.0))
