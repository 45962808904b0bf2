"""A*_gamma, the soft alignment of Eq. 3 and 4, and its derivative (Mensch & Blondel 2018)."""

import torch
from torch import Tensor

from .checks import check_gamma
from .soft_dtw import check_costs, sweep_costs


class SoftPath(torch.autograd.Function):
    """``A*_gamma = (1/Z) sum_A A exp(-<A, Delta> / gamma)``, the derivative of Eq. 2 by the costs."""

    @staticmethod
    def forward(D, gamma):
        """(B, N, M), () -> (B, N, M)."""
        return sweep_costs(D, gamma, None, want_path=True)[2]

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the costs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        """The Hessian of Eq. 2 times the incoming gradient."""
        D, gamma = ctx.saved_tensors
        return sweep_costs(D, gamma, grad, want_path=True)[3], None


def soft_path(D: Tensor, gamma: float = 1.0) -> Tensor:
    """The soft alignment A*_gamma of each cost matrix: how likely a path runs through each cell.

    Args:
        D: (B, N, M) costs, float32 or float64 (half precision is computed in float32).
        gamma: smoothing, in the units of the cost, > 0.

    Returns:
        (B, N, M), entries in [0, 1]; every row and every column sums to at least one.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    D = check_costs(D)
    return SoftPath.apply(D, check_gamma(gamma, D))


class PathDTWBatch(SoftPath):
    """The name of the released code: ``PathDTWBatch.apply(D, gamma)`` is the batch mean of A*_gamma.

    Its gradient is that of the value it returns; the released one's is ``batch size`` times larger.
    """

    @classmethod
    def apply(cls, D: Tensor, gamma: float = 1.0) -> Tensor:
        """(B, N, M) costs -> the mean path (N, M)."""
        return soft_path(D, gamma).mean(0)
