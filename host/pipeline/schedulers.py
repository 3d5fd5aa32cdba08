# SPDX-License-Identifier: Apache-2.0
"""Another scheduler for a pipeline: `ditto generate --scheduler heun`.

    pipe = with_scheduler(pipe, "heun")          its betas, its prediction type; another way through the same noise

A name is one of ours or a class of diffusers. What this file does not do: say how many steps; a scheduler that evaluates the
denoiser twice a step, as Heun's does, makes a run of more steps than it was asked for (2n − 1).
"""

from __future__ import annotations

import inspect
from typing import Any, cast

from ditto_cosim.host.pipeline.models import ModelError
from ditto_cosim.protocol.suggest import did_you_mean

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-single": "DPMSolverSinglestepScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2-ancestral": "KDPM2AncestralDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def scheduler_class(name: str) -> str:
    """The class of diffusers that a name stands for; refuses others before anything is loaded."""
    if name in SCHEDULERS.values():
        return name
    if name not in SCHEDULERS:
        raise ModelError(
            f"scheduler {name!r} is unknown{did_you_mean(name, [*SCHEDULERS, *SCHEDULERS.values()])}; known: "
            f"{', '.join(SCHEDULERS)}, or their classes in diffusers"
        )
    return SCHEDULERS[name]


def with_scheduler(pipe: Any, name: str) -> Any:
    """The pipeline with that scheduler, made of its own one's configuration."""
    wanted, own = scheduler_class(name), cast(Any, getattr(pipe, "scheduler", None))
    known = {made.__name__: made for made in getattr(own, "compatibles", ())}
    if wanted not in known:
        found = ", ".join(n for n, c in SCHEDULERS.items() if c in known) or "none"
        raise ModelError(
            f"scheduler {name!r}: {type(own).__name__} of this model cannot become a {wanted}; it can become: {found}"
        )
    try:
        pipe.scheduler = known[wanted].from_config(own.config)
    except (ImportError, ValueError) as error:
        raise ModelError(f"scheduler {name!r}: {str(error).strip().partition(chr(10))[0]}") from None
    if "eta" in inspect.signature(pipe.__call__).parameters and not _takes(pipe.scheduler, "eta"):
        return _without_eta(pipe)
    return pipe


def _without_eta(pipe: Any) -> Any:
    """DDIM's own pipeline speaks to DDIM's scheduler alone; another, around the same denoiser, speaks to any. Those that
    look first what a scheduler takes stay."""
    from diffusers import DDIMPipeline

    from ditto_cosim.host.pipeline.bare import BarePipeline

    if not isinstance(pipe, DDIMPipeline):
        return pipe
    made = BarePipeline(unet=pipe.unet, scheduler=pipe.scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def _takes(scheduler: Any, argument: str) -> bool:
    return argument in inspect.signature(scheduler.step).parameters
