# SPDX-License-Identifier: Apache-2.0
"""What somebody who mistyped a name may have meant.

did_you_mean("dito", ["ditto", "itc"])       " (did you mean 'ditto'?)", or nothing where nothing is near
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """To be appended to a sentence that names what was met."""
    names = list(known)
    plain = {n.lower().replace("-", "_"): n for n in reversed(names)}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), list(plain), 1)
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""
