"""Hypothesis, the same for every test: no deadline, for machines are noisy; and in CI the same examples every time."""

import os

from hypothesis import Phase, settings

settings.register_profile("detectd", deadline=None, print_blob=True, max_examples=50)
settings.register_profile("ci", settings.get_profile("detectd"), derandomize=True)
# What is broken on purpose need not be shown in its simplest form.
settings.register_profile("prove", settings.get_profile("detectd"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "detectd"))
