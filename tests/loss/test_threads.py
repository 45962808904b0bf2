"""How many threads a call takes."""

import pytest
import torch

from loss import DilateLoss, SoftDTWLoss
from loss.kernels import cpu


@pytest.fixture
def asked(monkeypatch):
    """The numbers of threads that were asked for, where these were more than one."""
    numbers, on_threads = [], cpu.on_threads
    monkeypatch.setattr(cpu, "on_threads", lambda count, work: numbers.append(count) or on_threads(count, work))
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
    assert asked == []


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_number_of_threads_follows_torch(asked, threads, number, grad):
    threads(number)
    call(DilateLoss(), 128, 96, grad)
    assert asked == ([] if number == 1 else [number])


def test_there_are_no_more_threads_than_pairs(asked, threads):
    threads(4)
    call(DilateLoss(), 2, 256)
    call(DilateLoss(), 1, 512)
    assert asked == [2]
