"""The kernels work through raw pointers: they write nowhere else, and rely on nothing that was there before."""

import importlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loss import SoftDTWLoss, ctc_loss
from loss.kernels import cpu, ctc, lattice
from tests.helpers import series

# The package has functions of the names of these modules.
soft_dtw, dilate_loss = (importlib.import_module(f"loss.{name}") for name in ("soft_dtw", "dilate_loss"))

GUARD, MARGIN = 77, 256


class Guarded(cpu.WorkMemory):
    """Memory full of NaN, with guards before and behind it, that is never used twice."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def take(self, size):
        raw = np.full(size + 2 * MARGIN + 64, GUARD, np.uint8)
        begin = MARGIN + -raw.ctypes.data % 64
        inside = raw[begin : begin + size]
        inside[:] = 0xFF  # a NaN in any precision
        self.taken.append((raw[:begin], raw[begin + size :]))
        return inside

    def assert_unharmed(self):
        assert self.taken
        for guards in self.taken:
            assert all((guard == GUARD).all() for guard in guards)
        self.taken.clear()


@pytest.fixture
def guarded(monkeypatch, threads):
    """One thread, whose memory is guarded."""
    memory = Guarded()
    for default in (cpu.MEMORY, ctc.MEMORY):
        monkeypatch.setattr(default, "take", memory.take)
        default.forget()
    threads(1)
    return memory


def double(value):
    return torch.tensor(value, dtype=torch.float64)


@settings(max_examples=150)
@given(
    B=st.sampled_from([1, 2, 3, 7, 17, 33, 50]),
    N=st.integers(1, 50),
    M=st.integers(1, 50),
    d=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    band_slack=st.sampled_from([None, 0, 3]),
    padded=st.booleans(),
    segment_bytes=st.sampled_from([1 << 9, 1 << 12, 1 << 22]),
    omega=st.sampled_from(["lag", "matrix"]),
    wants=st.tuples(*[st.booleans()] * 3),
    seed=st.integers(0, 99),
)
def test_sweeps_stay_in_their_memory_and_rely_on_nothing_in_it(
    B, N, M, d, dtype, band_slack, padded, segment_bytes, omega, wants, seed
):
    guarded = Guarded()
    small = partial(lattice.make_plan, table_bytes=segment_bytes, segment_bytes=segment_bytes)
    how = {"make_plan": small, "memory": guarded}
    x, y = series(B, N, M, d, dtype, seed)
    D, band = (x[:, :, None] - y[:, None]).square().sum(-1), -1
    if band_slack is not None and not padded:
        band = abs(N - M) + band_slack
    n = m = None
    if padded:
        generator = torch.Generator().manual_seed(seed)
        n, m = (torch.randint(1, k + 1, (B,), generator=generator) for k in (N, M))
    lag, Z = torch.arange(1 - M, N, dtype=torch.float64).square(), torch.ones(B, N, M, dtype=torch.float64)
    Omega = (lag if omega == "lag" else Z), torch.full((B,), 0.1, dtype=torch.float64)
    want_x, want_y, want_gamma = wants
    of_series = x, y, None, double(0.1), n, m
    of_costs = None, None, D, double(0.1), n, m
    for inputs, wanted in ((of_series, (want_x, want_y, False, want_gamma)), (of_costs, (False, False, *wants[1:]))):
        results = soft_dtw.sweep_on_cpu(*inputs, band, wanted, **how)
        both = dilate_loss.sweep_on_cpu(*inputs, *Omega, band, wanted, **how)
        guarded.assert_unharmed()
        assert all(result.isfinite().all() for result in (*results, *both))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_derivative_by_gamma_relies_on_nothing_in_memory(guarded, reduction):
    x, y = series(40, 9, 8)
    gamma = double(0.3).requires_grad_()
    SoftDTWLoss(gamma, reduction)(x, y).sum().backward()
    assert gamma.grad.isfinite()
    guarded.assert_unharmed()


def test_ctc_stays_in_its_memory_and_relies_on_nothing_in_it(guarded):
    log_probs = torch.randn(40, 3, 6).log_softmax(-1).requires_grad_()
    ctc_loss(log_probs, torch.randint(1, 6, (3, 9)), [40, 30, 25], [9, 0, 4]).backward()
    assert log_probs.grad.isfinite().all()
    guarded.assert_unharmed()
