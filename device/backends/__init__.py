"""Who computes a layer: one file per backend, found by its name."""
