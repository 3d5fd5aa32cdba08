# SPDX-License-Identifier: Apache-2.0
"""The SystemVerilog sources, as package data."""
