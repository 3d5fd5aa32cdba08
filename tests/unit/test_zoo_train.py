"""Training: repeatable by seed, resumable, and exported to folders that diffusers itself loads."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DiTPipeline

from ditto_cosim.host.zoo import data, export, shipped, train
from ditto_cosim.host.zoo.pixels import PixelVAE


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve random garments, batches of four."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (12, 1, 28, 28), np.uint8), rng.integers(0, 10, 12).astype(np.uint8)
    monkeypatch.setattr(data, "load", lambda _name, _split: pictures)
    full = train.recipes()
    small = {name: dataclasses.replace(recipe, batch=4) for name, recipe in full.items()}
    monkeypatch.setattr(train, "recipes", functools.partial(dict, small))
    monkeypatch.setattr(export, "recipes", functools.partial(dict, small))


def _checkpoint(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return loaded


def _run(name: str, out: Path, steps: int) -> dict[str, Any]:
    assert train.main([name, "--steps", str(steps), "--out", str(out), "--seed", "3"]) == 0
    return _checkpoint(out)


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


def test_training_lowers_the_loss_on_pictures_it_knows() -> None:
    torch.manual_seed(0)
    model = shipped.fashion_ddpm()
    recipe = train.recipes()["fashion-ddpm"]
    images, _ = data.load("fashion-mnist", "train")
    batch = torch.from_numpy(images[:4]).float() / 127.5 - 1
    alphas = shipped.noise_schedule().alphas_cumprod
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        generator = torch.Generator().manual_seed(0)
        loss = train.loss_of(model, recipe, batch, torch.zeros(4).long(), alphas, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = train.recipes()["fashion-ddpm"]
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
    train.tie_embedders(model)
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


def test_export_refuses_another_models_checkpoint(tmp_path: Path) -> None:
    _run("fashion-ddpm", tmp_path / "run", 1)
    with pytest.raises(ValueError, match="not one of fashion-dit"):
        export.main(["fashion-dit", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
