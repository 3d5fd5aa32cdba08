# SPDX-License-Identifier: Apache-2.0
"""Commands in order, in function: operands become rows, rows meet weights, vector kernels do the rest."""
