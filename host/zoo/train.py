# SPDX-License-Identifier: Apache-2.0
"""Trains the models that ship: `python -m ditto_cosim.host.zoo.train fashion-ddpm --minutes 50 --out RUN`.

Does: optimise any task of `tasks.py` with AdamW, warm-up and cosine decay, an exponential moving average of the
weights, and checkpoints that resume; on a CUDA device one step is one graph. `--from` begins with the weights of a
model folder or of another run. `export.py` turns a run into a model folder.
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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditto_cosim.protocol.errors import DittoError
from ditto_cosim.protocol.files import replacing

from .tasks import Recipe, Task, precision_of, recipes, task_of

CHECKPOINT_EVERY_S = 90.0
LOG_EVERY_STEPS = 100
GRAPH_WARMUP_STEPS = 3


class TrainingError(DittoError, RuntimeError):
    """A run that cannot begin, or that went wrong on its way."""


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


def schedule_lr(recipe: Recipe, step: int, progress: float) -> float:
    """Linear warm-up over steps, then cosine over the run's progress in 0..1, down to one percent."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


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
    with replacing(path) as unfinished:
        torch.save(state, unfinished)


def start_of(recipe: Recipe, origin: Path | None) -> dict[str, Any]:
    """The tensors a run begins with, from another run's folder or a model folder; empty for fresh parameters.

    Keys: `weights` of the trained modules, and for text to image `vae`, `vocabulary`, `merges` as far as known.
    """
    from safetensors.torch import load_file

    if origin is None:
        if recipe.start is not None:
            raise TrainingError(f"this model begins from {recipe.start}: name its run or folder with --from")
        return {}
    if (origin / "checkpoint.pt").is_file():
        saved = torch.load(origin / "checkpoint.pt", weights_only=True, map_location="cpu")
        if recipe.task == "text-to-image" and "vae" not in saved:
            return {"vae": saved["ema"]}
        known = {key: saved[key] for key in ("vae", "vocabulary", "merges") if key in saved}
        return {"weights": saved["ema"], **known}
    if not (origin / "model_index.json").is_file():
        raise TrainingError(f"{origin} holds neither a run's checkpoint.pt nor a model's model_index.json")

    def part(name: str) -> dict[str, Tensor]:
        (file,) = (origin / name).glob("*.safetensors")
        return {key: value.float() for key, value in load_file(file).items()}

    if recipe.task != "text-to-image":
        return {"weights": part("transformer" if recipe.class_conditional else "unet")}
    weights = {f"{name}.{key}": t for name in ("unet", "text_encoder") for key, t in part(name).items()}
    model = json.loads((origin / "tokenizer" / "tokenizer.json").read_text())["model"]
    return {"weights": weights, "vae": part("vae"), "vocabulary": model["vocab"], "merges": model["merges"]}


class TrainingStep:
    """One optimisation step, called once per batch: as a captured CUDA graph, or call by call.

    The learning rate is a tensor, so that the graph reads what the schedule says; losses add up in another.
    """

    def __init__(
        self, task: Task, optimizer: torch.optim.Optimizer, device: torch.device, captured: bool
    ) -> None:
        self._task, self._optimizer = task, optimizer
        self._parameters = [p for p in task.modules.parameters() if p.requires_grad]
        self.learning_rate = torch.zeros((), device=device)
        self.loss_sum = torch.zeros((), device=device)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._graph = self._captured() if captured else None

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._optimizer.zero_grad(set_to_none=True)
            self._run()

    def _run(self) -> None:
        loss = self._task.loss()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self.loss_sum += loss.detach()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The graph. The steps of the warm-up have learning rate 0; they leave a little in AdamW's moments."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(GRAPH_WARMUP_STEPS):
                self._optimizer.zero_grad(set_to_none=True)
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self._optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        self.loss_sum.zero_()
        return graph


