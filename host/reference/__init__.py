"""Golden: the instruction set once more, in torch, to hold the device against."""
