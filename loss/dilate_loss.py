"""DILATE, a shape and time distortion loss (Le Guen & Thome, NeurIPS 2019).

The page to read beside the paper::

    Omega(h, j)   = (h - j)**2 / k**2                                   time distortion      squared_omega
    L_shape       = DTW_gamma(Delta)                                    Eq. 2                loss.soft_dtw
    L_temporal    = <A*_gamma, Omega>                                   Eq. 4                loss.path_soft_dtw
    L_DILATE      = alpha * L_shape + (1 - alpha) * L_temporal          Eq. 1                DilateLoss

Both terms come out of one sweep over each pair of series (:mod:`loss.series`), so that the code of Eq. 2 and Eq. 4
for given cost matrices, :func:`soft_dtw` and :func:`soft_path`, is not called here.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .checks import check_alpha, check_gamma, check_reduction, check_series
from .series import sweep_series
from .soft_dtw import reduce


class DilateTerms(NamedTuple):
    """DILATE and the two terms it is made of."""

    loss: Tensor
    shape: Tensor
    temporal: Tensor


def squared_omega(N: int, M: int, device: torch.device | None = None) -> Tensor:
    """Omega of Eq. 3, ``(h - j)**2 / k**2`` (with N * M for k**2 where the lengths differ).

    Args:
        N: length of the prediction.
        M: length of the target.
        device: where the result is wanted.

    Returns:
        (N + M - 1,) float64: Omega depends on h - j alone, and this is its value at ``h - j + M - 1``.
    """
    lag = torch.arange(1 - M, N, dtype=torch.float64, device=device)
    return lag.square() / (N * M)


def _terms(prediction: Tensor, target: Tensor, alpha: float, gamma: float | Tensor, reduction: str) -> DilateTerms:
    prediction, target = check_series(prediction, target)
    omega = squared_omega(prediction.shape[1], target.shape[1], prediction.device)
    shape, temporal = sweep_series(prediction, target, check_gamma(gamma, prediction), omega)  # Eq. 2, Eq. 4
    shape, temporal = reduce(shape, reduction), reduce(temporal, reduction)
    return DilateTerms(alpha * shape + (1 - alpha) * temporal, shape, temporal)  # Eq. 1


def dilate_loss(
    outputs: Tensor,
    targets: Tensor,
    alpha: float = 0.5,
    gamma: float = 0.01,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The released code's function: DILATE (Eq. 1) and its two terms, as batch means.

    The released ``main.py`` calls it as ``dilate_loss(target, outputs, ...)``; the value and the gradients are the
    same either way, because Omega is symmetric.

    Args:
        outputs: (B, k, d) one of the two series.
        targets: (B, k, d) the other one.
        alpha: weight of the shape term, from 0 to 1.
        gamma: smoothing, in squared units of the data, > 0.
        device: ignored; the loss is computed where the series are.

    Returns:
        ``loss, loss_shape, loss_temporal``, three scalars.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    return _terms(outputs, targets, check_alpha(alpha), gamma, "mean")


class DilateLoss(nn.Module):
    """DILATE as a training criterion, ``alpha * shape + (1 - alpha) * temporal`` (Eq. 1).

    Shapes: prediction (B, N, d) or (B, N), target (B, M, d) or (B, M), float32 or float64 (half precision is
    computed in float32); the result is a scalar, or (B,) with ``reduction="none"``. The gradient is that of the
    value returned. The shape term, and so the loss, may be negative: see the README's questions and answers.

    Args:
        alpha: weight of the shape term, from 0 to 1; 0.5 in the paper, 0.8 for its Traffic data.
        gamma: smoothing, in squared units of the data, > 0; the paper uses 0.01 for series of about unit scale.
        reduction: "mean", "sum" or "none", over the batch.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series when called.
    """

    def __init__(self, alpha: float = 0.5, gamma: float = 0.01, reduction: str = "mean"):
        super().__init__()
        check_gamma(gamma)
        self.alpha, self.gamma, self.reduction = check_alpha(alpha), gamma, check_reduction(reduction)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return self.components(prediction, target).loss

    def components(self, prediction: Tensor, target: Tensor) -> DilateTerms:
        """Return the loss together with its shape and its temporal term, all reduced, from the same sweep."""
        return _terms(prediction, target, self.alpha, self.gamma, self.reduction)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"alpha={self.alpha}, gamma={self.gamma}, reduction={self.reduction!r}"
