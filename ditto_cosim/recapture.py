# SPDX-License-Identifier: Apache-2.0
"""The operands of one layer in one step of a recorded run, made again: the run is computed up to that step.

The machine runs on the model backend from the recorded inputs, with the run's own chip and design, so that every layer
takes the mode it took; what the wanted layer multiplies is kept.
`python -m ditto_cosim.recapture RUN STEP FILE` writes a few rows of every kind of layer: so were the activations
made that ship with the regression (`fashion-ddpm`, 10 steps, seed 7, step 4).
What this file does not do: run RTL (`sim_harness/recorded.py` replays what this returns).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from ditto_cosim.device.backends import backend_for
from ditto_cosim.device.backends.base import Backend, Gemm, GemmResult
from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.host.analysis.replay import AnalysisError, constants_of, recorded_inputs
from ditto_cosim.host.pipeline.recipe import recipe_of
from ditto_cosim.host.pipeline.run import INPUTS
from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.record import RunRecord
from ditto_cosim.sim_harness.captures import Capture, save_captures


class _Keeper:
    """A backend that keeps the operands of the layers it is told to."""

    measures = False

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self.geometry: Geometry = inner.geometry
        self.wanted: frozenset[str] = frozenset()
        self.kept: list[Capture] = []
        self._inner = inner

    def gemm(self, job: Gemm) -> GemmResult:
        if job.name in self.wanted:
            for group in range(len(job.current)):
                current = np.array(job.current[group])
                if isinstance(job.reference, int):
                    reference = np.full_like(current, job.reference)
                else:
                    reference = np.array(job.reference[group])
                weights = np.array(job.weights[group])
                self.kept.append(Capture(f"{job.name}[{group}]", job.mode, current, reference, weights))
        return self._inner.gemm(job)

    def close(self) -> None:
        self._inner.close()


def recapture(directory: Path, denoiser: torch.nn.Module, step: int, layers: list[str]) -> list[Capture]:
    """What these layers multiplied in a step of the run, one capture a product."""
    record = RunRecord(directory)
    info, names = record.info, [command.name for command in record.program.layers]
    for name in layers:
        if name not in names:
            raise AnalysisError(
                f"{directory}: no layer {name!r}; the run has {len(names)}, such as {names[0]}"
            )
    last = (
        len(record) if record.shelf.has(INPUTS.format(len(record))) else len(record) - 1
    )  # asked, not completed
    if not 0 <= step <= last:
        raise AnalysisError(f"{directory}: no step {step}; the run has steps 0…{last}")
    first = recorded_inputs(directory, record.program, 0)
    made = constants_of(record.program, denoiser, first, record.info, directory)
    constants = {n: _array(t) for n, t in made.items()}
    spec = RunSpec(backend="model", chip=info.chip, design=info.design)
    keeper = _Keeper(backend_for(spec, load_chip(spec.chip), names))
    machine = Machine(record.program, constants, spec, backend=keeper)
    try:
        for at in range(step + 1):
            keeper.wanted = frozenset(layers) if at == step else frozenset()
            inputs = {n: _array(t) for n, t in recorded_inputs(directory, record.program, at).items()}
            machine.step(at, inputs, observe="none", timed=True, on_layer=_ignore, on_value=_ignore)
    finally:
        machine.close()
    return keeper.kept


def recorded_denoiser(record: RunRecord) -> torch.nn.Module:
    """The network that made a run, loaded as the run loaded it where its record says how."""
    from ditto_cosim.host.pipeline.models import load_denoiser, load_model

    recipe = recipe_of(record)
    if recipe is None:
        return load_denoiser(record.info.model)
    return load_model(recipe.folder or recipe.model, **msgspec.structs.asdict(recipe.options)).denoiser


def sample(captures: list[Capture], rows: int = 24, columns: int = 40) -> list[Capture]:
    """A few rows and columns of the first capture of every kind of layer and mode, and of the longest rows."""
    chosen = {(c.name.rpartition(".")[2], c.mode): c for c in reversed(captures)}
    longest = max(captures, key=lambda c: c.current.shape[1])
    return [
        Capture(c.name, c.mode, c.current[:rows], c.reference[:rows], c.weights[:, :columns].copy())
        for c in {id(c): c for c in (*chosen.values(), longest)}.values()
    ]


def main(directory: Path, step: int, path: Path) -> None:
    """Writes a sample of one step of a run."""
    record = RunRecord(directory)
    names = [command.name for command in record.program.layers]
    save_captures(path, sample(recapture(directory, recorded_denoiser(record), step, names)))


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()


def _ignore(*_: object) -> None:
    """Nobody listens."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
