# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: one module each, with `measure(quick) -> figures` and `table(figures) -> text`.

Figures are ratios within one run wherever a ratio says it: machines differ, and shared ones are noisy.
"""
