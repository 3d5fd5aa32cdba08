# SPDX-License-Identifier: Apache-2.0
"""The contract of an encoder whose low differences are −7…7, as a sign and three bits have them: see docs/own_rtl.md.

Only the rule differs from ours, so only the counts do: a row's cycles follow from its slots as before.
"""

from __future__ import annotations

import numpy as np

from ditto_cosim.device.timing.contract import I8, I32, LaneContract
from ditto_cosim.protocol.hardware import LowRule, Mode


class Symmetric(LaneContract):
    """−8 is full; a tile built with `mag4` is as it was."""

    def row_counts(self, current: I8, reference: I8 | int, mode: Mode, rule: LowRule) -> I32:
        if mode == "original" or rule != "twos4":
            return super().row_counts(current, reference, mode, rule)
        magnitude = np.abs(current.astype(np.int32) - reference)
        zero = np.count_nonzero(magnitude == 0, axis=1)
        full = np.count_nonzero(magnitude > 7, axis=1)
        return np.array([zero, current.shape[1] - zero - full, full], np.int32)
