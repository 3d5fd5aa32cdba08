# SPDX-License-Identifier: Apache-2.0
"""How a recorded run was asked for, read back from its record: a record may come from anywhere, so every type is checked.

    recipe = recipe_of(RunRecord(path))             None: the run was not asked for in plain data

`generation.recipe_of` writes it. What this file does not do: follow it (`resume.py`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ditto_cosim.host.compiler.quantize import Choice, Observer
from ditto_cosim.host.pipeline.run import ResumeError
from ditto_cosim.protocol.errors import printable
from ditto_cosim.protocol.record import RunRecord


class _Settings(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Of `generation.PLAIN_SETTINGS`."""

    verify: bool = False
    verify_sample: int = 0
    connect_to: str | None = None
    keys: str | None = None
    rtl_layers: tuple[str, ...] = ()
    cross_check: str = ""


class _Options(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Of `load_model`."""

    dtype: str = ""
    lora: tuple[str, ...] = ()
    controlnet: str = ""
    quantized: str = ""
    scheduler: str = ""


class RunRecipe(msgspec.Struct):
    """What `generation.recipe_of` leaves in a record."""

    model: str
    folder: str | None
    wish: dict[str, Any]
    backend: str
    chip: str
    design: str
    command: str
    scales: str | None
    policy: Choice
    observer: Observer
    settings: _Settings
    options: _Options = msgspec.field(default_factory=_Options)
    cache: dict[str, Any] | Literal["icc", "reuse"] | None = None
    plan: str = ""
    fp32: bool = False


def recipe_of(record: RunRecord) -> RunRecipe | None:
    """The recipe, or a `ResumeError` if what stands there is none."""
    found = record.info.extra.get("recipe")
    if found is None:
        return None
    try:
        recipe = msgspec.convert(found, RunRecipe)
        return msgspec.structs.replace(recipe, command=printable(recipe.command))
    except msgspec.ValidationError as error:
        raise ResumeError(f"{record.directory}: its recipe cannot be read ({error}); run it again") from None
