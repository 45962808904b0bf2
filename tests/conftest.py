"""Settings of all tests."""

import os

from hypothesis import settings

# In continuous integration the random cases are the same every time; elsewhere each run looks at new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
