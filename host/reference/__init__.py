# SPDX-License-Identifier: Apache-2.0
"""Golden: the instruction set once more, in torch, to hold the device against."""
