# SPDX-License-Identifier: Apache-2.0
"""The jobs to kill, with all that the commands import loaded once, and a run's prices kept to those that take no seconds."""

from __future__ import annotations

import transformers  # noqa: F401
from diffusers import (  # loaded when they are asked for, not with the package
    AutoPipelineForText2Image,  # noqa: F401
    DDIMPipeline,  # noqa: F401
    UNet2DModel,  # noqa: F401
)

from ditto_cosim import appraisal
from ditto_cosim.cli import generate, models, resume, sweep  # noqa: F401
from ditto_cosim.host.report import charts, html, timeline  # noqa: F401
from support.killed_jobs import *  # noqa: F403

appraisal.GRID_LAYER_STEPS = appraisal.SERIES_LAYER_STEPS = 0
appraisal.WELL_KNOWN = ("itc", "ditto")
