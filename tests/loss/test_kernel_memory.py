"""The kernels work through raw pointers: they write nowhere else, and rely on nothing that was there before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loss import SoftDTWLoss, ctc_loss, kernels
from loss.kernels import cpu, workers
from tests.helpers import series

GUARD = 7.25
MARGIN = 64


class Guarded(workers.Memory):
    """Memory full of NaN, with guards before and behind it."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def take(self, purpose, size, dtype):
        raw = torch.full((size + 2 * MARGIN,), GUARD, dtype=dtype)
        raw[MARGIN:-MARGIN] = torch.nan
        self.taken.append(raw)
        return raw[MARGIN:-MARGIN]

    def assert_unharmed(self):
        for raw in self.taken:
            assert (raw[:MARGIN] == GUARD).all()
            assert (raw[-MARGIN:] == GUARD).all()
        self.taken.clear()


@pytest.fixture
def guarded(monkeypatch):
    """One thread, whose memory is guarded; single pairs are not halved."""
    memory = Guarded()
    monkeypatch.setattr(cpu, "_memory", memory)
    monkeypatch.setattr(kernels.ctc, "_memory", memory)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield memory
    torch.set_num_threads(before)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def cut_into(segment_bytes):
    """Tables of at most so many bytes, which makes segments of any but the smallest lattices."""
    cpu._SEGMENT_BYTES, cpu._TABLE_BYTES = segment_bytes, segment_bytes


@pytest.fixture
def any_segments(monkeypatch):
    """Let a test change the size of segments as it goes."""
    monkeypatch.setattr(cpu, "_SEGMENT_BYTES", cpu._SEGMENT_BYTES)
    monkeypatch.setattr(cpu, "_TABLE_BYTES", cpu._TABLE_BYTES)


@pytest.mark.usefixtures("any_segments")
def test_sweeps_stay_in_their_memory_and_rely_on_nothing_in_it(guarded):
    @settings(max_examples=150)
    @given(
        B=st.sampled_from([1, 2, 3, 7, 17, 33, 50]),
        N=st.integers(1, 50),
        M=st.integers(1, 50),
        d=st.integers(1, 3),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        room=st.sampled_from([None, 0, 3]),
        padded=st.booleans(),
        segment_bytes=st.sampled_from([1 << 9, 1 << 12, 1 << 22]),
        dual=st.booleans(),
        weights=st.sampled_from([None, (0.3, 0.7)]),
        wants=st.tuples(*[st.booleans()] * 3),
        seed=st.integers(0, 99),
    )
    def check(B, N, M, d, dtype, room, padded, segment_bytes, dual, weights, wants, seed):
        cut_into(segment_bytes)
        x, y = series(B, N, M, d, dtype, seed)
        band = -1 if room is None or padded else abs(N - M) + room
        generator = torch.Generator().manual_seed(seed)
        n, m = (torch.randint(1, k + 1, (B if padded else 0,), generator=generator) for k in (N, M))
        lag = torch.arange(1 - M, N, dtype=torch.float64).square()
        none = torch.empty(0, dtype=torch.float64)
        results = kernels.series(x, y, double(0.1), lag, none, n, m, band, 1.0, 0.0, dual, weights, *wants)
        D, Z = (x[:, :, None] - y[:, None]).square().sum(-1), torch.ones(B, N, M, dtype=torch.float64)
        of_costs = kernels.matrix(D, double(0.1), Z, n, m, band, dual, *wants[:2])
        guarded.assert_unharmed()
        assert all(result.isfinite().all() for result in (results[0], *results[2:], of_costs[0], *of_costs[2:]))

    check()


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
