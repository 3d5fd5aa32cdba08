# SPDX-License-Identifier: Apache-2.0
"""How far every denoiser class of diffusers comes on the accelerator: `ditto models --coverage`."""

from ditto_cosim.coverage.check import CoverageReport, check
from ditto_cosim.coverage.models import SMALL, build, denoisers

__all__ = ["SMALL", "CoverageReport", "build", "check", "cover", "denoisers"]


def cover(name: str, backend: str = "model") -> CoverageReport:
    """One class by name; one that has no small size yet says so."""
    if name not in SMALL:
        return CoverageReport(name, False, False, False, ("no small size of it is known here",))
    try:
        module, arguments = build(name)
    except Exception as error:  # diffusers' own, of an installed version that builds it in another way
        return CoverageReport(
            name, False, False, False, (f"cannot be built: {type(error).__name__}: {error}",)
        )
    return check(name, module, arguments, backend)
