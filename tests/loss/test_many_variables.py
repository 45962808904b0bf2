"""Series of many variables, whose costs the CPU makes before the sweep: against few, and a truth of 80 bits."""

import numpy as np
import pytest
import torch

from loss import DilateLoss, SoftDTWLoss
from loss.kernels.lattice import MANY
from tests.helpers import EVERY_LOSS, series
from tests.oracles.longdouble import PRECISE, dilate, relative_error

TOGETHER = [loss for loss in EVERY_LOSS if not loss.per_channel]  # the others have one variable each
LENGTHS = [5, 1, 3], [2, 4, 4]


def with_zeros(few):
    """The same series with variables that are zero, which change no distance."""
    return torch.cat([few, few.new_zeros(*few.shape[:2], MANY)], dim=2)


def derivatives(criterion, x, y, *lengths):
    """Values, gradients, and the gradient of a gradient's square."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    values = criterion(x, y, *lengths)
    gradients = torch.autograd.grad(values.square().sum(), (x, y))
    return values.detach(), *(gradient[..., :3] for gradient in gradients)


@pytest.mark.parametrize("lengths", [(), LENGTHS])
@pytest.mark.parametrize("criterion", TOGETHER)
def test_variables_that_are_zero_change_nothing(criterion, lengths):
    x, y = series(3, 5, 4, 3)
    for series_, of in zip((x, y), lengths, strict=False):
        for pair, length in zip(series_, of, strict=True):
            pair[length:] = torch.nan  # padding does not count
    if criterion.band is not None and lengths:
        lengths = [3, 1, 3], [2, 2, 4]
    many = derivatives(criterion, with_zeros(x), with_zeros(y), *lengths)
    for ours, expected in zip(many, derivatives(criterion, x, y, *lengths), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("criterion", [SoftDTWLoss(0.2), lambda x, y: DilateLoss(0.5, 0.2).components(x, y).shape])
def test_a_gradient_penalty_is_that_of_few_variables(criterion):
    x, y = series(2, 5, 4, 3)

    def penalty(x, y):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(criterion(x, y), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0][..., :3]

    torch.testing.assert_close(penalty(with_zeros(x), with_zeros(y)), penalty(x, y))


def test_gamma_is_learned():
    x, y = series(2, 5, 4, MANY)

    def loss(gamma):
        return DilateLoss(0.3, gamma)(x, y)

    assert torch.autograd.gradcheck(loss, (torch.tensor(5.0, dtype=torch.float64, requires_grad=True),))


def test_a_batch_of_several_groups_gives_what_its_pairs_give_alone():
    x, y = series(60, 96, 96, MANY, torch.float32)  # 9 MB of costs and E
    criterion = DilateLoss(0.5, 1.0, "none")
    values, by_x, by_y = derivatives(criterion, x, y)
    for pair in (0, 30, 59):
        alone = derivatives(criterion, x[[pair]], y[[pair]])
        for ours, expected in zip((values, by_x, by_y), alone, strict=True):
            torch.testing.assert_close(ours[[pair]], expected)


@pytest.mark.parametrize("found", [torch.nan, torch.inf])
def test_a_pair_that_is_not_finite_spoils_no_other(found):
    x, y = series(3, 6, 5, MANY)
    expected = derivatives(DilateLoss(0.5, 1.0, "none"), x, y)
    x[1, 2, 3] = found
    ours = derivatives(DilateLoss(0.5, 1.0, "none"), x, y)
    for mine, others in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine[[0, 2]], others[[0, 2]])
        assert mine[1].isnan().all() or found == torch.inf
        assert not mine[1].isfinite().all()


def cases(N, d):
    """Name -> prediction and target, (N, d)."""
    rng = np.random.default_rng(N)
    x, y = rng.standard_normal((2, N, d))
    late = (np.arange(N) >= N // 2)[:, None]
    found = {
        "normal": (x, y),
        "near the target": (y + 1e-3 * x, y),
        "walks": (x.cumsum(0), y.cumsum(0)),
        "ramp of 1e3": (x + np.linspace(0, 1e3, N)[:, None], y + np.linspace(0, 1e3, N)[:, None]),
        "one variable at 1e6": (x + 1e6 * (np.arange(d) == 5), y + 1e6 * (np.arange(d) == 5)),
        **{f"offset {size:g}": (x + size, y + size) for size in (1e4, 1e6)},
        **{f"prediction off by {size:g}": (x + size, y) for size in (1e2, 1e4)},
        **{f"scale {size:g}": (x * size, y * size) for size in (1e-3, 1e3)},
        **{f"step of {size:g}": (x + size * late, y + size * late) for size in (1e3, 1e4, 1e5, 1e6)},
    }
    first = (np.arange(N) == 0)[:, None]
    found["a first step at 1e6, the others of 1e-5"] = tuple(np.where(first, 1e6, 1e-5 * series) for series in (x, y))
    return {name: [series.astype(np.float32) for series in pair] for name, pair in found.items()}


@pytest.mark.skipif(not PRECISE, reason="a long double is no more than a float64 on this system")
@pytest.mark.parametrize("smoothing", [0.01, 1.0])  # few paths count, or many
@pytest.mark.parametrize("d", [MANY, 321])
@pytest.mark.parametrize("name", cases(2, 2))
def test_gradients_have_the_digits_of_float32_whatever_the_level_and_the_scale(name, d, smoothing):
    x, y = cases(24, d)[name]
    gamma = smoothing * d * max(1e-6, float(np.square(x - y).mean()))
    truth = dilate(x, y, gamma)
    tensors = [torch.from_numpy(series[None]).requires_grad_() for series in (x, y)]
    _, shape, temporal = DilateLoss(0.5, gamma, "none").components(*tensors)
    for term, value in enumerate((shape, temporal)):
        by_x, by_y = (g[0].numpy() for g in torch.autograd.grad(value.sum(), tensors, retain_graph=True))
        # a temporal term of 1e-22 is made of weights as small, which float32 has to a few units in their last place
        for ours, theirs in zip(
            (value.detach().numpy()[0], by_x, by_y), (truth.values, truth.by_x, truth.by_y), strict=True
        ):
            assert relative_error(ours, theirs[term]) <= (3e-6 if term else 1e-6)
