"""Delta and Eq. 2: soft-DTW, the shape term of DILATE (Cuturi & Blondel 2017)."""

import torch
from torch import Tensor

from . import kernels
from .checks import check_alike, check_band, check_gamma, check_tensor
from .criterion import AlignmentLoss
from .kernels import reference
from .kernels.operators import is_exported
from .pairs import Lattice, Lengths, Pairs, check_lattice


def pairwise_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Delta: squared Euclidean distances between the steps of two series.

    The differences are squared themselves: the expansion ``|x|**2 + |y|**2 - 2 x y`` loses all digits of series
    that lie far away from zero.

    Args:
        x: (N, d) or (B, N, d), float32 or float64 (half precision is computed in float32).
        y: (M, d) or (B, M, d); ``x`` by default.

    Returns:
        (N, M) or (B, N, M).

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    allowed = "(N, variables) or (batch, N, variables)"
    x = check_tensor("x", x, allowed, (2, 3))
    y = x if y is None else check_tensor("y", y, allowed, (2, 3))
    axes = {-1: "number of variables"} if x.dim() == 2 else {0: "batch size", -1: "number of variables"}
    check_alike(("x", "y"), x, y, axes)
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def check_costs(
    D: Tensor, prediction_lengths: Lengths = None, target_lengths: Lengths = None, band: int | None = None
) -> tuple[Tensor, Lattice]:
    """Return costs (B, N, M) and their lattice."""
    D = check_tensor("D", D, "(batch, N, M)", (3,))
    return D, check_lattice(tuple(D.shape), D.device, prediction_lengths, target_lengths, check_band(band))


def sweep_costs(
    D: Tensor, gamma: Tensor, omega: Tensor | None, lattice: Lattice, want_path: bool, want_gamma: bool = False
) -> list[Tensor]:
    """Run the sweeps on costs (B, N, M); the results are those of :func:`loss.kernels.matrix`."""
    N, M = lattice.reachable(*D.shape[1:])
    cropped = (slice(None), slice(N), slice(M))
    dual = omega is not None
    omega = torch.zeros(0, dtype=torch.float64, device=D.device) if omega is None else omega[cropped].double()
    results = list(kernels.matrix(D[cropped], gamma, omega, *lattice, dual, want_path, want_gamma))
    if D.shape[1:] != (N, M) and want_path:
        results[2] = torch.nn.functional.pad(results[2], (0, D.shape[2] - M, 0, D.shape[1] - N))
    return results


class SoftDTW(torch.autograd.Function):
    """Eq. 2 of each cost matrix, ``DTW_gamma = -gamma log sum_A exp(-<A, Delta> / gamma)``.

    Its derivative is the soft alignment A*_gamma, itself differentiable, so that it can be differentiated twice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(D, gamma, n, m, band):
        """(B, N, M), () -> (B,)."""
        return sweep_costs(D, gamma, None, Lattice(n, m, band), want_path=False)[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the costs."""
        ctx.save_for_backward(*inputs[:4])
        ctx.band = inputs[4]

    @staticmethod
    def backward(ctx, grad):
        """``d DTW_gamma / d Delta = A*_gamma``; the derivative by gamma is minus the entropy of the paths."""
        from .path_soft_dtw import SoftPath

        D, gamma, n, m = ctx.saved_tensors
        want_D, want_gamma = ctx.needs_input_grad[:2]
        d_D = grad.reshape(-1, 1, 1) * SoftPath.apply(D, gamma, n, m, ctx.band) if want_D else None
        if not want_gamma:
            return d_D, None, None, None, None
        by_gamma = sweep_costs(D, gamma, None, Lattice(n, m, ctx.band), want_path=False, want_gamma=True)[3]
        return d_D, (grad * by_gamma[0]).sum(), None, None, None


def soft_dtw(
    D: Tensor,
    gamma: float | Tensor = 1.0,
    *,
    prediction_lengths: Lengths = None,
    target_lengths: Lengths = None,
    band: int | None = None,
) -> Tensor:
    """Eq. 2, soft-DTW, of each cost matrix.

    Args:
        D: (B, N, M) costs, float32 or float64 (half precision is computed in float32).
        gamma: smoothing, in the units of the cost, > 0; a 0-d tensor may require grad.
        prediction_lengths: (B,) true numbers of rows; what lies beyond has no influence.
        target_lengths: (B,) true numbers of columns.
        band: Sakoe-Chiba band: paths stay where ``|h - j| <= band``.

    Returns:
        (B,) values.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    D, lattice = check_costs(D, prediction_lengths, target_lengths, band)
    gamma = check_gamma(gamma, D)
    if not kernels.has_kernels(D.device) or (is_exported() and D.requires_grad):
        return reference.soft_dtw(D, gamma, lattice.band, lattice.n, lattice.m)
    return SoftDTW.apply(D, gamma, *lattice)


class SoftDTWBatch(SoftDTW):
    """The name of the released code: ``SoftDTWBatch.apply(D, gamma)`` is the batch mean of Eq. 2.

    Its gradient is that of the value it returns; the released one's is ``batch size`` times larger.
    """

    @classmethod
    def apply(cls, D: Tensor, gamma: float | Tensor = 1.0) -> Tensor:
        """(B, N, M) costs -> the mean of Eq. 2, a scalar."""
        return soft_dtw(D, gamma).mean()


class SoftDTWLoss(AlignmentLoss):
    """Soft-DTW between predicted and true series, as a training criterion (Eq. 2).

    Shapes: prediction (B, N, d) or (B, N), target (B, M, d) or (B, M), float32 or float64 (half precision is
    computed in float32); the result is a scalar, or (B,) with ``reduction="none"``. The loss may be negative: see
    ``divergence`` and the README's questions and answers.

    Args:
        gamma: smoothing, in squared units of the data, > 0; the paper uses 0.01. A tensor or a parameter with one
            number may require grad: see :class:`loss.criterion.AlignmentLoss`.
        reduction: "mean", "sum" or "none", over the batch.
        band: Sakoe-Chiba band: step h is aligned with step j only where ``|h - j| <= band``; None for no band.
        per_channel: align each variable on its own and take the mean over the variables. By default all variables
            are aligned together, by the squared Euclidean distance of their vectors.
        divergence: the soft-DTW divergence: zero where prediction equals target, and negative at most slightly, near
            there (:mod:`loss.divergence`). It costs three sweeps instead of one.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series or lengths when called.
    """

    def __init__(
        self,
        gamma: float | Tensor = 0.01,
        reduction: str = "mean",
        *,
        band: int | None = None,
        per_channel: bool = False,
        divergence: bool = False,
    ):
        super().__init__(gamma, reduction, band, per_channel, divergence)

    def _arguments(self, pairs: Pairs) -> tuple[object, ...]:
        return (check_gamma(self.gamma, pairs.x),)  # Eq. 2
