"""Settings of all tests."""

import os

from hypothesis import settings

# Time limits say more about the machine than about the code. In continuous integration the random cases are the
# same every time; elsewhere each run looks at new ones.
settings.register_profile("anywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "anywhere")