def train(
    name: str,
    out: Path,
    minutes: float | None,
    steps: int | None,
    seed: int,
    device: str,
    origin: Path | None = None,
    compiled: bool = False,
    eager: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Train `name` until the time or the steps are used up, resuming from `out`'s checkpoint if any."""
    recipe, place = recipes()[name], torch.device(device)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint_path = out / "checkpoint.pt"
    saved: dict[str, Any] | None = None
    if checkpoint_path.exists():
        saved = torch.load(checkpoint_path, weights_only=True, map_location="cpu")
    start = saved if saved is not None else start_of(recipe, origin)
    torch.manual_seed(seed)
    task = task_of(recipe, place, start, seed)
    if saved is None and "weights" in start:
        task.modules.load_state_dict(start["weights"], strict=not recipe.class_conditional)
    if device == "cpu":
        use_plain_attention(task.modules)
    else:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        task.modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this
    task.modules.train()
    optimizer = torch.optim.AdamW(
        task.modules.parameters(),
        lr=recipe.learning_rate,
        weight_decay=0.0,
        betas=(0.9, 0.99),
        fused=True,
        capturable=place.type == "cuda",
    )
    ema = Ema(task.modules, recipe.ema_decay)
    step, elapsed_before_s, history = 0, 0.0, []
    if saved is not None:
        task.modules.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        for key, value in saved["ema"].items():
            ema.shadow[key].copy_(value)
        step, elapsed_before_s, history = saved["step"], saved["elapsed_s"], saved["history"]
    torch.manual_seed(seed * 1_000_003 + step)

    budget = f"--minutes {minutes:g}" if minutes is not None else f"--steps {steps}"
    budget += (" --device cuda" if device != "cpu" else "") + (" --compile" if compiled else "")
    budget += f" --from {recipe.start.upper()}" if recipe.start else ""
    started = last_saved = time.monotonic()
    if compiled:
        task.compile()
    take_step = TrainingStep(task, optimizer, place, captured=place.type == "cuda" and not eager)
    logged = step

    def log() -> None:
        nonlocal logged
        loss = take_step.loss_sum.item() / (step - logged)
        take_step.loss_sum.zero_()
        logged = step
        if not math.isfinite(loss):
            raise TrainingError(f"{name} diverged before step {step}; {checkpoint_path} is from before that")
        history.append((step, round(loss, 6)))
        say(json.dumps({"step": step, "loss": history[-1][1], "elapsed_s": round(elapsed_s(), 1)}))

    def elapsed_s() -> float:
        return elapsed_before_s + time.monotonic() - started

    def checkpoint() -> None:
        save_checkpoint(
            checkpoint_path,
            {
                "model": task.modules.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema.shadow,
                "step": step,
                "elapsed_s": elapsed_s(),
                "history": history,
                "seed": seed,
                "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
                "precision": precision_of(device),
                "budget": budget,
                **task.keepsakes(),
            },
        )

    while True:
        progress = elapsed_s() / (60 * minutes) if minutes is not None else step / (steps or 1)
        if progress >= 1:
            break
        take_step.learning_rate.fill_(schedule_lr(recipe, step, progress))
        take_step()
        ema.update(task.modules, step)
        step += 1
        if step % LOG_EVERY_STEPS == 0:
            log()
            if time.monotonic() - last_saved > CHECKPOINT_EVERY_S:
                checkpoint()
                last_saved = time.monotonic()
    if step > logged:
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
    parser.add_argument("--from", dest="origin", type=Path, help="run or model folder to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="compile the network (needs a C++ compiler)")
    parser.add_argument("--eager", action="store_true", help="on CUDA: call by call, not one graph per step")
    chosen = parser.parse_args(argv)
    try:
        train(
            chosen.model,
            chosen.out,
            chosen.minutes,
            chosen.steps,
            chosen.seed,
            chosen.device,
            chosen.origin,
            chosen.compile,
            chosen.eager,
            lambda line: print(line, flush=True),
        )
    except TrainingError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
