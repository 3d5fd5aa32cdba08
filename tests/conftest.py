"""Machines that run these tests are shared: hypothesis looks for counterexamples, not for slow moments."""

from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
