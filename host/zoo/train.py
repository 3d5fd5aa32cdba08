"""Trains the models that ship: `python -m ditto_cosim.host.zoo.train fashion-ddpm --minutes 50 --out RUN`.

Does: noise-prediction training with AdamW, warm-up and cosine decay, an exponential moving average of the
weights, and checkpoints that resume; `export.py` turns one into a model folder.
Does not: fetch data by itself on a machine without the package clients (`data.py` says what is missing),
measure quality, or promise the same bits on another machine: seeds fix the order of data and noise, and
`--minutes` ties the learning-rate schedule to the clock; `--steps` ties it to the step count instead.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import data, shipped

CHECKPOINT_EVERY_S = 90.0
LOG_EVERY_STEPS = 100
LABEL_DROPOUT = 0.12
FASHION_CLASSES = 10


@dataclass(frozen=True)
class Recipe:
    """What one training run consists of, apart from its length."""

    build: Callable[[], torch.nn.Module]
    dataset: str
    batch: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    ema_decay: float = 0.999
    horizontal_flips: bool = False
    class_conditional: bool = False


def recipes() -> dict[str, Recipe]:
    """Training recipes by model name."""
    return {
        "fashion-ddpm": Recipe(shipped.fashion_ddpm, "fashion-mnist"),
        "fashion-dit": Recipe(shipped.fashion_dit, "fashion-mnist", batch=32, class_conditional=True),
        "cifar-ddpm-small": Recipe(shipped.cifar_ddpm_small, "cifar-10", batch=32, horizontal_flips=True),
        "cifar-ddpm": Recipe(
            shipped.cifar_ddpm,
            "cifar-10",
            batch=128,
            learning_rate=2e-4,
            warmup_steps=5000,
            ema_decay=0.9999,
            horizontal_flips=True,
        ),
    }


class Ema:
    """Exponential moving average of parameters, with a short memory while training is young."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        shadow = list(self.shadow.values())
        torch._foreach_lerp_(shadow, [p.detach() for p in model.parameters()], 1 - decay)


def tie_embedders(model: Any) -> None:
    """DiT's blocks share one timestep-and-label embedder; diffusers gives each block a copy. Train one.

    diffusers would drop labels anew in every block; here they are dropped once, before the model.
    """
    shared = model.transformer_blocks[0].norm1.emb
    shared.class_embedder.dropout_prob = 0.0
    for block in model.transformer_blocks:
        block.norm1.emb = shared


def initialise_dit(model: Any) -> None:
    """The DiT paper's start, which diffusers leaves out: every block and the output begin as zero."""
    for block in model.transformer_blocks:
        linears = [m for m in block.modules() if isinstance(m, torch.nn.Linear)]
        for linear in linears:
            torch.nn.init.xavier_uniform_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
        torch.nn.init.zeros_(block.norm1.linear.weight)
        labels = block.norm1.emb.class_embedder.embedding_table.weight
        torch.nn.init.normal_(labels, std=0.02)
        torch.nn.init.zeros_(labels[FASHION_CLASSES : shipped.DIT_NULL_CLASS])  # nothing asks for these
    torch.nn.init.zeros_(model.proj_out_1.weight)
    torch.nn.init.zeros_(model.proj_out_1.bias)
    torch.nn.init.zeros_(model.proj_out_2.weight)
    torch.nn.init.zeros_(model.proj_out_2.bias)


