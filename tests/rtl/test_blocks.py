# SPDX-License-Identifier: Apache-2.0
"""cocotb drives single blocks, independent of the C++ driver."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("cocotb_tools")
from support.run_block import run_block

BLOCKS = {
    "encoder": {"EncodeWidth": 8, "KMax": 64},
    "slot_buffer": {"EncodeWidth": 8, "KMax": 64},
    "pe_array": {"Columns": 4, "KMax": 16, "Blocks": 2},
    "uart_board": {
        "Lanes": 2,
        "Columns": 4,
        "KMax": 16,
        "NMax": 8,
        "OperandBeats": 16,
        "ResultDepth": 8,
        "ClocksPerBit": 8,
    },
}


@pytest.mark.long
@pytest.mark.parametrize("block", BLOCKS)
def test_block_under_random_back_pressure(tmp_path: Path, block: str) -> None:
    results = run_block(block, tmp_path, BLOCKS[block])
    suite = ElementTree.parse(results).getroot()
    cases = list(suite.iter("testcase"))
    assert cases
    assert not list(suite.iter("failure")) + list(suite.iter("error"))
