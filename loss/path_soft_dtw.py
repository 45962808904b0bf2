"""A*_gamma, the soft alignment of Eq. 3 and 4, and its derivative (Mensch & Blondel 2018)."""

import torch
from torch import Tensor

from . import kernels
from .checks import check_gamma
from .kernels import reference
from .kernels.operators import is_exported
from .pairs import Lattice, Lengths
from .soft_dtw import check_costs, sweep_costs


class SoftPath(torch.autograd.Function):
    """``A*_gamma = (1/Z) sum_A A exp(-<A, Delta> / gamma)``, the derivative of Eq. 2 by the costs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(D, gamma, n, m, band):
        """(B, N, M), () -> (B, N, M)."""
        return sweep_costs(D, gamma, None, Lattice(n, m, band), want_path=True)[2].squeeze(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the costs."""
        ctx.save_for_backward(*inputs[:4])
        ctx.band = inputs[4]

    @staticmethod
    def backward(ctx, grad):
        """The Hessian of Eq. 2 times the incoming gradient, and its derivative by gamma along it."""
        D, gamma, n, m = ctx.saved_tensors
        want_D, want_gamma = ctx.needs_input_grad[:2]
        _, _, E, d_gamma = sweep_costs(D, gamma, grad, Lattice(n, m, ctx.band), want_D, want_gamma)
        return E[1] if want_D else None, d_gamma[1].sum() if want_gamma else None, None, None, None


def soft_path(
    D: Tensor,
    gamma: float | Tensor = 1.0,
    *,
    prediction_lengths: Lengths = None,
    target_lengths: Lengths = None,
    band: int | None = None,
) -> Tensor:
    """The soft alignment A*_gamma of each cost matrix: how likely a path runs through each cell.

    Args:
        D: (B, N, M) costs, float32 or float64 (half precision is computed in float32).
        gamma: smoothing, in the units of the cost, > 0; a 0-d tensor may require grad.
        prediction_lengths: (B,) true numbers of rows; the path is zero beyond.
        target_lengths: (B,) true numbers of columns.
        band: Sakoe-Chiba band: paths stay where ``|h - j| <= band``.

    Returns:
        (B, N, M), entries in [0, 1]; every row and every column sums to at least one.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    D, lattice = check_costs(D, prediction_lengths, target_lengths, band)
    gamma = check_gamma(gamma, D)
    if is_exported() and D.requires_grad:
        raise NotImplementedError("soft_path cannot be exported with its gradient: call .detach() on D.")
    if not kernels.has_kernels(D.device):
        return reference.soft_path(D, gamma, lattice.band, lattice.n, lattice.m)
    return SoftPath.apply(D, gamma, *lattice)


class PathDTWBatch(SoftPath):
    """The name of the released code: ``PathDTWBatch.apply(D, gamma)`` is the batch mean of A*_gamma.

    Its gradient is that of the value it returns; the released one's is ``batch size`` times larger.
    """

    @classmethod
    def apply(cls, D: Tensor, gamma: float | Tensor = 1.0) -> Tensor:
        """(B, N, M) costs -> the mean path (N, M)."""
        return soft_path(D, gamma).mean(0)
