# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests.

Machines that run them are shared: hypothesis looks for counterexamples, not for slow moments. Processes that tests start
find the helpers in `support` as the tests do. Programs are compiled anew in each, so that a test sees the compiler it changes.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

_PATH = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_PATH)
os.environ.setdefault("DITTO_PROGRAMS", "off")
