"""Commands in order, in function: operands become rows, rows meet weights, vector kernels do the rest."""
