"""The public face of ditto-cosim."""
