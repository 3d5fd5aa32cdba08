"""The SystemVerilog sources, as package data."""
