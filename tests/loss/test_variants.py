"""Padding, bands, variables, Eq. 5, the divergence and what PyTorch can do with a loss, against all paths."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrize

from loss import AsymmetricOmega, DilateLoss, SoftDTWLoss, TangledDilateLoss, dilate_loss, soft_dtw, soft_path
from tests.helpers import EVERY_LOSS, assert_same_gradients, costs, series
from tests.oracles.paths import (
    alignment,
    all_paths,
    gibbs,
    shape_term,
    square_omega,
    squared_distances,
    temporal_term,
)

every_loss = pytest.mark.parametrize("criterion", EVERY_LOSS, ids=repr)


def paths_inside(N, M, band):
    paths = all_paths(N, M)
    outside = (torch.arange(N)[:, None] - torch.arange(M)).abs() > band
    return paths[(paths * outside).sum((1, 2)) == 0]


# ------------------------------------------------------------------------------------ padded batches


@every_loss
@pytest.mark.parametrize("junk", [7.0, float("nan"), float("inf")])
@pytest.mark.usefixtures("backend")
def test_padding_has_no_influence_on_value_and_gradient(criterion, junk):
    n, m = [6, 3, 1, 5], [5, 4, 2, 2]
    x, y = (s.requires_grad_() for s in series(4, 6, 5, d=2))
    with torch.no_grad():
        for b in range(4):
            x[b, n[b] :], y[b, m[b] :] = junk, junk
    values = criterion(x, y, torch.tensor(n), m)
    d_x, d_y = torch.autograd.grad(values.sum(), (x, y))
    for b in range(4):
        a, c = (s.detach()[b : b + 1].clone().requires_grad_() for s in (x[:, : n[b]], y[:, : m[b]]))
        alone = criterion(a, c)
        torch.testing.assert_close(values[b], alone[0], rtol=1e-11, atol=1e-12)
        d_a, d_c = torch.autograd.grad(alone.sum(), (a, c))
        torch.testing.assert_close(d_x[b, : n[b]], d_a[0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(d_y[b, : m[b]], d_c[0], rtol=1e-9, atol=1e-11)
        assert (d_x[b, n[b] :] == 0).all()
        assert (d_y[b, m[b] :] == 0).all()


@pytest.mark.parametrize("divergence", [False, True])
def test_values_divided_by_the_lengths_are_the_mean_of_single_pairs_divided_likewise(divergence):
    def of_pair(term, a, c):
        return enumerated_divergence(term, a, c) if divergence else term(squared_distances(a, c))

    n, m = torch.tensor([6, 3, 1, 5]), torch.tensor([5, 4, 2, 2])
    x, y = (s.requires_grad_() for s in series(4, 6, 5, d=2))
    soft = SoftDTWLoss(0.2, "none", divergence=divergence)(x, y, n, m)
    _, shape, temporal = DilateLoss(0.3, 0.2, "none", divergence=divergence).components(x, y, n, m)
    of_soft, of_dilate = [], []
    for a, c in ((x[b : b + 1, : n[b]], y[b : b + 1, : m[b]]) for b in range(4)):
        value = of_pair(lambda D: shape_term(D, 0.2), a, c)
        delay = of_pair(lambda D: temporal_term(D, 0.2, square_omega(*D.shape[1:])), a, c).relu()
        of_soft.append(value / c.shape[1])
        of_dilate.append(0.3 * (value.relu() if divergence else value) / c.shape[1] + 0.7 * delay)
    for ours, singles in (((soft / m).mean(), of_soft), ((0.3 * shape / m + 0.7 * temporal).mean(), of_dilate)):
        torch.testing.assert_close(ours, torch.cat(singles).mean())
        assert_same_gradients(ours, torch.cat(singles).mean(), x, y)


def test_lengths_of_one_side_alone_and_of_any_kind():
    x, y = series(3, 6, 5)
    criterion = DilateLoss(0.3, 0.2, "none")
    expected = criterion(x, y, [4, 6, 2], [5, 5, 5])
    kinds = (torch.tensor([4, 6, 2], dtype=torch.int32), (4, 6, 2), torch.tensor([4, 6, 2]).numpy())
    for lengths in kinds:
        assert torch.equal(criterion(x, y, prediction_lengths=lengths), expected)
    assert torch.equal(criterion(x, y, [6, 6, 6], [5, 5, 5]), criterion(x, y))


def test_a_matrix_omega_is_cut_to_the_true_lengths():
    x, y = series(2, 6, 5)
    Omega = torch.rand(6, 5, dtype=torch.float64)
    ours = DilateLoss(0.3, 0.2, "none", omega=Omega).components(x, y, [4, 6], [3, 5]).temporal
    D = squared_distances(x[:1, :4], y[:1, :3])
    torch.testing.assert_close(ours[:1], temporal_term(D, 0.2, Omega[:4, :3]))


@pytest.mark.parametrize(("N", "M"), [(9, 3), (3, 9), (6, 6)])
@pytest.mark.usefixtures("backend")
def test_band_may_be_narrower_than_the_padding(N, M):
    x, y = (s.requires_grad_() for s in series(3, N, M))
    n, m = [3, 2, 1], [3, 3, 2]
    for criterion in (DilateLoss(0.3, 0.2, "none", band=1), TangledDilateLoss(0.3, 0.2, "none", band=1)):
        values = criterion(x, y, n, m)
        d_x, _ = torch.autograd.grad(values.sum(), (x, y))
        for b in range(3):
            alone = criterion(x[b : b + 1, : n[b]], y[b : b + 1, : m[b]])
            torch.testing.assert_close(values[b], alone[0])
            torch.testing.assert_close(d_x[b], torch.autograd.grad(alone.sum(), x)[0][b])
    D = costs(3, N, M).requires_grad_()
    value = soft_dtw(D, 0.2, prediction_lengths=n, target_lengths=m, band=1)
    path = soft_path(D, 0.2, prediction_lengths=n, target_lengths=m, band=1)
    assert path.shape == D.shape
    torch.testing.assert_close(torch.autograd.grad(value.sum(), D)[0], path)


# ------------------------------------------------------------------------------------ the band


@settings(max_examples=25, deadline=None)
@given(N=st.integers(1, 6), M=st.integers(1, 6), extra=st.integers(0, 4), seed=st.integers(0, 99))
def test_band_sums_over_the_paths_inside_of_it(N, M, extra, seed):
    band = abs(N - M) + extra
    x, y = (s.requires_grad_() for s in series(2, N, M, seed=seed))
    D, Omega, paths = squared_distances(x, y), square_omega(N, M), paths_inside(N, M, band)
    terms = DilateLoss(0.4, 0.3, "none", band=band).components(x, y)
    truth = shape_term(D, 0.3, paths), temporal_term(D, 0.3, Omega, paths)
    tangled = TangledDilateLoss(0.4, 0.3, "none", band=band)(x, y)
    pairs = [
        *zip(terms[1:], truth, strict=True),
        (SoftDTWLoss(0.3, "none", band=band)(x, y), truth[0]),
        (tangled, shape_term(0.4 * D + 0.6 * Omega, 0.3, paths)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
        for a, b in zip(
            *(torch.autograd.grad(v.sum(), (x, y), retain_graph=True) for v in (ours, theirs)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_band_zero_is_the_squared_error_and_a_wide_band_is_none():
    x, y = series(4, 9, 9)
    torch.testing.assert_close(SoftDTWLoss(0.2, "none", band=0)(x, y), (x - y).square().sum((1, 2)))
    assert DilateLoss(band=0).components(x, y).temporal == 0
    for wide in (8, 100):
        torch.testing.assert_close(DilateLoss(band=wide)(x, y), DilateLoss()(x, y), rtol=1e-13, atol=0)


@every_loss
@pytest.mark.parametrize(("infeasible", "value"), [("inf", float("inf")), ("zero", 0.0)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.usefixtures("backend")
def test_pairs_without_a_path_are_worth_what_the_user_says_and_leave_the_others_alone(
    criterion, infeasible, value, reduction
):
    x, y = series(4, 8, 9, 2)
    n, m = [6, 8, 3, 8], [7, 6, 9, 5]  # the band is 3: the third pair has no path
    lenient = copy.deepcopy(criterion)
    lenient.band, lenient.infeasible, lenient.reduction = 3, infeasible, reduction
    strict = copy.deepcopy(criterion)
    strict.band, strict.reduction = 3, "none"
    with pytest.raises(ValueError, match="band is 3, but to align a prediction of 3 steps with a target of 9"):
        strict(x, y, n, m)
    x.requires_grad_(), y.requires_grad_()
    good = [0, 1, 3]
    alone = strict(x[good], y[good], [n[b] for b in good], [m[b] for b in good])
    reduced = {"none": lambda v: v, "sum": torch.sum, "mean": torch.mean}[reduction]
    expected = reduced(torch.stack([alone[0], alone[1], alone.new_tensor(value), alone[2]]))
    found = lenient(x, y, n, m)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sum(), (x, y))
    expected = torch.autograd.grad(alone.sum() / (4 if reduction == "mean" else 1), (x, y))
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours[2].abs().max() == 0
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "n", "m", "band", "good"),
    [
        ((3, 10, 10), [6, 8, 5], [7, 6, 9], 3, [0, 1]),
        ((2, 6, 5), [6, 1], [5, 3], 1, [0]),
        ((1, 3, 5), [3], [5], 0, []),
    ],
)
@pytest.mark.parametrize(("infeasible", "value"), [("inf", float("inf")), ("zero", 0.0)])
@pytest.mark.usefixtures("backend")
def test_given_costs_of_pairs_without_a_path(shape, n, m, band, good, infeasible, value):
    (B, N, M), D = shape, costs(*shape).requires_grad_()
    criterion = SoftDTWLoss(0.2, "none", band=band, cost=lambda x, y: D, infeasible=infeasible)
    expected = torch.full((B,), value, dtype=torch.float64)
    for b in good:
        expected[b] = shape_term(D[b : b + 1, : n[b], : m[b]], 0.2, paths_inside(n[b], m[b], band))
    found = criterion(*series(B, N, M), n, m)
    torch.testing.assert_close(found, expected)
    if good:
        ours, theirs = (torch.autograd.grad(values[good].sum(), D)[0] for values in (found, expected))
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match=f"band is {band}, but to align"):
        soft_dtw(D, 0.2, prediction_lengths=n, target_lengths=m, band=band)


@pytest.mark.parametrize(
    "criterion", [SoftDTWLoss(0.2, band=1), DilateLoss(0.3, 0.2, band=1), TangledDilateLoss(band=1)]
)
def test_a_batch_in_which_no_pair_has_a_path(criterion):
    x, y = (s.requires_grad_() for s in series(2, 3, 5))
    for criterion.infeasible, value in (("inf", float("inf")), ("zero", 0.0)):
        found = criterion(x, y)
        assert found == value
        assert all(g.abs().max() == 0 for g in torch.autograd.grad(found, (x, y)))
    assert torch.isfinite(criterion(x[:, :2], y[:, :2]))  # where all lengths fit, nothing changes
    criterion.infeasible = "raise"
    with pytest.raises(ValueError, match="band is 1, but to align a prediction of 3 steps with a target of 5"):
        criterion(x, y)


def test_terms_of_a_pair_without_a_path_are_its_value_too():
    x, y = series(3, 6, 6)
    criterion = DilateLoss(0.3, 0.2, "none", band=2, infeasible="inf")
    terms = criterion.components(x, y, [6, 2, 5], [5, 6, 5])
    assert [term.isinf().tolist() for term in terms] == [[False, True, False]] * 3


@every_loss
@pytest.mark.parametrize("infeasible", ["inf", "zero"])
@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_what_stands_in_a_pair_without_a_path_has_no_influence(criterion, infeasible, junk):
    x, y = series(3, 6, 9, 2)
    x[1], y[1] = junk, junk
    criterion = copy.deepcopy(criterion)
    criterion.band, criterion.infeasible = 3, infeasible
    criterion.gamma = nn.Parameter(torch.tensor(0.2))
    x.requires_grad_(), y.requires_grad_()
    lengths = [6, 2, 5], [9, 9, 5]
    value = criterion(x, y, *lengths)
    gradients = torch.autograd.grad(value[[0, 2]].sum() + value[1], (x, y, criterion.gamma))
    assert value.isinf().tolist() == [False, infeasible == "inf", False]
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0][1].abs().max() == gradients[1][1].abs().max() == 0


def test_a_compiled_loss_finds_the_pairs_without_a_path():
    x, y = series(3, 6, 6)
    n, m = torch.tensor([6, 2, 5]), torch.tensor([5, 6, 5])
    criterion = DilateLoss(0.3, 0.2, "none", band=2, infeasible="zero")
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y, n, m), criterion(x, y, n, m))
    assert compiled(x, y, n, m)[1] == 0


def test_a_pair_without_a_path_passes_gradcheck_beside_others():
    x, y = (s.requires_grad_() for s in series(2, 4, 4))
    criterion = DilateLoss(0.3, 0.2, "none", band=1, infeasible="zero")
    assert torch.autograd.gradcheck(lambda x, y: criterion(x, y, [4, 1], [3, 4]), (x, y))


def test_costs_and_paths_keep_to_band_and_lengths():
    D = costs(2, 6, 5).requires_grad_()
    options = {"prediction_lengths": [6, 4], "target_lengths": [5, 3], "band": 2}
    values, path = soft_dtw(D, 0.3, **options), soft_path(D, 0.3, **options)
    for b, (n, m) in enumerate([(6, 5), (4, 3)]):
        paths = paths_inside(n, m, 2)
        value, probability = gibbs(D[b : b + 1, :n, :m], 0.3, paths)
        torch.testing.assert_close(values[b], value[0])
        torch.testing.assert_close(path[b, :n, :m], torch.einsum("p,pnm->nm", probability[0], paths))
        assert (path[b, n:] == 0).all()
        assert (path[b, :, m:] == 0).all()
    assert gradcheck(lambda D: soft_path(D, 0.3, **options), (D,))
    assert gradgradcheck(lambda D: soft_dtw(D, 0.3, **options), (D,))


# ------------------------------------------------------------------------------------ Eq. 5


@settings(max_examples=25, deadline=None)
@given(
    N=st.integers(1, 6),
    M=st.integers(1, 6),
    d=st.integers(1, 2),
    alpha=st.floats(0, 1),
    gamma=st.floats(0.02, 5),
    seed=st.integers(0, 99),
)
def test_tangled_is_soft_dtw_of_the_mixed_cost(N, M, d, alpha, gamma, seed):
    x, y = (s.requires_grad_() for s in series(2, N, M, d, seed=seed))
    ours = TangledDilateLoss(alpha, gamma, "none")(x, y)
    D = alpha * squared_distances(x, y) + (1 - alpha) * square_omega(N, M)
    theirs = shape_term(D, gamma)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(ours, soft_dtw(D, gamma), rtol=1e-10, atol=1e-11)
    assert_same_gradients(ours, theirs, x, y)


@pytest.mark.usefixtures("backend")
def test_tangled_band_has_omega_zero_inside_and_infinite_outside():
    x, y = series(3, 6, 6)
    ours = TangledDilateLoss(0.4, 0.3, "none", omega=None, band=2)(x, y)
    torch.testing.assert_close(ours, shape_term(0.4 * squared_distances(x, y), 0.3, paths_inside(6, 6, 2)))


def test_tangled_ends_at_soft_dtw_and_at_omega_alone():
    x, y = (s.requires_grad_() for s in series(3, 6, 6))
    torch.testing.assert_close(TangledDilateLoss(1.0, 0.3)(x, y), SoftDTWLoss(0.3)(x, y))
    alone = TangledDilateLoss(0.0, 0.3)(x, y)
    torch.testing.assert_close(alone, shape_term(square_omega(6, 6)[None], 0.3)[0])
    assert (torch.autograd.grad(alone, x)[0] == 0).all()


def test_tangled_can_be_differentiated_twice():
    x, y = (s.requires_grad_() for s in series(2, 5, 4, d=2))
    for criterion in (TangledDilateLoss(0.3, 0.5), TangledDilateLoss(0.3, 0.5, omega="absolute", band=2)):
        assert gradcheck(criterion, (x, y))
        assert gradgradcheck(lambda x, y, criterion=criterion: criterion(x, y, [5, 3], [4, 2]), (x, y))


# ------------------------------------------------------------------------------------ several variables


@pytest.mark.parametrize("criterion", [SoftDTWLoss(0.2, "none"), DilateLoss(0.3, 0.2, "none"), TangledDilateLoss()])
def test_per_channel_is_the_mean_over_the_variables(criterion):
    x, y = (s.requires_grad_() for s in series(4, 6, 5, d=3))
    lengths = ([6, 4, 5, 2], [5, 5, 3, 2])
    by_channel = copy.deepcopy(criterion)
    by_channel.per_channel = True
    ours = by_channel(x, y, *lengths)
    theirs = sum(criterion(x[..., c], y[..., c], *lengths) for c in range(3)) / 3
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (ours, theirs)))
    torch.testing.assert_close(by_channel(x[..., :1], y[..., :1]), criterion(x[..., :1], y[..., :1]))


def test_variables_are_aligned_together_by_default():
    x, y = series(2, 5, 5, d=3)
    torch.testing.assert_close(SoftDTWLoss(0.2, "none")(x, y), shape_term(squared_distances(x, y), 0.2))
    assert (SoftDTWLoss(0.2, per_channel=True)(x, y) - SoftDTWLoss(0.2)(x, y) / 3).abs() > 1e-3


# ------------------------------------------------------------------------------------ gamma


@pytest.mark.parametrize("loss", [SoftDTWLoss, DilateLoss, TangledDilateLoss])
def test_gamma_may_be_a_parameter(loss):
    x, y = (s.requires_grad_() for s in series(3, 5, 4))
    criterion = loss(gamma=nn.Parameter(torch.tensor(0.3, dtype=torch.float64)))
    assert dict(criterion.named_parameters()) == {"gamma": criterion.gamma}

    def value(gamma):
        return torch.func.functional_call(criterion, {"gamma": gamma}, (x, y))

    assert gradcheck(value, (criterion.gamma,))
    assert "gamma=Parameter(0.3)" in repr(criterion)


def test_derivative_by_gamma_is_minus_the_entropy_of_the_paths():
    x, y = series(3, 5, 5)
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    probability = gibbs(squared_distances(x, y), 0.3)[1]
    entropy = -(probability * probability.log()).sum(1)
    (ours,) = torch.autograd.grad(SoftDTWLoss(gamma, "sum")(x, y), gamma)
    torch.testing.assert_close(ours, -entropy.sum())


@pytest.mark.parametrize("function", [soft_dtw, soft_path])
def test_costs_can_be_differentiated_by_gamma(function):
    D = costs(2, 4, 5).requires_grad_()
    gamma = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda D, gamma: function(D, gamma, prediction_lengths=[4, 2]), (D, gamma))


def test_a_tensor_gamma_is_a_buffer_and_a_state_dict_brings_it_back():
    x, y = series(3, 5, 4)
    for make in (torch.tensor, lambda g: nn.Parameter(torch.tensor(g))):
        criterion, twin = DilateLoss(gamma=make(0.3)), DilateLoss(gamma=make(0.01))
        twin.load_state_dict(criterion.state_dict())
        assert list(criterion.state_dict()) == ["gamma"]
        assert torch.equal(twin(x, y), criterion(x, y))
    assert DilateLoss(gamma=0.3).state_dict() == {}


def test_gamma_that_leaves_its_range_while_learned_gives_nan():
    x, y = series(3, 5, 4)
    criterion = DilateLoss(gamma=nn.Parameter(torch.tensor(0.1)))
    for bad in (0.0, -0.1, float("inf"), float("nan")):
        with torch.no_grad():
            criterion.gamma.fill_(bad)
        assert all(term.isnan() for term in criterion.components(x, y))


class Exp(nn.Module):
    def forward(self, x):
        return x.exp()

    def right_inverse(self, x):
        return x.log()


def test_the_logarithm_of_gamma_can_be_learned():
    x, y = series(3, 5, 4)
    criterion = DilateLoss(gamma=nn.Parameter(torch.tensor(0.3)))
    expected = criterion(x, y)
    parametrize.register_parametrization(criterion, "gamma", Exp())
    torch.testing.assert_close(criterion(x, y), expected)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=100.0)
    criterion(x, y).backward()
    optimizer.step()
    assert criterion.gamma > 0
    assert criterion.gamma != 0.3


def test_gamma_can_be_annealed_as_a_number():
    x, y = series(3, 5, 4)
    criterion = DilateLoss(gamma=1.0)
    criterion.gamma = 0.1
    assert criterion(x, y) == DilateLoss(gamma=0.1)(x, y)


# ------------------------------------------------------------------------------------ the divergence


def enumerated_divergence(term, x, y):
    return term(squared_distances(x, y)) - (term(squared_distances(x, x)) + term(squared_distances(y, y))) / 2


@pytest.mark.parametrize("gamma", [0.05, 1.0])
@pytest.mark.parametrize(("N", "M"), [(5, 5), (3, 6), (6, 4)])
@pytest.mark.usefixtures("backend")
def test_divergence_equals_enumeration(N, M, gamma):
    def omega(D):
        return square_omega(*D.shape[1:])

    x, y = (s.requires_grad_() for s in series(5, N, M, d=2))
    soft = enumerated_divergence(lambda D: shape_term(D, gamma), x, y)
    shape = soft.clamp_min(0)
    temporal = enumerated_divergence(lambda D: temporal_term(D, gamma, omega(D)), x, y).clamp_min(0)
    tangled = enumerated_divergence(lambda D: shape_term(0.3 * D + 0.7 * omega(D), gamma), x, y)
    terms = DilateLoss(0.3, gamma, "none", divergence=True).components(x, y)
    pairs = (
        (SoftDTWLoss(gamma, "none", divergence=True)(x, y), soft),
        (terms.shape, shape),
        (terms.temporal, temporal),
        (terms.loss, 0.3 * shape + 0.7 * temporal),
        (TangledDilateLoss(0.3, gamma, "none", divergence=True)(x, y), tangled),
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
        for a, b in zip(
            *(torch.autograd.grad(v.sum(), (x, y), retain_graph=True) for v in (ours, theirs)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


DIVERGENCES = [
    SoftDTWLoss(0.1, "none", divergence=True),
    DilateLoss(0.5, 0.1, "none", divergence=True),
    DilateLoss(0.5, 0.1, "none", divergence=True, omega=AsymmetricOmega(1, 3), band=5),
    TangledDilateLoss(0.5, 0.1, "none", divergence=True),
]


@pytest.mark.parametrize("criterion", DIVERGENCES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_is_zero_with_zero_gradient_at_equality(criterion, dtype):
    x = series(6, 12, 12, d=2, dtype=dtype)[0].requires_grad_()
    value = criterion(x, x.detach().clone())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    assert value.abs().max() <= tolerance
    assert torch.autograd.grad(value.sum(), x)[0].abs().max() <= 20 * tolerance


class _Distance(nn.Module):
    """A cost with weights, which are float32."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, y):
        return self.weight * (x - y.transpose(1, 2)).abs()


