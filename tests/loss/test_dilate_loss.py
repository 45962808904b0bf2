"""DILATE, Eq. 1 and 4, against all paths, finite differences and the readable reference."""

import copy
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from loss import DilateLoss, SoftDTWLoss, dilate_loss, pairwise_distances, soft_path, squared_omega
from loss.kernels import reference
from tests.helpers import ROOT, series
from tests.oracles.paths import shape_term, square_omega, squared_distances, temporal_term


def truth(x, y, gamma, Omega=None):
    D = squared_distances(x, y)
    Omega = square_omega(x.shape[1], y.shape[1]) if Omega is None else Omega
    return shape_term(D, gamma), temporal_term(D, gamma, Omega)


def relative_error(ours, theirs):
    return ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()


@settings(max_examples=30, deadline=None)
@given(
    B=st.integers(1, 5),
    N=st.integers(1, 6),
    M=st.integers(1, 6),
    d=st.integers(1, 3),
    gamma=st.floats(0.01, 10),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_equal_enumeration(B, N, M, d, gamma, alpha, seed):
    x, y = (s.requires_grad_() for s in series(B, N, M, d, seed=seed))
    ours = DilateLoss(alpha, gamma, reduction="none").components(x, y)
    shape, temporal = truth(x, y, gamma)
    expected = (alpha * shape + (1 - alpha) * temporal, shape, temporal)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
        pairs = zip(*(torch.autograd.grad(v.sum(), (x, y), retain_graph=True) for v in (a, b)), strict=True)
        for g, h in pairs:
            torch.testing.assert_close(g, h, rtol=1e-7, atol=1e-9)


def test_gradcheck():
    x, y = (s.requires_grad_() for s in series(2, 5, 4, d=2))
    assert gradcheck(DilateLoss(0.3, 0.5, reduction="none"), (x, y))
    assert gradcheck(DilateLoss(0.0, 0.5), (x, y))


def test_second_derivative_of_the_temporal_term_is_refused():
    x, y = (s.requires_grad_() for s in series(2, 4, 4))
    (first,) = torch.autograd.grad(DilateLoss()(x, y), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="shape term"):
        torch.autograd.grad(first.sum(), x)


def test_temporal_term_is_the_inner_product_of_path_and_omega():
    x, y = series(4, 20, 20)
    path = soft_path(pairwise_distances(x, y), 0.1)
    temporal = DilateLoss(0.5, 0.1, reduction="none").components(x, y).temporal
    torch.testing.assert_close(temporal, (path * square_omega(20, 20)).sum((1, 2)))


def test_squared_omega_lists_eq_3_by_lag():
    Omega, by_lag = square_omega(4, 6), squared_omega(4, 6)
    for h in range(4):
        for j in range(6):
            assert by_lag[h - j + 5] == pytest.approx(Omega[h, j])


def test_alpha_one_is_soft_dtw_and_alpha_zero_the_temporal_term():
    x, y = series(3, 12, 12)
    torch.testing.assert_close(DilateLoss(1.0, 0.1)(x, y), SoftDTWLoss(0.1)(x, y))
    torch.testing.assert_close(DilateLoss(0.0, 0.1)(x, y), DilateLoss(0.5, 0.1).components(x, y).temporal)


def test_released_function_returns_three_means_and_is_symmetric():
    x, y = (s.requires_grad_() for s in series(4, 6, 6))
    shape, temporal = (term.mean() for term in truth(x, y, 0.1))
    for ours in (dilate_loss(x, y, 0.3, 0.1, "cpu"), dilate_loss(y, x, alpha=0.3, gamma=0.1)):
        for a, b in zip(ours, (0.3 * shape + 0.7 * temporal, shape, temporal), strict=True):
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(*(torch.autograd.grad(v, x, retain_graph=True)[0] for v in (a, b)))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(reduction):
    x, y = series(5, 6, 6)
    terms = DilateLoss(0.5, 0.2, reduction).components(x, y)
    apply = {"mean": torch.mean, "sum": torch.sum, "none": lambda v: v}[reduction]
    for ours, theirs in zip(terms[1:], truth(x, y, 0.2), strict=True):
        torch.testing.assert_close(ours, apply(theirs))


@pytest.mark.parametrize("term", ["shape", "temporal"])
@pytest.mark.parametrize("scale", [1, 10, 30, 100, 1000])
def test_float32_gradients_keep_their_digits_at_any_scale(scale, term):
    """One scale after the other; a whole batch, so that no sample's noise decides."""
    x, y = (scale * s for s in series(8, 20, 20, dtype=torch.float32))
    # gamma grows with the scale for the temporal term, which otherwise vanishes: its paths become certain
    gamma = 0.01 if term == "shape" else 0.01 * scale**2
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype).requires_grad_()
        if dtype == torch.float32:
            values = getattr(DilateLoss(0.5, gamma).components(leaf, y), term)
        else:
            D = (leaf[:, :, None] - y.double()[:, None]).square().sum(-1)
            shape, temporal = reference.dilate(D, square_omega(20, 20), gamma)
            values = (shape if term == "shape" else temporal).mean()
        grads.append(torch.autograd.grad(values, leaf)[0])
    assert relative_error(*grads) < 1e-5


