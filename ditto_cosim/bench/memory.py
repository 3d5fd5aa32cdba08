# SPDX-License-Identifier: Apache-2.0
"""What one run costs a device process in memory, against what the run is: its int8 weights and its temporal state.

The peak of the process's resident set over a few steps, less what the process held before, after it had run something small:
code and libraries are not the run's. Linux only (/proc).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ditto_cosim.host.compiler.calibrate import Calibrator
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import Compiled, compile_denoiser
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol.messages import RunSpec

Inputs = Mapping[str, torch.Tensor]


def run_bytes(compiled: Compiled, steps: Sequence[Inputs], backend: str) -> int:
    """Most bytes that a device process of its own held for these steps of a run."""
    warm, warm_inputs = _small()
    with LocalDevice() as device:
        _run(device, warm, [warm_inputs], backend)
        before = sum(status_bytes(pid, "VmRSS") for pid in family(device.pid))
        for pid in family(device.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts again from here
        _run(device, compiled, steps, backend)
        return sum(status_bytes(pid, "VmHWM") for pid in family(device.pid)) - before


def _run(device: LocalDevice, compiled: Compiled, steps: Sequence[Inputs], backend: str) -> None:
    spec = RunSpec(backend=backend, chip="paper_twin", design="ditto")
    with device.open_run(compiled.program, compiled.arrays, spec) as run:
        for index, inputs in enumerate(steps):
            run.step(index, {name: tensor.numpy() for name, tensor in inputs.items()})


def _small() -> tuple[Compiled, Inputs]:
    inputs = {"input": torch.ones(1, 8)}
    captured = capture(torch.nn.Sequential(torch.nn.Linear(8, 8)), inputs)
    calibrator = Calibrator(captured)
    calibrator.observe(inputs)
    return compile_denoiser(captured, calibrator.grids(observer="minmax")), inputs


def family(pid: int) -> list[int]:
    """A process and its children: a device's front and its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in family(int(child)))]


def status_bytes(pid: int | str, key: str) -> int:
    """A process's memory, as the kernel calls it: VmRSS now, VmHWM at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