@pytest.mark.parametrize("cost", ["squared", "absolute", _Distance()], ids=["squared", "absolute", "a module"])
@pytest.mark.parametrize("loss", [SoftDTWLoss, DilateLoss, TangledDilateLoss])
def test_the_divergence_near_the_target_has_the_digits_of_float64(loss, cost):
    y = series(4, 200, 200, dtype=torch.float32)[1]
    x = (y + 0.01 * series(4, 200, 200, dtype=torch.float32, seed=1)[0]).requires_grad_()
    criterion = loss(gamma=10.0, reduction="none", divergence=True, cost=cost)
    values = criterion(x, y)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    wide = copy.deepcopy(criterion).double()
    truth = wide(x.double(), y.double())
    assert (values.dtype, gradient.dtype) == (torch.float32, torch.float32)
    relative = 1e-5 if cost == "squared" else 1e-3  # what float32 costs leave open
    torch.testing.assert_close(values.double(), truth, rtol=relative, atol=0)
    (of_truth,) = torch.autograd.grad(truth.sum(), x)
    torch.testing.assert_close(gradient, of_truth, rtol=0, atol=1e-3 * of_truth.abs().max().item())


@settings(max_examples=40, deadline=None)
@given(
    N=st.integers(1, 12),
    M=st.integers(1, 12),
    d=st.integers(1, 2),
    gamma=st.sampled_from([0.001, 0.1, 1.0, 100.0]),
    near=st.floats(0, 1),
    asymmetric=st.booleans(),
    seed=st.integers(0, 999),
)
def test_dilate_with_the_divergence_is_never_negative(N, M, d, gamma, near, asymmetric, seed):
    x, y = series(8, N, N if near else M, d, seed=seed)
    x = y + near * x if near else x
    omega = AsymmetricOmega(0, 5) if asymmetric else "squared"
    terms = DilateLoss(0.5, gamma, "none", divergence=True, omega=omega).components(x, y)
    assert all((term >= 0).all() for term in terms)


