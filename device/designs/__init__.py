"""One TOML file per design: a timing-and-traffic policy. `base.py` reads them."""
