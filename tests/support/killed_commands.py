# SPDX-License-Identifier: Apache-2.0
"""The jobs to kill, with all that the commands import loaded once."""

from __future__ import annotations

import diffusers  # noqa: F401
import transformers  # noqa: F401

from ditto_cosim.host import generation, resume  # noqa: F401
from support.killed_jobs import *  # noqa: F403