def test_the_squared_euclidean_soft_dtw_divergence_can_be_negative():
    """Found by descending on it; enumeration of all paths confirms it."""
    x = torch.tensor([-1.39, -1.56, -0.46, 0.76, 1.99, 2.13], dtype=torch.float64).reshape(1, 6, 1)
    y = torch.tensor([-1.44, -1.38, -0.15, 1.07, 2.17, 2.08], dtype=torch.float64).reshape(1, 6, 1)
    truth = enumerated_divergence(lambda D: shape_term(D, 1.0), x, y).item()
    assert truth == pytest.approx(-0.0079999145)
    assert SoftDTWLoss(1.0, divergence=True)(x, y).item() == pytest.approx(truth)
    assert DilateLoss(1.0, 1.0, divergence=True)(x, y) == 0


def test_the_divergence_tends_to_hard_dtw():
    x, y = series(4, 9, 9)
    torch.testing.assert_close(SoftDTWLoss(1e-5, divergence=True)(x, y), SoftDTWLoss(1e-5)(x, y), rtol=1e-4, atol=0)
    assert (SoftDTWLoss(1e-5, "none", divergence=True)(x, y) > 0).all()


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_divergence_equals_tslearns(gamma):
    from tslearn.metrics import soft_dtw as theirs

    x, y = series(3, 12, 9)
    ours = SoftDTWLoss(gamma, "none", divergence=True)(x, y)
    for b, (a, c) in enumerate(zip(x.numpy(), y.numpy(), strict=True)):
        expected = theirs(a, c, gamma=gamma) - (theirs(a, a, gamma=gamma) + theirs(c, c, gamma=gamma)) / 2
        assert ours[b].item() == pytest.approx(expected)