def schedule_lr(recipe: Recipe, step: int, progress: float) -> float:
    """Linear warm-up over steps, then cosine over the run's progress in 0..1, down to one percent."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def batches(images: torch.Tensor, labels: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> Any:
    """Endless shuffled (images in -1..1, labels) batches."""
    while True:
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            index = order[start : start + recipe.batch]
            batch = images[index].float() / 127.5 - 1
            if recipe.horizontal_flips:
                flip = torch.rand(len(batch), generator=generator) < 0.5
                batch = torch.where(flip[:, None, None, None], batch.flip(-1), batch)
            yield batch, labels[index]


def precision_of(device: str) -> str:
    """What the network is evaluated in while it trains; without hardware for it, bfloat16 is emulated, slowly."""
    has = torch.cpu.get_capabilities()
    fast = device != "cpu" or has.get("avx512_bf16") or has.get("amx_tile")
    return "bfloat16 autocast" if fast else "fp32"


def loss_of(
    model: torch.nn.Module,
    recipe: Recipe,
    batch: torch.Tensor,
    labels: torch.Tensor,
    alphas: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted noise, timesteps stratified over the batch."""
    count = len(batch)
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timesteps = (strata * len(alphas)).long().clamp_(max=len(alphas) - 1)
    noise = torch.randn(batch.shape, generator=generator)
    kept = torch.rand(count, generator=generator) >= LABEL_DROPOUT
    device = next(model.parameters()).device
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noisy = (alpha.sqrt() * batch + (1 - alpha).sqrt() * noise).to(device)
    reduced = precision_of(device.type) != "fp32"
    with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
        if recipe.class_conditional:
            classes = torch.where(kept, labels, torch.full_like(labels, shipped.DIT_NULL_CLASS))
            predicted = model(noisy, timesteps.to(device), class_labels=classes.to(device)).sample
        else:
            predicted = model(noisy, timesteps.to(device)).sample
    return torch.nn.functional.mse_loss(predicted.float(), noise.to(device))


def use_plain_attention(model: Any) -> None:
    """The CPU's fused attention backward costs three times the plain matmuls at these sizes."""
    from diffusers.models.attention_processor import AttnProcessor

    if hasattr(model, "set_attn_processor"):
        model.set_attn_processor(AttnProcessor())
        return
    for module in model.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(AttnProcessor())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train(name: str, out: Path, minutes: float | None, steps: int | None, seed: int, device: str) -> None:
    """Train `name` until the time or the steps are used up, resuming from `out`'s checkpoint if any."""
    recipe = recipes()[name]
    out.mkdir(parents=True, exist_ok=True)
    checkpoint_path = out / "checkpoint.pt"
    torch.manual_seed(seed)
    model = recipe.build().to(device)
    if recipe.class_conditional:
        tie_embedders(model)
        initialise_dit(model)
    if device == "cpu":
        use_plain_attention(model)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.99)
    )
    ema = Ema(model, recipe.ema_decay)
    step, elapsed_before_s, history = 0, 0.0, []
    if checkpoint_path.exists():
        saved = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        ema.shadow = {k: v.to(device) for k, v in saved["ema"].items()}
        step, elapsed_before_s, history = saved["step"], saved["elapsed_s"], saved["history"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    images, labels = data.load(recipe.dataset, "train")
    feed = batches(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), recipe, generator)
    alphas = shipped.noise_schedule().alphas_cumprod

    started = last_saved = time.monotonic()
    recent: list[float] = []

    def log() -> None:
        line = {"step": step, "loss": round(sum(recent) / len(recent), 6), "elapsed_s": round(elapsed_s(), 1)}
        history.append((step, line["loss"]))
        recent.clear()
        print(json.dumps(line), flush=True)

    def elapsed_s() -> float:
        return elapsed_before_s + time.monotonic() - started

    def checkpoint() -> None:
        save_checkpoint(
            checkpoint_path,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema.shadow,
                "step": step,
                "elapsed_s": elapsed_s(),
                "history": history,
                "seed": seed,
                "device": device,
                "precision": precision_of(device),
                "budget": f"--minutes {minutes:g}" if minutes is not None else f"--steps {steps}",
            },
        )

    while True:
        progress = elapsed_s() / (60 * minutes) if minutes is not None else step / (steps or 1)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule_lr(recipe, step, progress)
        batch, batch_labels = next(feed)
        loss = loss_of(model, recipe, batch, batch_labels, alphas, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model, step)
        step += 1
        recent.append(loss.item())
        if step % LOG_EVERY_STEPS == 0:
            log()
        if time.monotonic() - last_saved > CHECKPOINT_EVERY_S:
            checkpoint()
            last_saved = time.monotonic()
    if recent:
        log()
    checkpoint()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ditto_cosim.host.zoo.train", description=__doc__)
    parser.add_argument("model", choices=sorted(recipes()))
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint folder; resumes when it holds one"
    )
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args(argv)
    train(chosen.model, chosen.out, chosen.minutes, chosen.steps, chosen.seed, chosen.device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
