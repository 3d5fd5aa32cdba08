"""The accelerator: executes commands, in function and in time."""