def test_gradient_descent_on_the_divergence_ends_at_the_target():
    target = (torch.arange(20) >= 12).float().reshape(1, 20, 1)
    prediction = torch.zeros(1, 20, 1).requires_grad_()
    criterion = DilateLoss(0.5, 0.01, divergence=True)
    optimizer = torch.optim.Adam([prediction], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        criterion(prediction, target).backward()
        optimizer.step()
    assert 0 <= criterion(prediction, target) < 1e-3
    assert (prediction - target).abs().max() < 0.05


def test_temporal_divergence_of_shifted_series_is_what_the_shift_adds():
    target, late = ((torch.arange(20) >= at).double().reshape(1, 20, 1) for at in (10, 14))
    criterion = DilateLoss(0.5, 0.01, divergence=True)
    same, shifted = criterion.components(target, target), criterion.components(late, target)
    assert tuple(same) == (0.0, 0.0, 0.0)
    assert shifted.temporal > 0
    assert shifted.loss > 0
    assert DilateLoss(0.5, 0.01)(target, target) < 0


# ------------------------------------------------------------------------------------ PyTorch


@every_loss
def test_reductions_agree(criterion):
    x, y = series(5, 6, 5, d=2)
    values = criterion(x, y)
    assert values.shape == (5,)
    for reduction in ("mean", "sum"):
        twin = copy.deepcopy(criterion)
        twin.reduction = reduction
        torch.testing.assert_close(twin(x, y), getattr(values, reduction)())


@every_loss
def test_copies_and_pickles_give_the_same_numbers(criterion):
    x, y = series(3, 6, 5, d=2)
    buffer = io.BytesIO()
    torch.save(criterion, buffer)
    buffer.seek(0)
    twins = copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion)), torch.load(buffer, weights_only=False)
    for twin in twins:
        assert torch.equal(twin(x, y), criterion(x, y))


