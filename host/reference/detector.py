# SPDX-License-Identifier: Apache-2.0
"""Which array every channel of a block-scaled layer belongs to: golden's own recount of SQ-DM's tags.

Written from the contract in words (`device/timing/hetero.py`): a channel is sparse iff at least the threshold's share of its
codes is 0, counted in this step (fresh) or the one before (carried, all dense in the first), every so many steps. What this
file does not do: count the codes (`encoder.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal


class Recount:
    """The tags of every layer, step by step, as a design's description has them."""

    def __init__(self, design: str) -> None:
        """`design`: the description that the device gave, as JSON."""
        found = json.loads(design).get("hetero") if design else None
        self._table: Mapping[str, object] = found or {}
        self._before: dict[int, list[bool]] = {}
        self._held: dict[int, list[bool]] = {}

    def of_layer(self, layer: int, step: int, nonzero: Sequence[int], pixels: int) -> list[bool] | None:
        """The tags, or None where this step's follow from others that were not seen."""
        kind = self._table.get("arrays", "both")
        if kind != "both":
            return [kind == "sparse"] * len(nonzero)
        share = Decimal(str(self._table["threshold"]))
        counted = [Decimal(pixels - n) >= share * pixels for n in nonzero]
        offered: list[bool] | None = counted
        if self._table.get("tags") == "carried":
            offered = [False] * len(nonzero) if step == 0 else self._before.get(layer)
        self._before[layer] = counted
        if step % int(str(self._table.get("interval", 1))) == 0:
            if offered is None:
                self._held.pop(layer, None)
            else:
                self._held[layer] = offered
        return self._held.get(layer)