def test_series_far_from_zero_keep_their_digits():
    x, y = (s + 1000 for s in series(4, 56, 56, dtype=torch.float32))
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    (ours,) = torch.autograd.grad(DilateLoss(0.5, 0.01)(leaf, y), leaf)
    (theirs,) = torch.autograd.grad(DilateLoss(0.5, 0.01)(exact, y.double()), exact)
    assert relative_error(ours, theirs) < 1e-5


def test_gamma_may_be_learned():
    x, y = (s.requires_grad_() for s in series(3, 5, 6))
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda g, x: dilate_loss(x, y, 0.3, g)[0], (gamma, x))
    shape, temporal = truth(x, y, gamma)
    expected = torch.autograd.grad((0.3 * shape + 0.7 * temporal).mean(), gamma)[0]
    torch.testing.assert_close(torch.autograd.grad(dilate_loss(x, y, 0.3, gamma)[0], gamma)[0], expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_spoilt_sample_is_nan_and_spoils_no_other(bad):
    x, y = series(5, 12, 12, dtype=torch.float32)
    clean = x.clone().requires_grad_()
    spoilt = x.clone()
    spoilt[2, 3] = bad
    spoilt.requires_grad_()
    criterion = DilateLoss(reduction="none")
    values, expected = criterion(spoilt, y), criterion(clean, y)
    values.sum().backward()
    expected.sum().backward()
    others = [0, 1, 3, 4]
    assert values[2].isnan()
    assert spoilt.grad[2].isnan().all()
    assert torch.equal(values[others], expected[others])
    assert torch.equal(spoilt.grad[others], clean.grad[others])
    assert DilateLoss()(spoilt, y).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = (s.to(dtype) for s in series(3, 10, 10))
    x.requires_grad_()
    loss = DilateLoss()(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, DilateLoss()(x.float(), y.float()))
    loss.backward()
    assert x.grad.dtype == dtype


def test_backward_twice_gives_the_same_gradient():
    x, y = series(3, 9, 9)
    x.requires_grad_()
    loss = DilateLoss()(x, y)
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_no_grad_gives_the_same_value_without_a_graph():
    x, y = series(3, 9, 9)
    with torch.no_grad():
        quiet = DilateLoss()(x.requires_grad_(), y)
    assert not quiet.requires_grad
    assert torch.equal(quiet, DilateLoss()(x, y).detach())


def test_inputs_are_not_written_to_and_need_not_be_contiguous():
    x, y = series(4, 9, 9, d=2)
    before = x.clone(), y.clone()
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert DilateLoss()(turned, y) == DilateLoss()(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_compiles_into_one_graph_with_the_same_numbers():
    x, y = series(3, 10, 10, dtype=torch.float32)
    x.requires_grad_()
    criterion = DilateLoss()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), criterion(x, y))
    torch.testing.assert_close(*(torch.autograd.grad(f(x, y), x)[0] for f in (compiled, criterion)))


def test_works_under_torch_func_grad():
    x, y = series(3, 10, 10)
    ours = torch.func.grad(lambda x: DilateLoss()(x, y))(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(ours, torch.autograd.grad(DilateLoss()(leaf, y), leaf)[0])


def test_module_can_be_copied_pickled_and_saved():
    x, y = series(3, 10, 10)
    criterion = DilateLoss(0.3, 0.2, "sum")
    expected = criterion(x, y)
    buffer = io.BytesIO()
    torch.save(criterion, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(criterion),
        pickle.loads(pickle.dumps(criterion)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(twin(x, y), expected)
    assert criterion.state_dict() == {}
    assert repr(criterion) == "DilateLoss(alpha=0.3, gamma=0.2, reduction='sum')"


def test_gradient_descent_on_the_loss_finds_the_targets_shape():
    target = torch.zeros(1, 20, 1)
    target[:, 12:] = 1.0
    prediction = torch.zeros(1, 20, 1).requires_grad_()
    optimizer = torch.optim.Adam([prediction], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        DilateLoss(0.5, 0.01)(prediction, target).backward()
        optimizer.step()
    assert (prediction - target).abs().max() < 0.15


def test_the_package_works_under_two_names(tmp_path):
    """As `loss` in the clone and as `dilate_loss` once installed: together, and one after the other."""
    (tmp_path / "dilate_loss").symlink_to(ROOT / "loss", target_is_directory=True)
    code = (
        "import importlib, sys, torch\n"
        "x, y = torch.rand(2, 6, requires_grad=True), torch.rand(2, 6)\n"
        "values = [importlib.import_module(name).DilateLoss()(x, y) for name in sys.argv[1:]]\n"
        "assert len(set(value.item() for value in values)) == 1\n"
        "sum(values).backward()\n"
    )
    for names, folders in ((["dilate_loss", "loss"], [tmp_path, ROOT]), (["loss"], [ROOT])):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
        subprocess.run([sys.executable, "-c", code, *names], check=True, cwd=tmp_path, env=environment, timeout=500)


def test_importing_the_loss_brings_no_plots_no_metrics_and_compiles_nothing():
    code = (
        "import sys, loss\n"
        "assert not {'matplotlib', 'tslearn', 'sklearn', 'pandas'} & sys.modules.keys()\n"
        "assert not sys.modules['loss.soft_dtw'].sweep.signatures\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)
