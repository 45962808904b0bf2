"""What a call takes beyond its inputs and outputs, counted; benchmarks/memory.py measures it."""

import tracemalloc

import pytest
import torch

from loss import DilateLoss, SoftDTWLoss
from loss.kernels import cpu
from tests.helpers import log_delannoy

SIZES = [(100, 20), (100, 56), (32, 128), (128, 96), (8, 512), (1, 1024), (4, 4096)]


def pair(batch, horizon):
    return torch.randn(2, batch, horizon, 1, generator=torch.Generator().manual_seed(0))


def train(criterion, x, y):
    criterion(x.detach().requires_grad_(), y).backward()


def evaluate(criterion, x, y):
    with torch.no_grad():
        criterion(x, y)


def of_python_and_numpy(call):
    """The peak; numpy reports its arrays to Python, whatever thread makes them."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def of_torch(call):
    """All that is allocated, though not all at the same time, inputs left out and outputs not."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    return sum(max(0, event.self_cpu_memory_usage) for event in profile.events())


@pytest.fixture
def taken(threads):
    """Bytes that a call takes at most, on two threads."""
    threads(2)

    def count(call, criterion, batch, horizon):
        x, y = pair(batch, horizon)
        call(criterion, x, y)  # compiles
        cpu.MEMORY.forget()  # what earlier calls have left
        return of_python_and_numpy(lambda: call(criterion, x, y)) + of_torch(lambda: call(criterion, x, y))

    return count


@pytest.mark.parametrize(("batch", "horizon"), SIZES)
@pytest.mark.parametrize("criterion", [DilateLoss(), SoftDTWLoss()])
def test_forward_and_backward_take_at_most_twelve_bytes_for_a_cell(taken, criterion, batch, horizon):
    of_steps = 24 * batch * horizon  # derivatives of both terms, and their sum
    assert taken(train, criterion, batch, horizon) <= 12 * batch * horizon**2 + of_steps


@pytest.mark.parametrize("criterion", [DilateLoss(), SoftDTWLoss()])
def test_a_value_takes_memory_for_the_series_alone(taken, criterion):
    half, whole = (taken(evaluate, criterion, 4, horizon) for horizon in (2048, 4096))
    assert whole <= 2.1 * half
    assert whole <= 100 * 4 * (4096 + 4096)  # on each of two threads, six float64 for a step of a pair


def test_nothing_as_large_as_the_costs_is_kept_for_the_backward_pass():
    x, y = pair(4, 64)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        loss = DilateLoss()(x.requires_grad_(), y)
    loss.backward()
    assert sizes
    assert max(sizes) <= 4 * (64 + 64)


def test_horizon_ten_thousand_trains():
    N = 10_000
    x, y = pair(1, N)
    shape, ours = [], DilateLoss(0.5, 1.0)
    for a, b in ((x, y), (torch.ones_like(x), torch.ones_like(y))):
        a.requires_grad_()
        _, value, temporal = ours.components(a, b)
        shape.append(value.item())
        (gradient,) = torch.autograd.grad(value + temporal, a)
        assert gradient.isfinite().all()
        assert 0 < temporal < 1
    assert gradient.abs().max() == 0
    assert shape[1] == pytest.approx(-log_delannoy(N - 1), rel=1e-6)
