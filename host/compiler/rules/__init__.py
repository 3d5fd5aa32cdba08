# SPDX-License-Identifier: Apache-2.0
"""What each aten operation means to the accelerator: one rule each, found by the operation's name.

A rule takes the builder, the graph's node and the operation's own arguments, and returns values. A combination of arguments
that the instruction set cannot express is refused in a sentence.
"""

from __future__ import annotations

from ditto_cosim.host.compiler.builder import Rule
from ditto_cosim.host.compiler.rules import arithmetic, movement, reduction, resample

RULES: dict[str, Rule] = {**arithmetic.RULES, **reduction.RULES, **movement.RULES, **resample.RULES}

COMPONENTWISE = movement.COMPONENTWISE
"""Operations that treat the two parts of a complex number alike."""
