"""Hypothesis, the same for every test: no deadline, for machines are noisy; and in CI the same examples every time."""

import os

from hypothesis import settings

settings.register_profile("detectd", deadline=None, print_blob=True, max_examples=50)
settings.register_profile("ci", settings.get_profile("detectd"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "detectd")
