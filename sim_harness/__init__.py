"""Builds the RTL with Verilator and drives it at full speed."""
