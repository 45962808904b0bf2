"""How many digits a float32 user gets, held against a truth in 80-bit long double that shares no code with the loss.

The measure is the largest error of a gradient relative to its largest entry, for each pair of series and each of the
two terms alone. The truth takes the float32 inputs as exact.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loss import DilateLoss, SoftDTWLoss
from tests.helpers import delannoy, series
from tests.oracles.cases import BY_FLOAT64, BY_INPUTS, CASES, Case
from tests.oracles.longdouble import NEGLIGIBLE, PRECISE, Number, Truth, dilate, nudged, relative_error
from tests.oracles.paths import shape_term, square_omega, squared_distances, temporal_term

pytestmark = pytest.mark.skipif(not PRECISE, reason="a long double is no more than a float64 on this system")

TOLERANCE = 1e-5  # of the largest entry of a gradient
FLOAT32 = 2.0**-24  # half a unit in the last place: what rounding a number to float32 costs
TERMS = ("shape", "temporal")


def ours(x, y, gamma):
    """Values (2, B) and gradients (2, B, N, 1), (2, B, M, 1) of both terms of series (B, N, 1) and (B, M, 1)."""
    x, y = (torch.from_numpy(s).requires_grad_() for s in (x, y))
    terms = DilateLoss(0.5, gamma, reduction="none").components(x, y)[1:]
    gradients = zip(*(torch.autograd.grad(term.sum(), (x, y), retain_graph=True) for term in terms), strict=True)
    return torch.stack(terms).detach().numpy(), *(torch.stack(g).numpy() for g in gradients)


def ours_alone(case: Case):
    return (result[:, 0] for result in ours(case.x[None], case.y[None], case.gamma))


def allowed(exact, parts):
    """The error of a right gradient: 1e-5 of it or, where its parts cancel, what rounding them to float32 costs."""
    return max(TOLERANCE * abs(exact).max(), FLOAT32 * parts.max(), NEGLIGIBLE)


def assert_right(values, by_x, by_y, truth: Truth):
    for k, term in enumerate(TERMS):
        assert relative_error(values[k], truth.values[k]) <= TOLERANCE, f"value of the {term} term"
        for name, gradient, exact, parts in (
            ("prediction", by_x[k], truth.by_x[k], truth.parts_by_x[k]),
            ("target", by_y[k], truth.by_y[k], truth.parts_by_y[k]),
        ):
            assert abs(gradient - exact).max() <= allowed(exact, parts), f"{term} term by the {name}"


# ----------------------------------------------------------------------- the truth itself


@pytest.mark.parametrize("gamma", [0.01, 0.3, 5.0])
@pytest.mark.parametrize(("N", "M", "d"), [(6, 6, 1), (5, 6, 2), (1, 4, 1), (4, 1, 1), (1, 1, 1)])
def test_truth_equals_enumeration(N, M, d, gamma):
    x, y = (s.requires_grad_() for s in series(1, N, M, d))
    truth = dilate(x[0].detach().numpy(), y[0].detach().numpy(), gamma)
    D = squared_distances(x, y)
    for k, term in enumerate((shape_term(D, gamma), temporal_term(D, gamma, square_omega(N, M)))):
        by_x, by_y = torch.autograd.grad(term.sum(), (x, y), retain_graph=True)
        assert abs(term.item() - truth.values[k]) < 1e-13 * max(1, abs(truth.values[k]))
        np.testing.assert_allclose(truth.by_x[k].astype(float), by_x[0].numpy(), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(truth.by_y[k].astype(float), by_y[0].numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("N", "M", "gamma"), [(12, 9, 0.05), (9, 12, 1.0)])
def test_truth_equals_its_own_finite_differences(N, M, gamma):
    x, y = (s[0].numpy().astype(Number) for s in series(1, N, M, 2))
    truth, h = dilate(x, y, gamma), Number(1e-6)
    for which, gradient in enumerate((truth.by_x, truth.by_y)):
        for at in np.ndindex(*(x, y)[which].shape):
            step = np.zeros_like((x, y)[which])
            step[at] = h
            there, back = ((x + s, y) if which == 0 else (x, y + s) for s in (step, -step))
            slope = (dilate(*there, gamma).values - dilate(*back, gamma).values) / (2 * h)
            np.testing.assert_allclose(slope.astype(float), gradient[:, *at].astype(float), rtol=1e-8, atol=1e-9)


# ----------------------------------------------------------------------- float32 against the truth


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: f"{case.name}, gamma {case.gamma:g}")


@each(CASES)
def test_float32_is_right_to_1e_5(case):
    assert_right(*ours_alone(case), dilate(case.x, case.y, case.gamma))


@each([case for case in CASES if len(case.x) <= 128])
def test_the_shape_term_alone_and_values_alone_are_right_too(case):
    truth = dilate(case.x, case.y, case.gamma)
    x, y = (torch.from_numpy(s[None]) for s in case[2:4])
    with torch.no_grad():
        values = DilateLoss(0.5, case.gamma).components(x, y)
        alone = SoftDTWLoss(case.gamma)(x, y)
    for k in range(2):
        assert relative_error(values[1 + k].numpy(), truth.values[k]) <= TOLERANCE
    assert relative_error(alone.numpy(), truth.values[0]) <= TOLERANCE
    x.requires_grad_()
    y.requires_grad_()
    gradients = torch.autograd.grad(SoftDTWLoss(case.gamma)(x, y), (x, y))
    for gradient, exact in zip(gradients, (truth.by_x[0], truth.by_y[0]), strict=True):
        assert relative_error(gradient[0].numpy(), exact) <= TOLERANCE


KINDS = {
    "noise": lambda random, N: random.standard_normal(N),
    "walk": lambda random, N: random.standard_normal(N).cumsum(),
    "sine": lambda random, N: np.sin(np.arange(N) * random.uniform(0.02, 0.5) + random.uniform(0, 6)),
    "step": lambda random, N: (np.arange(N) > random.integers(N)) + 0.01 * random.random(N),
    "levels": lambda random, N: np.round(random.standard_normal(N).cumsum() / 2),
    "spikes": lambda random, N: (random.random(N) < 0.1) * random.standard_normal(N),
    "constant": lambda random, N: np.full(N, random.standard_normal()),
}


@settings(max_examples=150)
@example(kinds=("noise", "noise"), B=5, N=6, M=3, scale=0.1, offset=0.0, gamma=1e-3, seed=310188)  # q nearly one
@given(
    kinds=st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(KINDS))),
    B=st.integers(1, 5),
    N=st.integers(1, 40),
    M=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e3]),
    offset=st.sampled_from([0.0, 1e4]),
    gamma=st.sampled_from([1e-3, 0.01, 0.1, 1.0, 10.0]),
    seed=st.integers(0, 10**6),
)
def test_values_and_gradients_of_all_kinds_of_series(kinds, B, N, M, scale, offset, gamma, seed):
    random = np.random.default_rng(seed)
    x, y = (
        np.stack([scale * KINDS[kind](random, k) + offset for _ in range(B)]).astype(np.float32)[:, :, None]
        for kind, k in zip(kinds, (N, M), strict=True)
    )
    values, by_x, by_y = ours(x, y, gamma)
    for b in range(B):
        truth = dilate(x[b], y[b], gamma)
        # beyond 1e10, values in float64 no longer tell ties apart
        ties = 2.0**-50 * float(abs(truth.values[0])) / gamma
        # E_dot is a difference of numbers of about V_dot / gamma
        cancelled = 2.0**-46 * truth.values[1] / gamma * 2 * abs(x[b] - y[b].T).max()
        # a value may be a small difference of cost and entropy
        assert abs(values[0, b] - truth.values[0]) <= TOLERANCE * max(abs(truth.values[0]), gamma)
        assert relative_error(values[1, b], truth.values[1]) <= TOLERANCE + ties
        for k in range(2):
            for gradient, exact, parts in (
                (by_x[k, b], truth.by_x[k], truth.parts_by_x[k]),
                (by_y[k, b], truth.by_y[k], truth.parts_by_y[k]),
            ):
                room = ties * abs(exact).max() + (cancelled if k == 1 else 0)
                assert abs(gradient - exact).max() <= allowed(exact, parts) + room


# ----------------------------------------------------------------------- where float32 itself, or float64, ends


def test_rounded_inputs_leave_more_open_than_the_error():
    """Half a unit in the last place of the series moves the true gradient, and by more than the error is."""
    x, y, gamma = BY_INPUTS[2:]
    truth, moved = dilate(x, y, gamma), dilate(nudged(x, 0), nudged(y, 1), gamma)
    _, _, by_y = ours_alone(BY_INPUTS)
    for k in range(2):
        limit_of_inputs = relative_error(moved.by_y[k], truth.by_y[k])
        assert limit_of_inputs > 100 * TOLERANCE
        assert relative_error(by_y[k], truth.by_y[k]) < limit_of_inputs / 100


def test_parts_that_cancel_leave_nothing_to_be_right_about():
    """A row that every path visits once has no temporal gradient; its parts, rounded to float32, would leave some."""
    case = next(c for c in CASES if c.name == "total of 120e6")
    truth, (_, by_x, _) = dilate(case.x, case.y, case.gamma), ours_alone(case)
    exact, parts = abs(truth.by_x[1]).max(), truth.parts_by_x[1].max()
    assert exact < 1e-9 * FLOAT32 * parts
    assert abs(by_x[1]).max() < 1e-3 * FLOAT32 * parts


def test_ties_of_values_above_1e11_gamma_are_as_right_as_float64_can_tell():
    x, y, gamma = BY_FLOAT64[2:]
    truth, in_float64 = dilate(x, y, gamma), dilate(x, y, gamma, np.float64)
    _, _, by_y = ours_alone(BY_FLOAT64)
    for k in range(2):
        resolved = 2.0**-52 * float(truth.values[0]) / gamma
        assert relative_error(in_float64.by_y[k], truth.by_y[k]) > TOLERANCE
        assert relative_error(by_y[k], truth.by_y[k]) < resolved


# ----------------------------------------------------------------------- gamma to zero, and no overflow


def hard_path(x, y):
    """Cost of the best alignment of (N, 1) and (M, 1), and the alignment as a 0/1 matrix, by plain recursion."""
    D = np.square(x.astype(float) - y.T.astype(float))
    N, M = D.shape
    best = np.full((N + 1, M + 1), np.inf)
    best[0, 0] = 0
    for i in range(N):
        for j in range(M):
            best[i + 1, j + 1] = D[i, j] + min(best[i, j], best[i, j + 1], best[i + 1, j])
    path, i, j = np.zeros((N, M)), N - 1, M - 1
    while i >= 0 and j >= 0:
        path[i, j] = 1
        i, j = min((i - 1, j - 1), (i - 1, j), (i, j - 1), key=lambda p: best[p[0] + 1, p[1] + 1])
    return best[N, M], path


@pytest.mark.parametrize(("N", "M"), [(20, 20), (31, 17)])
def test_the_hard_path_of_the_tests_is_tslearns(N, M):
    from tslearn.metrics import dtw_path

    x, y = (s[0].numpy() for s in series(1, N, M))
    cost, path = hard_path(x, y)
    steps, distance = dtw_path(x, y)
    assert distance**2 == pytest.approx(cost)
    assert {tuple(map(int, step)) for step in steps} == set(zip(*map(np.ndarray.tolist, path.nonzero()), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("N", "M", "scale"), [(20, 20, 1.0), (31, 17, 1.0), (25, 25, 1e3)])
def test_small_gamma_gives_the_hard_path(N, M, scale, dtype):
    x, y = ((scale * s).numpy().astype(dtype) for s in series(3, N, M))
    for gamma in (1.0, 1e-2, 1e-4, 1e-6):
        values, by_x, by_y = ours(x, y, gamma * scale**2)
        for b in range(3):
            cost, path = hard_path(x[b], y[b])
            # the soft minimum over P paths lies less than gamma log P below the minimum
            below = gamma * scale**2 * math.log(delannoy(N - 1, M - 1))
            assert cost - below - 1e-6 * cost <= values[0, b] <= cost * (1 + 1e-6)
            if gamma == 1e-6:
                difference = 2 * path * (x[b].astype(float) - y[b].T)
                assert relative_error(by_x[0, b], difference.sum(1)[:, None]) < TOLERANCE
                assert relative_error(by_y[0, b], -difference.sum(0)[:, None]) < TOLERANCE
                assert values[1, b] == pytest.approx((path * square_omega(N, M).numpy()).sum(), rel=TOLERANCE)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    ("scale", "offset", "gamma"),
    [(1e6, 0, 1e-6), (1e6, 0, 1.0), (1.0, 0, 1e-6), (1e-3, 0, 1e-6), (1.0, 1e6, 1e-6), (1e-6, 0, 10.0)],
)
def test_nothing_overflows(kind, scale, offset, gamma):
    random = np.random.default_rng(0)
    for N, M in ((70, 70), (70, 41)):
        x, y = (
            np.stack([scale * KINDS[kind](random, k) + offset for _ in range(3)]).astype(np.float32)[:, :, None]
            for k in (N, M)
        )
        for a, b in ((x, y), (x, x), (x, -y)):
            assert all(np.isfinite(result).all() for result in ours(a, b, gamma))
        if kind == "noise" and offset == 0 and gamma < 1e-3 * scale**2:  # no ties, no second-best path
            _, by_x, _ = ours(x, y, gamma)
            for b in range(3):
                difference = 2 * hard_path(x[b], y[b])[1] * (x[b].astype(float) - y[b].T)
                assert relative_error(by_x[0, b], difference.sum(1)[:, None]) < TOLERANCE


# ----------------------------------------------------------------------- half precision, and samples that are spoilt


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_series_are_compared_in_float32(dtype):
    """Differences of 5e4 have squares far above float16's largest number, 65504."""
    x, y = (25000 * s.tanh().to(dtype) for s in series(3, 20, 20))
    leaf, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    terms, expected = (
        DilateLoss(0.5, 1e6, reduction="none").components(s, t) for s, t in ((leaf, y), (wide, y.float()))
    )
    for ours_, theirs in zip(terms, expected, strict=True):
        assert ours_.dtype == torch.float32
        assert ours_.isfinite().all()
        assert torch.equal(ours_, theirs)
    terms.temporal.sum().backward()
    expected.temporal.sum().backward()
    assert torch.equal(leaf.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_loss_in_float32(dtype):
    x, y = series(3, 20, 20, dtype=torch.float32)
    layer = torch.nn.Linear(1, 1)
    plain = DilateLoss(0.5, 0.01)(x, y)
    with torch.autocast("cpu", dtype=dtype):
        prediction = layer(x)
        loss = DilateLoss(0.5, 0.01)(prediction, y)
        assert torch.equal(DilateLoss(0.5, 0.01)(x, y), plain)
    assert prediction.dtype == dtype
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["prediction", "target", "both"])
@pytest.mark.parametrize(("B", "N"), [(5, 12), (40, 20)])
def test_a_spoilt_sample_is_nan_in_both_terms_and_spoils_no_other(bad, where, B, N):
    x, y = (s.numpy() for s in series(B, N, N, dtype=torch.float32))
    clean = ours(x, y, 0.1)
    spoilt_x, spoilt_y = x.copy(), y.copy()
    if where != "target":
        spoilt_x[2, 3] = bad
    if where != "prediction":
        spoilt_y[2, 5] = bad
    others = np.arange(B) != 2
    for spoilt, expected in zip(ours(spoilt_x, spoilt_y, 0.1), clean, strict=True):
        assert np.isnan(spoilt[:, 2]).all()
        np.testing.assert_array_equal(spoilt[:, others], expected[:, others])
    for again, expected in zip(ours(x, y, 0.1), clean, strict=True):
        np.testing.assert_array_equal(again, expected)
