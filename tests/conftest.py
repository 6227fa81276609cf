"""What all tests share: examples may take their time, for a loaded machine is no failure."""

from hypothesis import settings

settings.register_profile("parsim", deadline=None)
settings.load_profile("parsim")
