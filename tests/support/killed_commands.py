# SPDX-License-Identifier: Apache-2.0
"""The jobs to kill, with all that the commands import loaded once, and a run's prices kept to those that take no seconds."""

from __future__ import annotations

import importlib
from unittest import mock

import diffusers
import transformers  # noqa: F401

from ditto_cosim import appraisal
from support.killed_jobs import *  # noqa: F403

for name in ("AutoPipelineForText2Image", "DDIMPipeline", "UNet2DModel"):
    getattr(diffusers, name)  # loaded when it is asked for, not with the package
for name in (
    "cli.generate",
    "cli.models",
    "cli.resume",
    "cli.sweep",
    "host.report.charts",
    "host.report.html",
):
    importlib.import_module(f"ditto_cosim.{name}")
appraisal.GRID_LAYER_STEPS = appraisal.SERIES_LAYERS = 0
mock.patch("ditto_cosim.apart.appraise_apart", appraisal.appraise).start()
mock.patch.object(appraisal, "WELL_KNOWN", ("itc", "ditto")).start()
