"""A*_gamma and its derivative against all paths, finite differences and tslearn."""

import pytest
import torch
from torch.autograd import gradcheck

from loss import PathDTWBatch, pairwise_distances, soft_path
from tests.helpers import GAMMAS, SIZES, costs, series
from tests.oracles.paths import alignment, all_paths, gibbs


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("N", "M"), SIZES)
def test_path_is_the_expected_path(N, M, gamma):
    D = costs(2, N, M)
    torch.testing.assert_close(soft_path(D, gamma), alignment(D, gamma), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.03, 0.3, 3.0])
def test_derivative_along_omega_is_minus_a_covariance(gamma):
    D, Omega = costs(2, 5, 6).requires_grad_(), costs(1, 5, 6, seed=1)[0]
    (ours,) = torch.autograd.grad((soft_path(D, gamma) * Omega).sum(), D)
    paths = all_paths(5, 6)
    _, probability = gibbs(D.detach(), gamma)
    length = torch.einsum("pnm,nm->p", paths, Omega)
    centred = length - (probability @ length)[:, None]
    covariance = torch.einsum("bp,bp,pnm->bnm", probability, centred, paths)
    torch.testing.assert_close(ours, -covariance / gamma, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    assert gradcheck(lambda D: soft_path(D, 0.3), (costs(2, 4, 5).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [1e-2, 1.0])
def test_path_starts_and_ends_and_visits_every_row_and_column(gamma, dtype):
    x, y = series(6, 40, 31, dtype=dtype)
    path = soft_path(pairwise_distances(x, y), gamma)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(path[:, [0, -1], [0, -1]], torch.ones(6, 2, dtype=dtype), rtol=tolerance, atol=0)
    assert (path >= 0).all()
    assert (path.sum(1) >= 1 - tolerance).all()
    assert (path.sum(2) >= 1 - tolerance).all()


def test_small_gamma_gives_tslearns_path():
    from tslearn.metrics import dtw_path

    x, y = series(5, 20, 23)
    path = soft_path(pairwise_distances(x, y), 1e-7)
    for k in range(5):
        hard = torch.zeros(20, 23, dtype=torch.float64)
        rows, columns = zip(*dtw_path(x[k].numpy(), y[k].numpy())[0], strict=True)
        hard[list(rows), list(columns)] = 1
        torch.testing.assert_close(path[k], hard, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("N", "M"), SIZES)
def test_a_huge_gamma_gives_the_mean_of_all_paths(N, M):
    torch.testing.assert_close(soft_path(costs(1, N, M), 1e9)[0], all_paths(N, M).mean(0))


def test_path_batch_is_the_mean_and_its_gradient_is_that_of_the_mean():
    D, cotangent = costs(4, 5, 5).requires_grad_(), costs(1, 5, 5, seed=2)[0]
    path = PathDTWBatch.apply(D, 0.2)
    truth = alignment(D, 0.2).mean(0)
    torch.testing.assert_close(path, truth)
    (ours,) = torch.autograd.grad((path * cotangent).sum(), D)
    (theirs,) = torch.autograd.grad((truth * cotangent).sum(), D)
    torch.testing.assert_close(ours, theirs)
