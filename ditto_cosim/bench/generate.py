# SPDX-License-Identifier: Apache-2.0
"""What a user waits for: the whole of `ditto generate` by phase, beside the bare machine's own steps.

Commands run in processes of their own, as a user's do, one after the other with what they are compared with: plain and verified,
one alone and two at once. `floor` is what PyTorch and diffusers take to be imported, which no command of ours is faster than.
The bare machine takes the very inputs that the pipeline gave its denoiser, without wire, host or record. What this file does not
do: RTL's own speed (`rtl.py`), or other models' (`model.py`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODEL, STEPS = "fashion-ddpm", 50
BACKEND, CHIP, DESIGN = "rtl", "paper_twin", "ditto"
COMMAND = "from ditto_cosim.cli import main; main()"
FLOOR = "from diffusers import DDIMPipeline, UNet2DModel"
PHASES = ("start", "prepare", "first_step", "step", "finish")


def measure(quick: bool = False) -> dict[str, Any]:
    """Seconds by phase and ratios; `start` is everything before a model is there to be run."""
    steps, repeats = (12, 1) if quick else (STEPS, 3)
    with tempfile.TemporaryDirectory(prefix="ditto-bench-") as made:
        folder = Path(made)
        command(folder / "warm", 2)
        floor = _seconds([sys.executable, "-c", FLOOR])
        plain, verified, pairs = [], [], []
        for i in range(repeats):
            plain.append(command(folder / f"plain-{i}", steps))
            verified.append(command(folder / f"verified-{i}", steps, "--verify"))
            pairs.append(_two(folder / f"pair-{i}", steps))
        inside = json.loads(_output([sys.executable, "-m", __name__, str(steps)]).splitlines()[-1])
    parts = {name: _median(run[name] for run in plain) for name in PHASES}
    return {
        "model": MODEL,
        "steps": steps,
        "to_first_step_s": parts["start"] + parts["prepare"],
        "second_run_to_first_step_s": inside["second_run_to_first_step_s"],
        "step_s": parts["step"],
        "step_over_bench": parts["step"] / inside["step_s"],
        "verify_over_plain": _median(v["step"] / p["step"] for p, v in zip(plain, verified, strict=True)),
        "two_devices": _median(2 * p["wall_s"] / wall_s for p, wall_s in zip(plain, pairs, strict=True)),
        "phases": parts,
        "wall_s": _median(run["wall_s"] for run in plain),
        "verified_wall_s": _median(run["wall_s"] for run in verified),
        "floor_s": floor,
        "bench_step_s": inside["step_s"],
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    parts = figures["phases"]
    return "\n".join(
        [
            f"ditto generate --model {figures['model']} --steps {figures['steps']}: {figures['wall_s']:.1f} s, "
            f"verified {figures['verified_wall_s']:.1f} s",
            f"{'to the first step':22}{figures['to_first_step_s']:8.2f} s   start {parts['start']:.2f} (imports of PyTorch and "
            f"diffusers alone {figures['floor_s']:.2f}), prepare {parts['prepare']:.2f}",
            f"{'again, same process':22}{figures['second_run_to_first_step_s']:8.2f} s",
            f"{'first step':22}{parts['first_step']:8.2f} s",
            f"{'a step':22}{figures['step_s']:8.3f} s   {figures['step_over_bench']:.2f} × the bare machine's "
            f"{figures['bench_step_s']:.3f}; verified {figures['verify_over_plain']:.2f} × plain",
            f"{'after the last':22}{parts['finish']:8.2f} s",
            f"{'two commands at once':22}{figures['two_devices']:8.2f} × the pictures a second of one",
        ]
    )


def command(directory: Path, steps: int, *more: str) -> dict[str, float]:
    """Seconds of one `ditto generate`, whole and by phase."""
    began = time.perf_counter()
    told = json.loads(_output(_words(directory, steps, *more)).splitlines()[-1])
    wall_s = time.perf_counter() - began
    parts: dict[str, float] = told["phases"]
    ran = parts["prepare"] + parts["first_step"] + parts["step"] * (steps - 1) + parts["finish"]
    return {**parts, "start": wall_s - ran, "wall_s": wall_s}


def _two(directory: Path, steps: int) -> float:
    """Seconds of two commands, each with a device of its own, at once."""
    began = time.perf_counter()
    running = [
        subprocess.Popen(
            _words(directory / str(seed), steps, "--seed", str(seed)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for seed in (0, 1)
    ]
    for process in running:
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(said.decode(errors="replace"))
    return time.perf_counter() - began


def _words(directory: Path, steps: int, *more: str) -> list[str]:
    wish = ["--model", MODEL, "--steps", str(steps), "--backend", BACKEND, "--chip", CHIP, "--design", DESIGN]
    return [sys.executable, "-c", COMMAND, "generate", *wish, "-o", str(directory), "--json", *more]


def _output(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{words[:3]} ended with status {done.returncode}")
    return done.stdout


def _seconds(words: Sequence[str]) -> float:
    began = time.perf_counter()
    _output(words)
    return time.perf_counter() - began


def _median(values: Any) -> float:
    return float(statistics.median(values))


# --- in a process of its own ---------------------------------------------------------------------------------------------


def inside(steps: int) -> dict[str, float]:
    """A pipeline that is called twice, and the same steps by the bare machine."""
    from ditto_cosim.device.process import keep_memory
    from ditto_cosim.host.pipeline.accelerate import accelerate, compile_pipeline, trajectory_of
    from ditto_cosim.host.pipeline.models import Wish, load_model

    model = load_model(MODEL)
    arguments = dict(model.arguments(Wish(steps)))
    assert model.scales is not None
    _, trajectory = trajectory_of(model.pipe, model.arguments(Wish(steps)))
    compiled = compile_pipeline(model.pipe, model.arguments(Wish(steps)), model.scales)
    asked: list[float] = []
    accelerate(model.pipe, scales=model.scales, backend=BACKEND, chip=CHIP, design=DESIGN)
    with _watching(model.pipe.unet, asked):
        began = 0.0
        for _ in range(2):
            asked.clear()
            began = time.perf_counter()
            model.pipe(**{**arguments, "num_inference_steps": 3})
        again = asked[0] - began
    model.pipe.unet.shut_down()
    keep_memory()
    return {"second_run_to_first_step_s": again, "step_s": _bare_step(compiled, trajectory)}


@contextmanager
def _watching(denoiser: Any, asked: list[float]) -> Any:
    """Inside, the moments at which steps were asked of the device go into `asked`."""
    from ditto_cosim.host.pipeline.wallclock import WallClock

    own = WallClock.asked

    def tell(clock: WallClock, step: int) -> None:
        asked.append(time.perf_counter())
        own(clock, step)

    WallClock.asked = tell  # type: ignore[assignment,method-assign]  # for as long as we look
    try:
        yield
    finally:
        WallClock.asked = own  # type: ignore[method-assign]


def _bare_step(compiled: Any, trajectory: Sequence[Mapping[str, Any]]) -> float:
    """The mean of all steps but the first."""
    from ditto_cosim.device.execution.machine import Machine
    from ditto_cosim.protocol.messages import RunSpec

    machine = Machine(compiled.program, compiled.arrays, RunSpec(backend=BACKEND, chip=CHIP, design=DESIGN))
    began = 0.0
    for step, inputs in enumerate(trajectory):
        if step == 1:
            began = time.perf_counter()
        machine.step(
            step,
            {n: t.numpy() for n, t in inputs.items()},
            observe="none",
            timed=True,
            on_layer=lambda *_: None,
            on_value=lambda *_: None,
        )
    taken = time.perf_counter() - began
    machine.close()
    return taken / (len(trajectory) - 1)


if __name__ == "__main__":
    print(json.dumps(inside(int(sys.argv[1]))))