@every_loss
def test_compiles_into_one_graph(criterion):
    torch._dynamo.reset()
    x, y = (s.requires_grad_() for s in series(3, 6, 5, d=2))
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for lengths in ((), (torch.tensor([6, 5, 4]), torch.tensor([5, 4, 4]))):
        values = criterion(x, y, *lengths), compiled(x, y, *lengths)
        torch.testing.assert_close(*values, rtol=1e-12, atol=1e-13)
        grads = (torch.autograd.grad(v.sum(), (x, y)) for v in values)
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_compiles_without_gradients_and_with_one_series_twice():
    torch._dynamo.reset()
    x, _ = series(3, 6, 5)
    criterion = DilateLoss(0.3, 0.2)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, x), criterion(x, x))
    leaf = x.clone().requires_grad_()
    grads = (torch.autograd.grad(function(leaf, leaf), leaf)[0] for function in (compiled, criterion))
    torch.testing.assert_close(*grads)


def test_a_compiled_loss_still_refuses_bad_lengths():
    x, y = series(3, 6, 5)
    compiled = torch.compile(DilateLoss(), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="prediction_lengths must lie between 1 and 6"):
        compiled(x, y, torch.tensor([6, 7, 1]))


@every_loss
def test_torch_func_grad_and_vmap(criterion):
    x, y = (torch.stack(s) for s in zip(series(3, 6, 5, d=2), series(3, 6, 5, d=2, seed=1), strict=True))
    mapped = torch.func.vmap(criterion)(x, y)
    expected = torch.stack([criterion(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(mapped, expected, rtol=1e-12, atol=1e-13)
    shared = torch.func.vmap(criterion, in_dims=(0, None))(x, y[0])
    torch.testing.assert_close(shared, torch.stack([criterion(a, y[0]) for a in x]), rtol=1e-12, atol=1e-13)

    gradient = torch.func.grad(lambda a, b: criterion(a, b).sum())
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sum(criterion(a, b).sum() for a, b in zip(leaf, y, strict=True)), leaf)
    torch.testing.assert_close(torch.func.vmap(gradient)(x, y), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.stack([gradient(a, b) for a, b in zip(x, y, strict=True)]), expected)


def test_jacobian_of_the_values_by_the_series():
    x, y = series(3, 5, 4)
    ours = torch.func.jacrev(DilateLoss(0.3, 0.2, "none"))(x, y)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(DilateLoss(0.3, 0.2, "sum")(leaf, y), leaf)
    for b in range(3):
        torch.testing.assert_close(ours[b, b], gradient[b])
        assert (ours[b, [c for c in range(3) if c != b]] == 0).all()


def test_vmap_of_costs_and_paths_and_over_omega():
    D = costs(6, 4, 5).reshape(2, 3, 4, 5)
    torch.testing.assert_close(
        torch.func.vmap(lambda D: soft_dtw(D, 0.3))(D).flatten(), soft_dtw(D.flatten(0, 1), 0.3)
    )
    path = torch.func.vmap(lambda D: soft_path(D, 0.3))(D)
    torch.testing.assert_close(path.flatten(0, 1), alignment(D.flatten(0, 1), 0.3))
    x, y = series(3, 4, 5)
    Omegas = torch.rand(2, 4, 5, dtype=torch.float64)
    criterion = DilateLoss(0.3, 0.2, omega=Omegas[0])
    mapped = torch.func.vmap(lambda omega: torch.func.functional_call(criterion, {"omega": omega}, (x, y)))(Omegas)
    expected = torch.stack([DilateLoss(0.3, 0.2, omega=Omega)(x, y) for Omega in Omegas])
    torch.testing.assert_close(mapped, expected)


def test_vmap_over_gamma_is_refused():
    x, y = series(3, 4, 5)
    with pytest.raises(NotImplementedError, match="gamma cannot be mapped over by vmap"):
        torch.func.vmap(lambda g: dilate_loss(x, y, 0.5, g)[0])(torch.tensor([0.1, 0.2]))


@every_loss
def test_autocast_computes_in_float32(criterion):
    x, y = series(4, 6, 5, d=2, dtype=torch.float32)
    layer = nn.Linear(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = layer(x)
        assert prediction.dtype == torch.bfloat16
        values = criterion(prediction, y)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, criterion(prediction.float(), y))
    values.sum().backward()
    assert layer.weight.grad.isfinite().all()


LEARNED = [
    lambda: DilateLoss(0.3, nn.Parameter(torch.tensor(0.5)), "none", omega=nn.Parameter(torch.ones(6, 5))),
    lambda: TangledDilateLoss(0.3, nn.Parameter(torch.tensor(0.5)), "none", omega=nn.Parameter(torch.ones(6, 5))),
    lambda: DilateLoss(0.3, nn.Parameter(torch.tensor(0.5)), "none", cost="absolute", divergence=True),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("d", [2, 70])  # of 70 variables the costs are made ahead
@pytest.mark.parametrize("criterion", [*(lambda loss=loss: loss for loss in EVERY_LOSS), *LEARNED])
def test_no_gradient_loses_digits_where_the_backward_pass_runs_under_autocast_too(criterion, d, dtype):
    x, y = (s.requires_grad_() for s in series(4, 6, 5, d=d, dtype=torch.float32))
    criterion = criterion()
    inputs = [x, y, *criterion.parameters()]

    def gradients():
        return torch.autograd.grad(criterion(x, y).sum() * 65536, inputs)  # GradScaler's first factor

    expected = gradients()
    with torch.autocast("cpu", dtype):
        assert all(map(torch.equal, gradients(), expected))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_per_channel_is_the_mean_of_the_losses_of_the_variables_with_a_divergence_too(reduction):
    x, y = series(4, 2, 2, d=3)
    omega = torch.tensor([[2.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    for options in ({"omega": omega, "divergence": True}, {"divergence": True}, {}):
        criterion = DilateLoss(0.2, 0.1, reduction, **options)
        alone = torch.stack([criterion(x[..., c : c + 1], y[..., c : c + 1]) for c in range(3)]).mean(0)
        torch.testing.assert_close(DilateLoss(0.2, 0.1, reduction, per_channel=True, **options)(x, y), alone)
