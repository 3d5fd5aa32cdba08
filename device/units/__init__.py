"""Transaction-level models of the units; each file opens with its cycle contract."""
