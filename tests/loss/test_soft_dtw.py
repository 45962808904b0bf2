"""Eq. 2 against all paths, finite differences, closed forms and tslearn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile

from loss import SoftDTWBatch, SoftDTWLoss, pairwise_distances, soft_dtw
from tests.helpers import GAMMAS, SIZES, costs, delannoy, series
from tests.oracles.paths import alignment, all_paths, shape_term, squared_distances


def test_enumeration_counts_delannoy_numbers():
    assert [len(all_paths(k, k)) for k in range(1, 7)] == [1, 3, 13, 63, 321, 1683]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("N", "M"), SIZES)
def test_value_equals_sum_over_all_paths(N, M, gamma):
    D = costs(3, N, M)
    torch.testing.assert_close(soft_dtw(D, gamma), shape_term(D, gamma), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("N", "M"), SIZES)
def test_gradient_by_the_costs_is_the_expected_path(N, M, gamma):
    D = costs(2, N, M).requires_grad_()
    (grad,) = torch.autograd.grad(soft_dtw(D, gamma).sum(), D)
    torch.testing.assert_close(grad, alignment(D.detach(), gamma), rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    B=st.integers(1, 5),
    N=st.integers(1, 6),
    M=st.integers(1, 6),
    d=st.integers(1, 3),
    gamma=st.floats(0.01, 10),
    seed=st.integers(0, 99),
)
def test_loss_of_series_and_its_gradients_equal_enumeration(B, N, M, d, gamma, seed):
    x, y = (s.requires_grad_() for s in series(B, N, M, d, seed=seed))
    ours = SoftDTWLoss(gamma, reduction="none")(x, y)
    truth = shape_term(squared_distances(x, y), gamma)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-12)
    weights = torch.arange(1.0, B + 1, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((v * weights).sum(), (x, y)) for v in (ours, truth)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_gradcheck_and_gradgradcheck_of_costs():
    D = costs(2, 4, 5).requires_grad_()
    assert gradcheck(lambda D: soft_dtw(D, 0.3), (D,))
    assert gradgradcheck(lambda D: soft_dtw(D, 0.3), (D,))


@pytest.mark.parametrize("learned", [False, True])
def test_one_sweep_makes_the_value_and_its_gradient(learned):
    D, gamma = costs(2, 4, 5).requires_grad_(), torch.tensor(0.3, requires_grad=learned)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        soft_dtw(D, gamma).sum().backward()
    assert sum("soft_dtw_sweep" in event.name for event in recorded.events()) == 1
    assert (gamma.grad is not None) == learned


def test_gradcheck_and_gradgradcheck_of_series():
    x, y = (s.requires_grad_() for s in series(2, 5, 4, d=2))
    criterion = SoftDTWLoss(0.5, reduction="none")
    assert gradcheck(criterion, (x, y))
    assert gradgradcheck(criterion, (x, y))


def test_third_derivative_is_refused():
    x, y = (s.requires_grad_() for s in series(2, 4, 4))
    (first,) = torch.autograd.grad(SoftDTWLoss(0.5)(x, y), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"Eq\. 2 can be differentiated twice"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("N", "M"), [(20, 20), (24, 24), (56, 56), (56, 31), (300, 300)])
def test_equal_constant_series_give_the_number_of_paths(N, M, dtype):
    x, y = torch.full((1, N, 1), 3.0, dtype=dtype), torch.full((1, M, 1), 3.0, dtype=dtype)
    value = SoftDTWLoss(0.01)(x, y).item()
    assert value == pytest.approx(-0.01 * math.log(delannoy(N - 1, M - 1)), rel=3e-7)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
@pytest.mark.parametrize(("N", "M"), [(20, 20), (31, 17)])
def test_value_equals_tslearn_soft_dtw(N, M, gamma):
    from tslearn.metrics import soft_dtw as tslearn_soft_dtw

    x, y = series(3, N, M, d=2)
    ours = SoftDTWLoss(gamma, reduction="none")(x, y)
    theirs = [tslearn_soft_dtw(a.numpy(), b.numpy(), gamma=gamma) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)


@pytest.mark.parametrize(("N", "M"), [(20, 20), (40, 33)])
def test_small_gamma_gives_tslearns_dtw_squared(N, M):
    from tslearn.metrics import dtw

    x, y = series(4, N, M)
    hard = [dtw(a.numpy(), b.numpy()) ** 2 for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(SoftDTWLoss(1e-6, reduction="none")(x, y).numpy(), hard, rtol=1e-6)


def test_pairwise_distances_match_cdist_and_keep_digits_far_from_zero():
    x, y = series(1, 7, 5, d=3)
    torch.testing.assert_close(pairwise_distances(x[0], y[0]), torch.cdist(x[0], y[0]).square())
    torch.testing.assert_close(pairwise_distances(x[0]), torch.cdist(x[0], x[0]).square(), atol=1e-7, rtol=0)
    near, far = (torch.rand(6, 1) * 2**-6 for _ in range(2))
    shift = 1024.0
    shifted = pairwise_distances(near + shift, far + shift)
    exact = pairwise_distances((near + shift).double(), (far + shift).double())
    torch.testing.assert_close(shifted.double(), exact, rtol=1e-6, atol=0)


def test_soft_dtw_batch_is_the_mean_and_its_gradient_is_that_of_the_mean():
    D = costs(4, 6, 6).requires_grad_()
    value = SoftDTWBatch.apply(D, 0.1)
    torch.testing.assert_close(value, shape_term(D, 0.1).mean())
    (grad,) = torch.autograd.grad(value, D)
    torch.testing.assert_close(grad, alignment(D.detach(), 0.1) / 4)


@pytest.mark.parametrize(("reduction", "function"), [("mean", torch.mean), ("sum", torch.sum), ("none", lambda v: v)])
def test_reductions(reduction, function):
    x, y = series(5, 6, 6)
    truth = shape_term(squared_distances(x, y), 0.2)
    torch.testing.assert_close(SoftDTWLoss(0.2, reduction)(x, y), function(truth))


def test_two_dimensional_series_are_univariate():
    x, y = series(3, 8, 8)
    criterion = SoftDTWLoss(0.2)
    assert criterion(x[..., 0], y[..., 0]) == criterion(x, y)
