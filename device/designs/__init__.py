# SPDX-License-Identifier: Apache-2.0
"""One TOML file per design: a timing-and-traffic policy. `base.py` reads them."""
