# SPDX-License-Identifier: Apache-2.0
"""Names of chips, designs and backends as a user gives them: whether they are known, and what follows from a design's.

Light to import: a misspelt name is told before anything heavy is loaded. A device elsewhere may know others.
"""

from __future__ import annotations


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
