"""Delta other than the squared distance: what it costs to align step h of a prediction with step j of its target."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .kernels.operators import is_recorded
from .kernels.reference import widened
from .pairs import Pairs


def absolute(x: Tensor, y: Tensor) -> Tensor:
    """The sum over the variables of ``|x - y|``, which outliers move less than squares; (B, N, M)."""
    # A compiler makes no array of the differences; torch loses a tangent of the second order in a Function's own jvp.
    if is_recorded() or forward_ad._current_level >= 0:
        return (x.unsqueeze(2) - y.unsqueeze(1)).abs().sum(-1)
    return _AbsoluteDistances.apply(x, y)


class _AbsoluteDistances(torch.autograd.Function):
    """``torch.cdist(x, y, p=1)``, to be differentiated any number of times, but for forward mode.

    The first one of reverse mode makes nothing of size B * N * M * d: at (32, 96) and 64 variables forward and
    backward take 19 ms, and autograd's of the formula 314 ms.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        """(B, N, d), (B, M, d) -> (B, N, M)."""
        return torch.cdist(x, y, p=1.0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the series and their distances."""
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx, g):
        """``sum_j g sign(x - y_j)``, which with ``create_graph=True`` is a function of g."""
        x, y, D = ctx.saved_tensors
        if torch.is_grad_enabled():
            by_difference = g.unsqueeze(-1) * (x.unsqueeze(2) - y.unsqueeze(1)).sign()
            return by_difference.sum(2), -by_difference.sum(1)
        want_x, want_y = ctx.needs_input_grad
        by_x = _chained(g, x, y, D) if want_x else None
        return by_x, _chained(g.mT, y, x, D.mT) if want_y else None


def _chained(g: Tensor, x: Tensor, y: Tensor, D: Tensor) -> Tensor:
    return torch.ops.aten._cdist_backward(g.contiguous(), x, y, 1.0, D.contiguous())


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """One minus the cosine of the angle between the vectors of two steps; 1 where a vector is zero; (B, N, M)."""
    return 1.0 - _directions(x) @ _directions(y).transpose(1, 2)


def _directions(series: Tensor) -> Tensor:
    """Vectors of length one; a zero vector stays zero, and has a gradient of the size of the others'."""
    largest = series.detach().abs().amax(-1, keepdim=True)
    series = series / torch.where(largest > 0, largest, 1.0)  # whose squares are in range
    squares = series.square().sum(-1, keepdim=True)
    return series * torch.where(squares > 0, squares, 1.0).rsqrt()


Cost = str | Callable[[Tensor, Tensor], Tensor]
NAMED = {"absolute": absolute, "cosine": cosine}  # "squared" is made in the sweeps, without a matrix
NAMES = ("squared", *NAMED)


def check_cost(cost: Cost) -> Cost:
    """Return what a user gave as cost: a name, or a function of two batches of series."""
    if isinstance(cost, str) and cost in NAMES:
        return cost
    if isinstance(cost, str) or not callable(cost):
        allowed = f"one of {', '.join(map(repr, NAMES))} or a function (prediction, target) -> (B, N, M)"
        raise (ValueError if isinstance(cost, str) else TypeError)(f"cost must be {allowed}, but it is {cost!r}.")
    return cost


def costs_of(cost: Cost, pairs: Pairs) -> Tensor:
    """Delta (B, N, M) of each pair; a named cost is computed in float64, as V is.

    In place of the padding a cost sees the last true step again, and so nothing that it does not see anyway.
    """
    x, y = (_with_last_step(s, k) for s, k in zip(pairs[:2], pairs.lattice[:2], strict=True))
    if isinstance(cost, str):
        if cost == "cosine" and x.shape[2] == 1:
            raise ValueError(
                "cost='cosine' needs series of at least two variables, since the direction of one number has no "
                "gradient, but they have one (with per_channel=True each variable is a series of its own)."
            )
        with torch.autocast(x.device.type, enabled=False):
            return NAMED[cost](widened(x), widened(y))
    D, shape = cost(x, y), (x.shape[0], x.shape[1], y.shape[1])
    if not isinstance(D, Tensor) or D.shape != shape or not D.is_floating_point():
        found = f"{D.dtype} of {tuple(D.shape)}" if isinstance(D, Tensor) else repr(type(D).__name__)
        raise ValueError(f"cost must return floating-point numbers of {shape}, but it returned {found}.")
    return D if D.dtype == torch.float64 else D.float()  # autocast makes half precision of some functions


def _with_last_step(series: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, N, d) with the last true step in place of the padding."""
    if lengths is None:
        return series
    step = torch.arange(series.shape[1], device=series.device).minimum(lengths.unsqueeze(1) - 1)
    return series.gather(1, step.unsqueeze(-1).expand(series.shape))
