"""Fixtures of the tests of the losses."""

import pytest

from loss import kernels


@pytest.fixture(params=["kernels", "reference"])
def backend(request, monkeypatch):
    """The kernels, and the plain PyTorch code that stands in for them on other devices."""
    if request.param == "reference":
        monkeypatch.setattr(kernels, "has_kernels", lambda device: False)
    return request.param
