# SPDX-License-Identifier: Apache-2.0
"""Which SystemVerilog a tile is built from: what ships, or what ships with some files replaced by the user's own.

A folder of the user's may hold a copy of any of our files, by its name, and files of his own that those need; what it does
not hold is taken from here. Our assertions look into the lane and our waveform view into the PEs: they follow a replaced
one if they still fit it, or if the folder brings its own copy of them.
What this file does not do: look at what is in the files (`interface.py`) or build them (`build.py`).
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.toolchain import BuildError

DESIGN = (
    "ditto_pkg.sv",
    "encoder.sv",
    "slot_buffer.sv",
    "pe_array.sv",
    "pe_pipeline.sv",
    "lane.sv",
    "tile.sv",
)
CHECKS = ("checks/hold_checks.sv", "checks/element_checks.sv", "checks/lane_checks.sv")
ARRAYS: dict[str, tuple[str, ...]] = {
    "sparse_tile": (
        "ditto_pkg.sv", "sq_dm/sq_dm_pkg.sv", "slot_buffer.sv", "sq_dm/sparse_encoder.sv", "sq_dm/sparse_pe_array.sv",
        "sq_dm/block_accumulator.sv", "sq_dm/sparse_tile.sv",
    ),
    "dense_tile": (
        "ditto_pkg.sv", "sq_dm/sq_dm_pkg.sv", "sq_dm/dense_pe_array.sv", "sq_dm/block_accumulator.sv", "sq_dm/dense_tile.sv",
    ),
    "sparsity_detector": ("sq_dm/sparsity_detector.sv",),
}  # fmt: skip
"""SQ-DM's modules that are built, each with what it is made of, the parts before their wholes."""
PROOFS = tuple(
    f"checks/prove_{name}.sv"
    for name in (
        "encoder",
        "pe",
        "pipeline",
        "slot_buffer",
        "reset",
        "start",
        "framer",
        "accumulator",
        "detector",
    )
)
VIEW = "checks/pe_view.sv"
WAIVERS = "waivers.vlt"
ARRAY_WAIVERS = "sq_dm/waivers.vlt"


@dataclass(frozen=True, slots=True)
class Sources:
    """Files of one tile."""

    design: tuple[Path, ...]
    checks: tuple[Path, ...]
    """Assertions; none where they would not fit."""
    view: tuple[Path, ...]
    waivers: Path
    own: tuple[str, ...]
    """Names of the files that are the user's."""


def rtl_dir() -> Path:
    """The RTL that ships."""
    return Path(str(importlib.resources.files("ditto_cosim.rtl"))).resolve()


def array_sources(top: str, own_dir: Path | None = None) -> tuple[Path, ...]:
    """Waivers and design of one of `ARRAYS`; a copy of a file in `own_dir`, under the same path, takes the place of ours."""
    names = (WAIVERS, ARRAY_WAIVERS, *ARRAYS[top])
    folders = [folder for folder in (own_dir, rtl_dir()) if folder is not None]
    return tuple(next(f / name for f in folders if (f / name).is_file()) for name in names)


def sources(own_dir: Path | None = None) -> Sources:
    """The files of a tile, those in `own_dir` before those that ship."""
    ours = rtl_dir()
    if own_dir is None:
        design = tuple(ours / name for name in DESIGN)
        checks = tuple(ours / name for name in CHECKS)
        return Sources(design, checks, (ours / VIEW,), ours / WAIVERS, ())
    if not own_dir.is_dir():
        raise BuildError(f"rtl: {own_dir} is no folder")
    found = sorted(path.name for path in own_dir.glob("*.sv"))
    if not set(found) & set(DESIGN):
        raise BuildError(
            f"rtl: {own_dir} holds none of {', '.join(DESIGN)}; copy the module you change there, under its own name"
        )

    def chosen(name: str) -> Path:
        return own_dir / name if (own_dir / name).is_file() else ours / name

    extra = tuple(own_dir / name for name in found if name not in DESIGN)
    packages = [path for path in extra if path.stem.endswith("_pkg")]
    modules = [path for path in extra if path not in packages]
    first, *rest = (chosen(name) for name in DESIGN)
    design = (first, *packages, *modules, *rest)

    def follow(names: tuple[str, ...], what: str) -> tuple[Path, ...]:
        files = tuple(chosen(name) for name in names)
        replaced = what in found and (own_dir / what).read_bytes() != (ours / what).read_bytes()
        return files if not replaced or (own_dir / names[-1]).is_file() or _fit(design, files) else ()

    return Sources(
        design, follow(CHECKS, "lane.sv"), follow((VIEW,), "pe_array.sv"), chosen(WAIVERS), tuple(found)
    )


def _fit(design: tuple[Path, ...], watchers: tuple[Path, ...]) -> bool:
    """Whether what is bound into a module finds there what it looks at."""
    from .interface import modules

    _, alone = modules(design, {})
    _, watched = modules((*design, *watchers), {})
    return watched == alone
