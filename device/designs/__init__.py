"""One file per design: a timing-and-traffic policy."""
