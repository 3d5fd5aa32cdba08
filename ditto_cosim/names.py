# SPDX-License-Identifier: Apache-2.0
"""Names of models, chips, designs and backends as a user gives them: whether they are known, and what follows from them.

Light to import: a misspelt name is told before anything heavy is loaded. A device elsewhere may know others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SHOWN, SMALLEST, TRANSFORMER, SPARSE = "emoji-sd", "fashion-ddpm", "fashion-dit", "fashion-ddpm-relu"
SMALL_CHIP = 1024
"""Multipliers below which a chip takes minutes over a step that the paper's takes a second over."""


def model_for(chip: str, plan: str, *, prompted: bool, labelled: bool, cached: bool) -> str:
    """The model of who names none: the best that fits what is asked for. That is the one whose pictures are worth looking at;
    a transformer for class labels and caches, one with sparse values for block-scaled formats, the smallest for a small chip."""
    from ditto_cosim.device.chips import ChipError, load_chip

    if cached or labelled:
        return TRANSFORMER
    if plan:
        return SPARSE
    try:
        small = load_chip(chip).multipliers < SMALL_CHIP
    except ChipError:  # a device elsewhere may know it
        small = False
    return SMALLEST if small and not prompted else SHOWN


def check_model(name: str, prompted: bool, labels: Sequence[int]) -> None:
    """Refuses a model that ships not, or takes not what it is given; a folder's is known when it is loaded."""
    if Path(name).is_dir():
        return
    from ditto_cosim.host.zoo import ZooError, find_trained

    model = find_trained(name)
    if labels and not model.class_conditional:
        raise ZooError(f"{name} takes no class labels (--label); {TRANSFORMER} does")
    if wrong := [label for label in labels if not 0 <= label < model.classes]:
        raise ZooError(
            f"{name}: class label {wrong[0]} is outside 0…{model.classes - 1} (--label); it knows {model.classes} classes"
        )
    if prompted and not model.prompts:
        raise ZooError(f"{name} takes no prompt (--prompt); {SHOWN} does")
    if model.prompts and not prompted:
        raise ZooError(f'{name} needs a prompt (--prompt, --prompt-file), for example "{model.prompts[0]}"')


def prompt_for(model: str) -> str:
    """The first prompt that a model knows well; empty without any."""
    from ditto_cosim.host.zoo import find

    return next(iter(find(model).prompts), "")


def check_names(chip: str, design: str, *backends: str) -> None:
    """Refuses what this machine's device would not know, or could not build; an empty backend is none."""
    from ditto_cosim.device.backends import find_backend
    from ditto_cosim.device.chips import load_chip
    from ditto_cosim.device.designs.base import load_design
    from ditto_cosim.toolchain import compiler

    made, multipliers = load_design(design), load_chip(chip).multipliers
    if made.hetero is not None:
        made.arrays_on(multipliers)
    for backend in filter(None, backends):
        find_backend(backend)
        if backend.partition(":")[0] in ("rtl", "rtl_wide"):
            compiler()


def check_plan(plan: str, design: str) -> None:
    """Refuses formats that a design of this machine has no arrays for; no plan asks for none."""
    from ditto_cosim.device.designs.base import DesignError, load_design

    if plan and load_design(design).hetero is None:
        raise DesignError(
            f"design {design} has no arrays for block-scaled layers, which plan {plan} asks for; take sq_dm, one of its "
            "baselines (fp16_dense, int4_dense, int4_vsq), or a design with a [hetero] table"
        )


def plan_for(design: str) -> str:
    """The formats that a design asks for by itself: block-scaled ones, if it has arrays for them. A name that is unknown here,
    as a device elsewhere may have, asks for none."""
    from ditto_cosim.device.designs.base import DesignError, load_design

    try:
        return "" if load_design(design).hetero is None else "sq_dm"
    except DesignError:
        return ""
