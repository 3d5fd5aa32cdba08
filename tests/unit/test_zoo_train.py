# SPDX-License-Identifier: Apache-2.0
"""Training: repeatable by seed, resumable, and exported to folders that diffusers itself loads."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DiTPipeline, StableDiffusionPipeline

from ditto_cosim.host.zoo import data, export, prompts, shipped, tasks, train
from ditto_cosim.host.zoo.pixels import PixelVAE

NAMES = [["smiling cat", "smile"], ["red heart"], ["cat"], ["big red cat"]]


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve random garments, four random emoji, batches of four."""
    rng = np.random.default_rng(0)
    garments = rng.integers(0, 256, (12, 1, 28, 28), np.uint8), rng.integers(0, 10, 12).astype(np.uint8)
    emoji = rng.integers(0, 256, (4, 3, 64, 64), np.uint8), np.zeros(4, np.uint8)
    monkeypatch.setattr(data, "load", lambda name, _split: emoji if name == "emoji" else garments)
    monkeypatch.setattr(data, "load_captions", lambda _name: NAMES)
    full = tasks.recipes()
    small = {name: dataclasses.replace(recipe, batch=4) for name, recipe in full.items()}
    for module in (train, export):
        monkeypatch.setattr(module, "recipes", functools.partial(dict, small))


