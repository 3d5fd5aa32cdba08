# SPDX-License-Identifier: Apache-2.0
"""The blocks as small as they still do everything: for looking at one by hand.

What this file does not do: hold the sets the regression builds (`regression.py`).
"""

from __future__ import annotations

_SMALL: dict[str, dict[str, int]] = {
    "encoder": {"EncodeWidth": 4, "KMax": 16},
    "slot_buffer": {"EncodeWidth": 4, "KMax": 16},
    "pe_array": {"Columns": 2, "KMax": 16, "Blocks": 2},
    "pe_pipeline": {"Columns": 2, "KMax": 16, "Blocks": 2},
    "lane": {"Columns": 2, "EncodeWidth": 4, "KMax": 16, "Blocks": 2},
    "tile": {"Lanes": 1, "Columns": 2, "EncodeWidth": 4, "KMax": 16, "NMax": 4},
}


def small_parameters(block: str) -> dict[str, int]:
    """Parameters of one of our blocks; none for a block we do not know."""
    return dict(_SMALL.get(block, {}))
