"""Omega of Eq. 3 in all its forms, against its formula written out and against all paths."""

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from loss import AsymmetricOmega, DilateLoss, TangledDilateLoss, dilate_loss, dilate_of_costs, squared_omega
from tests.helpers import costs, series
from tests.oracles.paths import alignment, shape_term, square_omega, squared_distances, temporal_term

LOSSES = [DilateLoss, TangledDilateLoss]


def written_out(N, M, early=1.0, late=1.0, power=2.0):
    k = (N * M) ** 0.5
    rows = [[(early if h < j else late) * (abs(h - j) / k) ** power for j in range(M)] for h in range(N)]
    return torch.tensor(rows, dtype=torch.float64)


FORMS = [
    ("squared", {}),
    ("absolute", {"power": 1.0}),
    (AsymmetricOmega(1, 3), {"late": 3.0}),
    (AsymmetricOmega(early=0.5, late=0.0, power=1.5), {"early": 0.5, "late": 0.0, "power": 1.5}),
]


@pytest.mark.parametrize(("N", "M"), [(5, 5), (4, 6), (6, 3), (1, 5)])
@pytest.mark.parametrize(("omega", "weights"), FORMS)
def test_forms_equal_their_formula(backend, omega, weights, N, M):
    x, y = series(3, N, M, d=2)
    D, Omega = squared_distances(x, y), written_out(N, M, **weights)
    terms = DilateLoss(0.3, 0.2, "none", omega=omega).components(x, y)
    shape, temporal = shape_term(D, 0.2), temporal_term(D, 0.2, Omega)
    torch.testing.assert_close(terms.temporal, temporal, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(terms.loss, 0.3 * shape + 0.7 * temporal, rtol=1e-10, atol=1e-12)
    tangled = TangledDilateLoss(0.3, 0.2, "none", omega=omega)(x, y)
    torch.testing.assert_close(tangled, shape_term(0.3 * D + 0.7 * Omega, 0.2), rtol=1e-10, atol=1e-12)


def test_squared_is_the_default_and_the_papers():
    x, y = series(3, 6, 6)
    for loss in LOSSES:
        assert loss(0.3, 0.2)(x, y) == loss(0.3, 0.2, omega="squared")(x, y)
    torch.testing.assert_close(written_out(6, 6), square_omega(6, 6))
    lag = torch.arange(-5, 6, dtype=torch.float64)
    torch.testing.assert_close(squared_omega(6, 6), lag.square() / 36)


@settings(max_examples=20, deadline=None)
@given(N=st.integers(1, 6), M=st.integers(1, 6), gamma=st.floats(0.02, 5), seed=st.integers(0, 99))
def test_any_matrix_equals_enumeration(N, M, gamma, seed):
    x, y = (s.requires_grad_() for s in series(3, N, M, seed=seed))
    Omega = torch.randn(N, M, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    D = squared_distances(x, y)
    dilate = 0.4 * shape_term(D, gamma) + 0.6 * temporal_term(D, gamma, Omega)
    pairs = (
        (DilateLoss(0.4, gamma, "none", omega=Omega)(x, y), dilate),
        (TangledDilateLoss(0.4, gamma, "none", omega=Omega)(x, y), shape_term(0.4 * D + 0.6 * Omega, gamma)),
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
        for a, b in zip(
            *(torch.autograd.grad(v.mean(), (x, y), retain_graph=True) for v in (ours, theirs)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def step(at, k=20):
    return (torch.arange(k) >= at).double().reshape(1, k, 1)


@settings(max_examples=15, deadline=None)
@given(N=st.integers(1, 9), M=st.integers(1, 9), early=st.floats(0, 5), late=st.floats(0, 5),
       power=st.sampled_from([0.5, 1, 1.7, 2]), default=st.sampled_from([torch.float32, torch.bfloat16]))  # fmt: skip
def test_asymmetric_weights_have_the_digits_of_float64_whatever_torchs_default_is(N, M, early, late, power, default):
    h, j = torch.arange(N, dtype=torch.float64)[:, None], torch.arange(M, dtype=torch.float64)
    weight = torch.full((N, M), late, dtype=torch.float64).masked_fill(h < j, early)
    matrix = weight * (h - j).abs() ** power / (N * M) ** (power / 2)
    x, y = series(2, N, M)
    expected = DilateLoss(0.5, 0.5, omega=matrix).components(x, y).temporal
    omega, before = AsymmetricOmega(early, late, power), torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = DilateLoss(0.5, 0.5, omega=omega).components(x, y).temporal
        with_lengths = DilateLoss(0.5, 0.5, omega=omega).components(x, y, [N, N], [M, M]).temporal
    finally:
        torch.set_default_dtype(before)
    for ours in (found, with_lengths, DilateLoss(0.5, 0.5, omega=omega).components(x, y).temporal):
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-300)


def test_early_weighs_predictions_ahead_of_their_target_and_late_those_behind():
    target, ahead, behind = step(10), step(6), step(14)

    def temporal(early, late, prediction):
        omega = AsymmetricOmega(early, late)
        return DilateLoss(0.5, 0.01, omega=omega).components(prediction, target).temporal.item()

    for prediction, early, late in ((ahead, 1, 0), (behind, 0, 1)):
        whole = temporal(1, 1, prediction)
        assert temporal(early, late, prediction) > 0.9 * whole
        assert temporal(late, early, prediction) < 0.1 * whole
        assert temporal(early, late, prediction) + temporal(late, early, prediction) == pytest.approx(whole)


@pytest.mark.parametrize("loss", LOSSES)
def test_exchanging_the_series_exchanges_early_and_late(loss):
    x, y = series(4, 7, 5)
    there, back = AsymmetricOmega(1, 3), AsymmetricOmega(3, 1)
    torch.testing.assert_close(loss(omega=there)(x, y), loss(omega=back)(y, x))
    assert (loss(omega=there)(x, y) - loss(omega=there)(y, x)).abs() > 1e-4


@pytest.mark.parametrize(("number", "M"), [(np.float16, 37), (np.float32, 38), (np.uint8, 39), (Fraction, 40)])
def test_a_number_of_any_type_counts_by_its_value_and_leaves_nothing_behind_for_equal_ones(number, M):
    x, y = torch.rand(2, 600, 1), torch.rand(2, M, 1)
    for power in (20, 2):
        exact = DilateLoss(0, omega=written_out(600, M, power=power))(x, y)
        for omega in (AsymmetricOmega(number(1), number(1), number(power)), AsymmetricOmega(power=power)):
            torch.testing.assert_close(DilateLoss(0, omega=omega)(x, y), exact)


class Tolerant(AsymmetricOmega):
    """Steps in time cost nothing up to a limit, which is no field of the class."""

    def __init__(self, free):
        super().__init__()
        object.__setattr__(self, "free", free)

    def at(self, lag):
        return super().at(lag) * (abs(lag) > self.free)


@pytest.mark.parametrize("free", [0, 1, 3])
def test_formulas_of_a_class_of_ones_own_are_not_mistaken_for_equal_ones(free):
    x, y = torch.rand(2, 4, 1), torch.rand(2, 5, 1)
    near = (torch.arange(4)[:, None] - torch.arange(5)).abs() <= free
    expected = DilateLoss(0.3, 0.2, omega=written_out(4, 5).masked_fill(near, 0.0))(x, y)
    criterion = DilateLoss(0.3, 0.2, omega=Tolerant(free))
    torch.testing.assert_close(criterion(x, y), expected)
    torch.testing.assert_close(criterion(x, y, [4, 4], [5, 5]), expected)


def test_order_does_not_matter_to_a_symmetric_omega_nor_to_the_released_function():
    x, y = (s.requires_grad_() for s in series(4, 6, 6))
    for function in (DilateLoss(omega="absolute"), TangledDilateLoss(), lambda a, b: dilate_loss(a, b)[0]):
        values = function(x, y), function(y, x)
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in values))
    torch.testing.assert_close(dilate_loss(y, x)[0], DilateLoss()(x, y))


def test_gradient_by_a_learned_omega_is_the_expected_path(backend):
    x, y = series(3, 5, 4, d=2)
    Omega = nn.Parameter(torch.rand(5, 4, dtype=torch.float64))
    D = squared_distances(x, y)
    (ours,) = torch.autograd.grad(DilateLoss(0.3, 0.2, "sum", omega=Omega)(x, y), Omega)
    torch.testing.assert_close(ours, 0.7 * alignment(D, 0.2).sum(0))
    (ours,) = torch.autograd.grad(TangledDilateLoss(0.3, 0.2, "sum", omega=Omega)(x, y), Omega)
    torch.testing.assert_close(ours, 0.7 * alignment(0.3 * D + 0.7 * Omega.detach(), 0.2).sum(0))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck_by_omega_and_the_series(loss):
    x, y = (s.requires_grad_() for s in series(2, 4, 5))
    Omega = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda o, x, y: loss(0.3, 0.5, omega=o, band=2)(x, y, [4, 3], [5, 2]), (Omega, x, y))


def test_tangled_loss_with_a_learned_omega_can_be_differentiated_twice():
    x, y = (s.requires_grad_() for s in series(2, 4, 4))
    criterion = TangledDilateLoss(0.4, 0.5, "none", omega=nn.Parameter(torch.rand(4, 4, dtype=torch.float64)))
    assert gradgradcheck(lambda x, y, omega: functional_call(criterion, {"omega": omega}, (x, y)),
                         (x, y, criterion.omega))  # fmt: skip


@pytest.mark.parametrize("cost", ["squared", "absolute"])
def test_gradient_by_a_learned_omega_has_a_gradient_by_the_series(cost):
    x, y = (s.requires_grad_() for s in series(2, 4, 5, d=2))
    Omega, direction = nn.Parameter(torch.rand(4, 5, dtype=torch.float64)), series(4, 5, 1)[0].squeeze(-1)[:, :1]

    def by_omega(x, y):
        loss = DilateLoss(0.3, 0.5, omega=Omega, band=2, cost=cost)(x, y, [4, 3], [5, 2])
        return torch.autograd.grad(loss, Omega, create_graph=True)[0].mul(direction).sum()

    assert gradcheck(by_omega, (x, y))


def test_learned_omega_cannot_be_differentiated_twice():
    x, y = (s.requires_grad_() for s in series(2, 4, 4))
    criterion = DilateLoss(omega=nn.Parameter(torch.rand(4, 4, dtype=torch.float64)))
    (first,) = torch.autograd.grad(criterion(x, y), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="learned can be differentiated once"):
        torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_matrix_is_a_buffer_and_a_parameter_is_learned(loss):
    x, y = series(2, 4, 4)
    criterion, twin = loss(omega=torch.rand(4, 4)), loss(omega=torch.zeros(4, 4))
    assert list(criterion.state_dict()) == ["omega"]
    buffer = io.BytesIO()
    torch.save(criterion.state_dict(), buffer)
    buffer.seek(0)
    twin.load_state_dict(torch.load(buffer))
    assert torch.equal(twin(x, y), criterion(x, y))
    assert criterion.to("meta").omega.is_meta
    learned = loss(omega=nn.Parameter(torch.ones(4, 4)))
    optimizer = torch.optim.SGD(learned.parameters(), lr=1.0)
    learned(x, y).backward()
    optimizer.step()
    assert (learned.omega < 1).any()
    assert "omega=Parameter(4, 4)" in repr(learned)


def test_named_omega_is_shown():
    assert (
        repr(DilateLoss(omega="absolute")) == "DilateLoss(alpha=0.5, gamma=0.01, reduction='mean', omega='absolute')"
    )
    assert "AsymmetricOmega(early=1.0, late=3.0, power=2.0)" in repr(DilateLoss(omega=AsymmetricOmega(1, 3)))


@pytest.mark.parametrize("learned", [False, True])
def test_costs_with_an_omega_are_one_graph(learned):
    D, Omega = costs(3, 4, 5).requires_grad_(), torch.rand(4, 5, dtype=torch.float64, requires_grad=learned)
    variables = (D, Omega) if learned else (D,)

    def loss(D, Omega):
        return dilate_of_costs(D, Omega, 0.3, 0.4, band=3).loss.sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, truth in zip(*(torch.autograd.grad(f(D, Omega), variables) for f in (compiled, loss)), strict=True):
        torch.testing.assert_close(ours, truth)