def _checkpoint(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return loaded


def _run(name: str, out: Path, steps: int, origin: Path | None = None) -> dict[str, Any]:
    begin = [] if origin is None else ["--from", str(origin)]
    assert train.main([name, "--steps", str(steps), "--out", str(out), "--seed", "3", *begin]) == 0
    return _checkpoint(out)


def _task(name: str, start: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    return tasks.task_of(tasks.recipes()[name], torch.device("cpu"), start or {}, seed=0)


def test_training_by_steps_repeats_bit_for_bit(tmp_path: Path) -> None:
    first, second = (_run("fashion-ddpm", tmp_path / run, 3) for run in "ab")
    assert first["step"] == 3
    assert all(torch.equal(first["ema"][key], second["ema"][key]) for key in first["ema"])


def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    before = _run("fashion-ddpm", tmp_path, 2)
    after = _run("fashion-ddpm", tmp_path, 5)
    assert after["step"] == 5
    assert after["elapsed_s"] > before["elapsed_s"]
    moments = [state["step"] for state in after["optimizer"]["state"].values()]
    assert {float(step) for step in moments} == {5.0}


def _losses(task: Any, loss_of: Any, count: int) -> list[float]:
    """Of steps on one batch with the same dice every time."""
    optimizer = torch.optim.AdamW(task.modules.parameters(), 1e-3)
    losses = []
    for _ in range(count):
        torch.manual_seed(0)
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_lowers_the_loss_on_pictures_it_knows() -> None:
    task = _task("fashion-ddpm")
    images, _ = data.load("fashion-mnist", "train")
    batch = torch.from_numpy(images[:4]).float() / 127.5 - 1
    losses = _losses(task, lambda: task.loss_of(batch, torch.zeros(4).long()), 12)
    assert losses[-1] < 0.8 * losses[0]


def test_text_to_image_learns_from_its_prompts() -> None:
    """Two latents told apart by their prompts alone: both networks have to move."""
    task = _task("emoji-sd", {"vae": shipped.emoji_vae().state_dict()})
    latents = torch.stack([torch.ones(4, 16, 16), -torch.ones(4, 16, 16)]).repeat(2, 1, 1, 1)
    tokens = task._tokens[[0, 1, 0, 1], 0]
    before = task.modules["text_encoder"].state_dict()["embeddings.token_embedding.weight"].clone()
    losses = _losses(task, lambda: task.loss_of(latents, tokens), 8)
    assert losses[-1] < 0.8 * losses[0]
    after = task.modules["text_encoder"].state_dict()["embeddings.token_embedding.weight"]
    assert not torch.equal(before, after)


def test_whitening_changes_latents_and_no_picture() -> None:
    torch.manual_seed(0)
    vae = shipped.emoji_vae().eval()
    with torch.no_grad():
        vae.quant_conv.bias.normal_()
        pictures = torch.from_numpy(data.load("emoji", "train")[0])
        scaled = pictures.float() / 127.5 - 1
        before = vae.decode(vae.encode(scaled).latent_dist.mean).sample
        spread = vae.encode(scaled).latent_dist.std
        tasks.whiten(vae, pictures)
        posterior = vae.encode(scaled).latent_dist
        torch.testing.assert_close(vae.decode(posterior.mean).sample, before, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(posterior.mean.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
        torch.testing.assert_close(posterior.mean.std((0, 2, 3)), torch.ones(4), rtol=1e-3, atol=1e-3)
    ratio = (posterior.std / spread).mean((0, 2, 3))
    torch.testing.assert_close(posterior.std, spread * ratio.view(1, -1, 1, 1), rtol=1e-3, atol=1e-4)


def test_captions_are_shortened_but_never_empty() -> None:
    texts = prompts.variants(NAMES, 12, seed=0)
    assert [found[: len(names)] for found, names in zip(texts, NAMES, strict=True)] == NAMES
    assert all(text and len(found) == 12 for found in texts for text in found)
    words = {
        word for found, names in zip(texts, NAMES, strict=True) for text in found for word in text.split()
    }
    assert words <= {word for names in NAMES for name in names for word in name.split()} | {"a"}


def test_tokenizer_pads_cuts_and_ignores_case() -> None:
    words = prompts.tokenizer(*prompts.learn_vocabulary(NAMES))
    plain, shouted, empty, endless = prompts.encode(words, ["red cat", "Red CAT", "", "cat " * 40])
    assert torch.equal(plain, shouted)
    assert plain.shape == (shipped.EMOJI_TOKENS,)
    assert empty.tolist() == [words.bos_token_id] + [words.eos_token_id] * (shipped.EMOJI_TOKENS - 1)
    assert endless[-1] == words.eos_token_id
    assert (endless == words.eos_token_id).sum() == 1


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = tasks.recipes()["fashion-ddpm"]
    assert train.schedule_lr(recipe, 0, 0.0) == pytest.approx(recipe.learning_rate / recipe.warmup_steps)
    assert train.schedule_lr(recipe, 10_000, 0.0) == pytest.approx(recipe.learning_rate)
    assert train.schedule_lr(recipe, 10_000, 1.0) == pytest.approx(0.01 * recipe.learning_rate)


def test_ema_follows_the_closed_form() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    ema = train.Ema(model, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)
    for _ in range(3):
        ema.update(model, step=1_000_000)
    assert ema.shadow["weight"].item() == pytest.approx(2 - 0.9**3)


def test_dit_drops_labels_once_for_all_blocks(tmp_path: Path) -> None:
    """Training must never leave the choice of dropped labels to each block's own dice."""
    model = shipped.fashion_dit().train()
    tasks.tie_embedders(model)
    arguments = {"timestep": torch.full((2,), 9), "class_labels": torch.tensor([1, 2])}
    embedders = [block.norm1.emb for block in model.transformer_blocks]
    sample = torch.randn(2, 1, 28, 28)
    embeddings = [emb(arguments["timestep"], arguments["class_labels"]) for emb in embedders]
    assert all(torch.equal(embedding, embeddings[0]) for embedding in embeddings)
    assert torch.equal(model(sample, **arguments).sample, model(sample, **arguments).sample)


def test_export_of_a_unet_loads_in_diffusers(tmp_path: Path) -> None:
    trained = _run("fashion-ddpm", tmp_path / "run", 2)
    assert export.main(["fashion-ddpm", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    unet = DDIMPipeline.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False).unet
    for name, parameter in unet.named_parameters():
        assert torch.equal(parameter.float(), trained["ema"][name].half().float())
    assert "--steps 2 --seed 3" in (tmp_path / "out" / "README.md").read_text()


def test_export_of_a_dit_runs_in_an_unmodified_pipeline(tmp_path: Path) -> None:
    trained = _run("fashion-dit", tmp_path / "run", 2)
    assert export.main(["fashion-dit", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    pipe = DiTPipeline.from_pretrained(
        tmp_path / "out", vae=PixelVAE(), dtype=torch.float32, low_cpu_mem_usage=False
    )
    pipe.set_progress_bar_config(disable=True)
    last = pipe.transformer.transformer_blocks[-1].norm1.emb.class_embedder.embedding_table.weight
    first_name = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    assert torch.equal(last, trained["ema"][first_name].half().float())
    images = pipe(class_labels=[1, 2], num_inference_steps=2, guidance_scale=3.0, output_type="np").images
    assert images.shape == (2, 28, 28, 1)
    assert np.isfinite(images).all()


def test_export_of_text_to_image_runs_in_an_unmodified_pipeline(tmp_path: Path) -> None:
    _run("emoji-vae", tmp_path / "vae", 1)
    _run("emoji-sd", tmp_path / "run", 1, tmp_path / "vae")
    trained = _run("emoji-sd", tmp_path / "run", 2)
    assert trained["step"] == 2
    assert export.main(["emoji-sd", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    pipe = StableDiffusionPipeline.from_pretrained(
        tmp_path / "out", dtype=torch.float32, low_cpu_mem_usage=False
    )
    pipe.set_progress_bar_config(disable=True)
    images = pipe(["cat", "red heart"], num_inference_steps=2, guidance_scale=3.0, output_type="np").images
    assert images.shape == (2, 64, 64, 3)
    assert np.isfinite(images).all()
    again = train.start_of(tasks.recipes()["emoji-sd"], tmp_path / "out")
    for key, value in trained["ema"].items():
        assert torch.equal(again["weights"][key], value.half().float()), key


def test_relu_form_begins_with_the_weights_of_the_other(tmp_path: Path) -> None:
    silu = _run("fashion-ddpm", tmp_path / "silu", 1)
    start = train.start_of(tasks.recipes()["fashion-ddpm-relu"], tmp_path / "silu")
    assert all(torch.equal(start["weights"][key], value) for key, value in silu["ema"].items())
    relu = _run("fashion-ddpm-relu", tmp_path / "relu", 1, tmp_path / "silu")
    assert relu["ema"].keys() == silu["ema"].keys()
    model = export.averaged_modules("fashion-ddpm-relu", relu)
    assert isinstance(model.down_blocks[0].resnets[0].nonlinearity, torch.nn.ReLU)


def test_fine_tuning_without_an_origin_says_what_to_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fashion-ddpm-relu", "--steps", "1", "--out", str(tmp_path / "run")]
    assert train.main(arguments) == 1
    assert "name its run or folder with --from" in capsys.readouterr().out
    assert train.main([*arguments, "--from", str(tmp_path)]) == 1
    assert "neither a run's checkpoint.pt" in capsys.readouterr().out


def test_export_refuses_another_models_checkpoint(tmp_path: Path) -> None:
    _run("fashion-ddpm", tmp_path / "run", 1)
    with pytest.raises(ValueError, match="not one of fashion-dit"):
        export.main(["fashion-dit", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
