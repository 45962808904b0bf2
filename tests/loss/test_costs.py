"""Costs of one's own, against all paths: given as a matrix, by name, by a function or by a module that learns."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jacrev

from loss import DilateLoss, SoftDTWLoss, TangledDilateLoss, dilate_of_costs, soft_dtw
from loss.costs import absolute
from tests.helpers import assert_one_sentence, costs, series
from tests.oracles.paths import shape_term, square_omega, temporal_term

NAMED = {
    "absolute": lambda x, y: (x[:, :, None] - y[:, None]).abs().sum(-1),
    "cosine": lambda x, y: 1 - nn.functional.cosine_similarity(x[:, :, None], y[:, None], dim=-1),
}


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 2.0], dtype=torch.float64))

    def forward(self, x, y):
        return (self.weight * (x[:, :, None] - y[:, None]).square()).sum(-1)


# ------------------------------------------------------------------------------------ a matrix


@pytest.mark.parametrize(("N", "M"), [(1, 1), (4, 6), (5, 3)])
@pytest.mark.parametrize("gamma", [0.05, 1.0])
@pytest.mark.usefixtures("backend")
def test_both_terms_and_gradients_of_given_costs_equal_those_over_all_paths(N, M, gamma):
    D, gamma = costs(3, N, M).requires_grad_(), torch.tensor(gamma, dtype=torch.float64, requires_grad=True)
    omega = torch.rand(N, M, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss, shape, temporal = dilate_of_costs(D, omega, 0.3, gamma)
    truth = shape_term(D, gamma), temporal_term(D, gamma, omega)
    torch.testing.assert_close((shape, temporal), truth)
    torch.testing.assert_close(loss, 0.3 * truth[0] + 0.7 * truth[1])
    for wanted in ((D, gamma), (D, gamma, omega)):
        if len(wanted) == 2:
            loss = dilate_of_costs(D, omega.detach(), 0.3, gamma).loss
        ours = torch.autograd.grad(loss.sum(), wanted)
        theirs = torch.autograd.grad((0.3 * truth[0] + 0.7 * truth[1]).sum(), wanted, retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
        loss = dilate_of_costs(D, omega, 0.3, gamma).loss


def test_squared_distances_give_what_series_give():
    x, y = series(4, 12, 9, d=3)
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    lengths = {"prediction_lengths": [12, 7, 3, 9], "target_lengths": [9, 8, 5, 9]}
    for options in ({}, {"band": 4}, lengths, {"band": 5, **lengths}):
        options_of_loss = {name: options[name] for name in ("band",) if name in options}
        lengths_of_loss = [options[name] for name in lengths if name in options]
        expected = DilateLoss(0.4, 0.1, "none", **options_of_loss).components(x, y, *lengths_of_loss)
        torch.testing.assert_close(tuple(dilate_of_costs(D, "squared", 0.4, 0.1, **options)), tuple(expected))


# ------------------------------------------------------------------------------------ names, functions, modules


@pytest.mark.parametrize(("cost", "d"), [("absolute", 1), ("absolute", 3), ("cosine", 3)])
@pytest.mark.usefixtures("backend")
def test_named_costs_equal_their_formulas(cost, d):
    x, y = series(3, 6, 5, d)
    D = NAMED[cost](x, y)
    omega = square_omega(6, 5)
    expected = 0.3 * shape_term(D, 0.2) + 0.7 * temporal_term(D, 0.2, omega)
    torch.testing.assert_close(DilateLoss(0.3, 0.2, "none", cost=cost)(x, y), expected)
    torch.testing.assert_close(SoftDTWLoss(0.2, "none", cost=cost)(x, y), soft_dtw(D, 0.2))
    tangled = soft_dtw(0.3 * D + 0.7 * omega, 0.2)
    torch.testing.assert_close(TangledDilateLoss(0.3, 0.2, "none", cost=cost)(x, y), tangled)
    torch.testing.assert_close(DilateLoss(0.3, 0.2, "none", cost=NAMED[cost])(x, y), expected)


def test_absolute_distances_have_all_derivatives_and_none_where_steps_are_equal():
    x, y = (s.requires_grad_() for s in series(3, 6, 5, d=3))
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(absolute, (x, y), **checks)
    assert gradgradcheck(absolute, (x, y), check_fwd_over_rev=True)
    for outer, inner in product((jacfwd, jacrev), repeat=2):
        second = [
            outer(inner(lambda q, of=of: of(x * q + torch.sin(q * x), y.detach()).square().sum()))(torch.tensor(1.1))
            for of in (absolute, NAMED["absolute"])
        ]
        torch.testing.assert_close(*second)
    with torch.no_grad():
        x[:, 2], x[1, 0, 0] = y[:, 1], math.nan
    weight = torch.rand(3, 6, 5, dtype=torch.float64)
    for create_graph in (False, True):
        (by_x, by_y), truth = (
            torch.autograd.grad((of(x, y) * weight)[[0, 2]].sum(), (x, y), create_graph=create_graph)
            for of in (absolute, NAMED["absolute"])
        )
        for found, expected in ((by_x, truth[0]), (by_y, truth[1])):
            torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])
    assert absolute(x, y).isnan().nonzero().tolist() == [[1, 0, j] for j in range(5)]


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_absolute_costs_of_many_variables_make_no_array_of_all_differences(wanted):
    B, N, M, d = 2, 40, 30, 200
    x, y = (s.requires_grad_(want) for s, want in zip(series(B, N, M, d), wanted, strict=True))
    with torch.profiler.profile(profile_memory=True) as profile:
        SoftDTWLoss(1.0, cost="absolute")(x, y).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < B * N * M * d * x.element_size() / 10
    assert [s.grad is not None for s in (x, y)] == list(wanted)


def value_of_constants(cost, gamma, N, M):
    """Soft-DTW where every cell costs the same: the paths with k diagonal steps are counted, and of one length."""
    a, b = N - 1, M - 1
    paths = [(math.comb(a, k) * math.comb(a + b - k, a), a + b - k + 1) for k in range(min(a, b) + 1)]
    energies = [math.log(count) - cost * cells / gamma for count, cells in paths]
    return -gamma * torch.tensor(energies, dtype=torch.float64).logsumexp(0).item()


@pytest.mark.parametrize("cost", ["squared", "absolute"])
@pytest.mark.parametrize("gamma", [0.1, 1.0])
@pytest.mark.parametrize(("N", "M"), [(10, 12), (12, 10), (7, 7), (1, 5)])
def test_constant_series_have_the_value_of_their_paths_by_length(N, M, gamma, cost):
    x, y = torch.zeros(5, N, 8).double(), torch.ones(5, M, 8).double()
    apart, alone = value_of_constants(8, gamma, N, M), [value_of_constants(0, gamma, k, k) for k in (N, M)]
    if (N, M, gamma) == (10, 12, 1.0):
        assert (apart, alone[0], apart - sum(alone) / 2) == pytest.approx((91.9806137, -14.1957006, 107.89006805))
    criterion, divergence = (SoftDTWLoss(gamma, cost=cost, divergence=on) for on in (False, True))
    found = criterion(x, y), criterion(x, x), criterion(y, y), divergence(x, y), divergence(x, x)
    assert [v.item() for v in found] == pytest.approx([apart, *alone, apart - sum(alone) / 2, 0.0])


@pytest.mark.parametrize(("N", "M"), [(10, 12), (12, 10), (7, 7), (1, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.usefixtures("backend")
def test_every_step_of_constant_series_has_the_same_gradient_of_absolute_costs(N, M, dtype, tolerance):
    x = torch.zeros(5, N, 8, dtype=dtype, requires_grad=True)
    y = torch.ones(5, M, 8, dtype=dtype, requires_grad=True)
    cells = max(N, M)  # of the shortest paths; each cell more is exp(-80) times as likely
    for criterion in (SoftDTWLoss(0.1, cost="absolute"), DilateLoss(1.0, 0.1, cost="absolute")):
        by_x, by_y = torch.autograd.grad(criterion(x, y), (x, y))
        torch.testing.assert_close(by_x, torch.full_like(x, -cells / N / 5), rtol=tolerance, atol=0)
        torch.testing.assert_close(by_y, torch.full_like(y, cells / M / 5), rtol=tolerance, atol=0)


@pytest.mark.parametrize("cost", [*NAMED, NAMED["absolute"]])
def test_gradients_by_the_series_are_right(cost):
    x, y = (s.requires_grad_() for s in series(2, 5, 4, d=2))
    lengths = {"prediction_lengths": [5, 2], "target_lengths": [4, 3]}
    for criterion in (DilateLoss(0.3, 0.4, "none", cost=cost), SoftDTWLoss(0.4, "none", cost=cost, band=3)):
        assert gradcheck(lambda x, y, loss=criterion: loss(x, y, **lengths), (x, y))


def test_a_module_learns_with_the_loss():
    x, y = series(3, 6, 5, d=2)
    criterion = DilateLoss(0.3, 0.2, cost=Learned())
    assert [name for name, _ in criterion.named_parameters()] == ["cost.weight"]
    criterion(x, y).backward()

    def value(weight):
        D = (weight * (x[:, :, None] - y[:, None]).square()).sum(-1)
        return (0.3 * shape_term(D, 0.2) + 0.7 * temporal_term(D, 0.2, square_omega(6, 5))).mean()

    weight = criterion.cost.weight.detach().requires_grad_()
    torch.testing.assert_close(criterion.cost.weight.grad, torch.autograd.grad(value(weight), weight)[0])
    criterion.cost = "absolute"
    assert not list(criterion.parameters())
    criterion.cost = Learned()
    assert list(criterion.parameters())


def test_float32_series_keep_their_digits_and_their_type():
    x, y = series(3, 30, 30, d=2, dtype=torch.float32)
    x, y, criterion = x + 1e4, y + 1e4, DilateLoss(0.3, 0.01, cost="absolute")
    assert criterion(x, y).dtype == torch.float32
    torch.testing.assert_close(criterion(x, y), criterion(x.double(), y.double()).float())


def test_a_zero_vector_has_a_cosine_of_zero_and_a_gradient_like_others():
    x, y = (s.requires_grad_() for s in series(2, 5, 4, d=3))
    with torch.no_grad():
        x[0, 2] = 0.0
    (g,) = torch.autograd.grad(DilateLoss(0.5, 0.1, cost="cosine")(x, y), x)
    assert g.abs().max() < 10
    assert g[0, 2].any()


def test_padding_adds_no_singularity_to_a_cost():
    def distance(x, y):
        return (x[:, :, None] - y[:, None]).square().sum(-1).sqrt()

    x, y = (s.requires_grad_() for s in series(2, 4, 4, d=1))
    n, m = [4, 2], [3, 3]
    with torch.no_grad():
        x[1, 2:], y[:, 3:] = torch.nan, torch.inf
    values = DilateLoss(0.4, 0.3, "none", cost=distance)(x, y, n, m)
    d_x, d_y = torch.autograd.grad(values.sum(), (x, y))
    for b in range(2):
        a, c = (s.detach()[b : b + 1, :k].requires_grad_() for s, k in ((x, n[b]), (y, m[b])))
        alone = DilateLoss(0.4, 0.3, cost=distance)(a, c)
        torch.testing.assert_close(values[b], alone)
        d_a, d_c = torch.autograd.grad(alone, (a, c))
        torch.testing.assert_close(d_x[b], torch.cat([d_a[0], torch.zeros(4 - n[b], 1).double()]))
        torch.testing.assert_close(d_y[b], torch.cat([d_c[0], torch.zeros(4 - m[b], 1).double()]))


@pytest.mark.parametrize("length", [1e-300, 1e-163, 1e-105, 1e110, 1e155, 1e300])
def test_the_cosine_does_not_depend_on_the_length_of_vectors(length):
    x = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    y = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    criterion, found = SoftDTWLoss(0.01, cost="cosine"), []
    for factor in (1.0, length):
        scaled = (x * factor).requires_grad_()
        value = criterion(scaled, y * factor)
        found.append((value.detach(), factor * torch.autograd.grad(value, scaled)[0]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-15)


def test_the_cosine_of_one_variable_is_refused():
    for variables, options in ((1, {}), (2, {"per_channel": True})):
        x, y = series(2, 4, 3, d=variables)
        criterion = DilateLoss(cost="cosine", **options)
        assert_one_sentence(ValueError, "at least two variables", lambda c=criterion, x=x, y=y: c(x, y))


def test_a_series_costs_nothing_beside_itself_with_divergence():
    x, _ = series(3, 6, 6, d=2)
    for cost in NAMED:
        torch.testing.assert_close(DilateLoss(cost=cost, divergence=True)(x, x), torch.tensor(0.0).double())


def test_costs_in_half_precision_are_widened_as_series_are():
    x, y = (s.float().requires_grad_() for s in series(2, 4, 3, d=2))
    criterion = DilateLoss(0.3, 0.1, cost=lambda p, q: (p @ q.mT).square())
    with torch.autocast("cpu", torch.bfloat16):
        found = criterion(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, criterion(x, y), rtol=2e-2, atol=2e-2)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found, (x, y)))


# ------------------------------------------------------------------------------------ what is refused


def test_what_is_no_cost_is_refused_in_one_sentence():
    x, y = series(2, 4, 3)
    names = "cost must be one of 'squared', 'absolute', 'cosine' or a function"
    assert_one_sentence(ValueError, names, lambda: DilateLoss(cost="l1"))
    assert_one_sentence(TypeError, f"{names}.* but it is 3", lambda: SoftDTWLoss(cost=3))
    for cost in (lambda x, y: x, lambda x, y: 1.0, lambda x, y: torch.zeros(2, 4, 3, dtype=torch.int64)):
        criterion = DilateLoss(cost=cost)
        match = r"cost must return floating-point numbers of \(2, 4, 3\), but"
        assert_one_sentence(ValueError, match, lambda criterion=criterion: criterion(x, y))


@pytest.mark.parametrize("lengths", [None, ([4, 2], [3, 2])])
def test_the_shape_term_can_be_differentiated_twice_and_the_temporal_term_once(lengths):
    x, y = (s.requires_grad_() for s in series(2, 4, 3, d=2))
    criterion = DilateLoss(0.3, cost="cosine")
    names = dict(zip(("prediction_lengths", "target_lengths"), lengths or (None, None), strict=True))
    assert gradgradcheck(lambda x, y: criterion.components(x, y, **names).shape, (x, y))
    D = costs(2, 4, 3).requires_grad_()
    assert gradgradcheck(lambda D: dilate_of_costs(D, "squared", 0.3, 0.5, **names).shape, (D,))
    for term in (0, 2):
        (g,) = torch.autograd.grad(criterion.components(x, y, **names)[term], x, create_graph=True)
        with pytest.raises(NotImplementedError, match="only the shape term can be differentiated twice"):
            torch.autograd.grad(g.square().sum(), x)
