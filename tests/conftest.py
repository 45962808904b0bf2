"""Settings of all tests, and what several of them need."""

import os

import pytest
import torch
from hypothesis import settings

from tests.oracles.released import write_clone

# Time limits say more about the machine than about the code. In continuous integration the random cases are the
# same every time; elsewhere each run looks at new ones.
settings.register_profile("anywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "anywhere")


@pytest.fixture
def clone(tmp_path):
    """A clone of the released DILATE, or what passes for one."""
    return write_clone(tmp_path)


@pytest.fixture
def threads():
    """Set the number of torch's threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
