# SPDX-License-Identifier: Apache-2.0
"""Builds the RTL with Verilator and drives it at full speed."""
