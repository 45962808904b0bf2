"""Delta and Eq. 2: soft-DTW, the shape term of DILATE (Cuturi & Blondel 2017)."""

import torch
from torch import Tensor, nn

from . import kernels
from .checks import check_gamma, check_reduction, check_series, check_tensor
from .series import sweep_series


def pairwise_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Delta: squared Euclidean distances between the steps of two series.

    The differences are squared themselves: the expansion ``|x|**2 + |y|**2 - 2 x y`` loses all digits of series
    that lie far away from zero.

    Args:
        x: (N, d) or (B, N, d).
        y: (M, d) or (B, M, d); ``x`` by default.

    Returns:
        (N, M) or (B, N, M).
    """
    y = x if y is None else y
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Mean, sum or nothing over the batch (B,)."""
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values


def check_costs(D: Tensor) -> Tensor:
    """Return costs (B, N, M)."""
    return check_tensor("D", D, "(batch, N, M)", (3,))


def sweep_costs(D: Tensor, gamma: Tensor, omega: Tensor | None, want_path: bool) -> tuple[Tensor, ...]:
    """Run the sweeps on costs (B, N, M); the results are those of :func:`loss.kernels.matrix`."""
    lengths = [torch.full((D.shape[0],), size, dtype=torch.int64, device=D.device) for size in D.shape[1:]]
    dual = omega is not None
    omega = torch.zeros(0, dtype=torch.float64, device=D.device) if omega is None else omega.double()
    return kernels.matrix(D, gamma, omega, *lengths, -1, dual, want_path, False)


class SoftDTW(torch.autograd.Function):
    """Eq. 2 of each cost matrix, ``DTW_gamma = -gamma log sum_A exp(-<A, Delta> / gamma)``.

    Its derivative is the soft alignment A*_gamma, itself differentiable, so that it can be differentiated twice.
    """

    @staticmethod
    def forward(D, gamma):
        """(B, N, M), () -> (B,)."""
        return sweep_costs(D, gamma, None, want_path=False)[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the costs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        """``d DTW_gamma / d Delta = A*_gamma``."""
        from .path_soft_dtw import SoftPath

        D, gamma = ctx.saved_tensors
        return grad.reshape(-1, 1, 1) * SoftPath.apply(D, gamma), None


def soft_dtw(D: Tensor, gamma: float = 1.0) -> Tensor:
    """Eq. 2, soft-DTW, of each cost matrix.

    Args:
        D: (B, N, M) costs, float32 or float64 (half precision is computed in float32).
        gamma: smoothing, in the units of the cost, > 0.

    Returns:
        (B,) values.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    D = check_costs(D)
    return SoftDTW.apply(D, check_gamma(gamma, D))


class SoftDTWBatch(SoftDTW):
    """The name of the released code: ``SoftDTWBatch.apply(D, gamma)`` is the batch mean of Eq. 2.

    Its gradient is that of the value it returns; the released one's is ``batch size`` times larger.
    """

    @classmethod
    def apply(cls, D: Tensor, gamma: float = 1.0) -> Tensor:
        """(B, N, M) costs -> the mean of Eq. 2, a scalar."""
        return soft_dtw(D, gamma).mean()


class SoftDTWLoss(nn.Module):
    """Soft-DTW between predicted and true series, as a training criterion (Eq. 2).

    Shapes: prediction (B, N, d) or (B, N), target (B, M, d) or (B, M); the result is a scalar, or (B,) with
    ``reduction="none"``. The loss may be negative: see the README's questions and answers.

    Args:
        gamma: smoothing, in squared units of the data, > 0; the paper uses 0.01.
        reduction: "mean", "sum" or "none", over the batch.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series when called.
    """

    def __init__(self, gamma: float = 0.01, reduction: str = "mean"):
        super().__init__()
        check_gamma(gamma)
        self.gamma, self.reduction = gamma, check_reduction(reduction)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the reduced soft-DTW of prediction and target."""
        prediction, target = check_series(prediction, target)
        values, _ = sweep_series(prediction, target, check_gamma(self.gamma, prediction))
        return reduce(values, self.reduction)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"gamma={self.gamma}, reduction={self.reduction!r}"
