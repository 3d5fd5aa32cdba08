# SPDX-License-Identifier: Apache-2.0
"""A compiled denoiser: program, constants and grids, in memory and as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ditto_cosim.host.compiler.arguments import TIME_NAMES, Call
from ditto_cosim.host.compiler.cache import CachePlan
from ditto_cosim.host.compiler.capture import STATIC_INPUTS, Captured, capture_call
from ditto_cosim.host.compiler.lower import UnsupportedError, lower
from ditto_cosim.host.compiler.plan import FormatPlan
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError, grids_of
from ditto_cosim.host.compiler.seal import seal_of
from ditto_cosim.protocol.errors import DittoError, IsaError
from ditto_cosim.protocol.files import replacing
from ditto_cosim.protocol.program import Program

FORMAT = "ditto-compiled-2"


@dataclass(frozen=True)
class Compiled:
    """Everything a device needs of a denoiser at fixed shapes."""

    program: Program
    constants: Mapping[str, torch.Tensor]
    grids: Mapping[str, Grid]
    steps: int
    """Steps of the run it was compiled for; only step clusters depend on it."""
    seal: str = ""
    """Of the file that it was read from."""

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The constants as NumPy views."""
        return {name: tensor.numpy() for name, tensor in self.constants.items()}

    def save(self, path: Path) -> str:
        """One safetensors file, its seal; program and grids are JSON in its metadata."""
        metadata = {
            "format": FORMAT,
            "program": json.dumps(self.program.to_dict()),
            "grids": json.dumps({name: asdict(grid) for name, grid in self.grids.items()}),
            "steps": str(self.steps),
        }
        metadata["digest"] = seal_of(metadata, self.constants)
        with replacing(path) as unfinished:
            save_file(
                {name: t.contiguous().clone() for name, t in self.constants.items()}, unfinished, metadata
            )
        return metadata["digest"]

    @classmethod
    def load(cls, path: Path) -> Compiled:
        """The inverse of `save`; a file that is not one is refused in a sentence."""
        try:
            with safe_open(path, "pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise QuantizationError(
                        f"{path}: not a compiled denoiser (format {metadata.get('format')!r})"
                    )
                constants = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if metadata.get("digest") != seal_of(metadata, constants):
                raise QuantizationError(
                    f"{path}: damaged, its content is not what was written (checksum); compile it again"
                )
            program = Program.from_dict(json.loads(metadata["program"]))
            grids = grids_of(json.loads(metadata["grids"]))
            return cls(program, constants, grids, int(metadata["steps"]), metadata["digest"])
        except FileNotFoundError:
            raise QuantizationError(f"{path}: no such file; `ditto compile` makes one") from None
        except (
            SafetensorError,
            KeyError,
            TypeError,
            ValueError,
            ArithmeticError,
            RecursionError,
            IsaError,
        ) as error:
            raise QuantizationError(
                f"{path}: not a compiled denoiser ({type(error).__name__}: {error})"
            ) from None


def wire_array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """An input as the program takes it: truth values are bytes."""
    array: npt.NDArray[np.generic] = tensor.detach().contiguous().numpy()
    return array.view(np.int8) if array.dtype == np.bool_ else array


def capture_to_lower(
    denoiser: nn.Module,
    forward: Callable[..., Any],
    call: Call,
    *,
    static_inputs: frozenset[str] = STATIC_INPUTS,
) -> Captured:
    """The call as a graph that lowers: whole numbers that say where tokens lie, and truth values, are constants of it if it does
    not without. They are those of this call alone (`Captured.held`)."""
    captured = capture_call(denoiser, forward, call, static_inputs=static_inputs)
    layout = frozenset(
        name.partition(".")[0]
        for name in captured.inputs
        if not call.tensors[name].is_floating_point() and name.partition(".")[0] not in TIME_NAMES
    )
    if not layout:
        return captured
    try:
        lower(captured, None)
    except UnsupportedError as error:
        try:
            held = capture_call(denoiser, forward, call, static_inputs=static_inputs, hold=layout)
            lower(held, None)
        except DittoError:
            raise error from None  # what is missing is missing either way
        return held
    return captured


def compile_denoiser(
    captured: Captured,
    grids: Mapping[str, Grid],
    *,
    steps: int = 50,
    plan: CachePlan | None = None,
    formats: FormatPlan | None = None,
) -> Compiled:
    """Lowers a captured denoiser onto its grids, with what increments between full steps compute if there is a plan, and onto
    block-scaled formats if there are any."""
    lowered = lower(captured, grids, steps=steps, plan=plan, formats=formats)
    live = {_storage(t) for t in captured.parameters.values()}
    constants = {n: t.clone() if _storage(t) in live else t for n, t in lowered.constants.items()}
    return Compiled(lowered.program, constants, grids, steps)


def _storage(tensor: torch.Tensor) -> int:
    """Where a tensor's values are; constants are copies, so that editing the module changes no program."""
    return tensor.untyped_storage().data_ptr()
