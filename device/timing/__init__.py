"""Transaction-level models of time; each file opens with its cycle contract."""
