"""How many threads a call takes."""

import pytest
import torch

from loss import DilateLoss, SoftDTWLoss
from loss.kernels import workers


@pytest.fixture
def asked(monkeypatch):
    """The numbers of threads that were asked for."""
    numbers, run = [], workers.run

    def listen(threads, function, argument):
        numbers.append(threads)
        run(threads, function, argument)

    monkeypatch.setattr(workers, "run", listen)
    return numbers


def call(criterion, batch, horizon, grad=True):
    x, y = torch.randn(2, batch, horizon, 1, generator=torch.Generator().manual_seed(0))
    criterion(x.requires_grad_(grad), y)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("criterion", [DilateLoss(), SoftDTWLoss()])
def test_small_work_stays_on_one_thread(asked, threads, criterion, grad):
    threads(4)
    call(criterion, 100, 12, grad)
    call(criterion, 1, 8, grad)
    assert asked == [1, 1]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_number_of_threads_follows_torch(asked, threads, number, grad):
    threads(number)
    call(DilateLoss(), 128, 96, grad)
    assert asked == [number]


def test_there_are_no_more_threads_than_pairs(asked, threads):
    threads(4)
    call(DilateLoss(), 2, 256)
    call(DilateLoss(), 1, 512)
    assert asked == [2, 1]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_one_long_pair_has_two_ends_for_two_threads(asked, threads, number):
    threads(number)
    call(DilateLoss(), 1, 1024)
    assert set(asked) == {min(number, 2)}


@pytest.fixture
def without_team(monkeypatch):
    """No OpenMP threads of PyTorch's, as on macOS."""
    monkeypatch.setattr(workers._team, "parallel", None)


@pytest.mark.parametrize(("batch", "horizon"), [(100, 20), (1, 1024)])
def test_threads_of_python_do_the_same(without_team, threads, batch, horizon):
    x, y = torch.randn(2, batch, horizon, 1, generator=torch.Generator().manual_seed(0))
    results = []
    for number in (1, 2):
        threads(number)
        a = x.clone().requires_grad_()
        DilateLoss()(a, y).backward()
        results.append(a.grad)
    torch.testing.assert_close(*results)
