"""Properties are about values, not time: a busy machine must not fail them."""

from hypothesis import settings

settings.register_profile("property", deadline=None, print_blob=True)
settings.load_profile("property")
