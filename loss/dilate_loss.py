"""DILATE, a shape and time distortion loss (Le Guen & Thome, NeurIPS 2019).

The page to read beside the paper::

    Omega(h, j)   = (h - j)**2 / k**2                                   time distortion      loss.omega
    L_shape       = DTW_gamma(Delta)                                    Eq. 2                loss.soft_dtw
    L_temporal    = <A*_gamma, Omega>                                   Eq. 4                loss.path_soft_dtw
    L_DILATE      = alpha * L_shape + (1 - alpha) * L_temporal          Eq. 1                DilateLoss
    L_DILATE^t    = DTW_gamma(alpha * Delta + (1 - alpha) * Omega)      Eq. 5                TangledDilateLoss

Both terms come out of one sweep over each pair of series (:mod:`loss.series`), so that the code of Eq. 2 and Eq. 4
for given cost matrices, :func:`soft_dtw` and :func:`soft_path`, is not called here.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_alpha, check_gamma
from .criterion import AlignmentLoss, reduce
from .omega import Omega, check_omega, penalty
from .pairs import Lengths, Pairs, check_pairs
from .series import sweep_series


class DilateTerms(NamedTuple):
    """DILATE and the two terms it is made of."""

    loss: Tensor
    shape: Tensor
    temporal: Tensor


def dilate_loss(
    outputs: Tensor,
    targets: Tensor,
    alpha: float = 0.5,
    gamma: float | Tensor = 0.01,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The released code's function: DILATE (Eq. 1) and its two terms, as batch means.

    The released ``main.py`` calls it as ``dilate_loss(target, outputs, ...)``; the value and the gradients are the
    same either way, because Omega is symmetric here. For another Omega use :class:`DilateLoss`, which takes the
    prediction first.

    Args:
        outputs: (B, k, d) one of the two series.
        targets: (B, k, d) the other one.
        alpha: weight of the shape term, from 0 to 1.
        gamma: smoothing, in squared units of the data, > 0; a 0-d tensor may require grad.
        device: ignored; the loss is computed where the series are.

    Returns:
        ``loss, loss_shape, loss_temporal``, three scalars.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    alpha, pairs = check_alpha(alpha), check_pairs(outputs, targets)
    shape, temporal = sweep_series(pairs, check_gamma(gamma, outputs), penalty("squared", pairs))  # Eq. 2, Eq. 4
    loss = alpha * shape + (1 - alpha) * temporal  # Eq. 1
    return loss.mean(), shape.mean(), temporal.mean()


class DilateLoss(AlignmentLoss):
    """DILATE as a training criterion, ``alpha * shape + (1 - alpha) * temporal`` (Eq. 1).

    Shapes: prediction (B, N, d) or (B, N), target (B, M, d) or (B, M), float32 or float64 (half precision is
    computed in float32); the result is a scalar, or (B,) with ``reduction="none"``. The gradient is that of the
    value returned. The shape term, and so the loss, may be negative: see ``divergence`` and the README's questions
    and answers.

    Args:
        alpha: weight of the shape term, from 0 to 1; 0.5 in the paper, 0.8 for its Traffic data.
        gamma: smoothing, in squared units of the data, > 0; the paper uses 0.01 for series of about unit scale. A
            tensor or a parameter with one number may require grad: see :class:`loss.criterion.AlignmentLoss`.
        reduction: "mean", "sum" or "none", over the batch.
        omega: what time distortion costs: "squared" (the paper), "absolute", an :class:`AsymmetricOmega`, or an
            (N, M) tensor, entry (h, j) for step h of the prediction and step j of the target. A tensor is a buffer,
            a parameter is learned (its gradient is ``(1 - alpha) A*_gamma``); neither is divided by anything.
        band: Sakoe-Chiba band: step h is aligned with step j only where ``|h - j| <= band``; None for no band.
        per_channel: align each variable on its own and take the mean over the variables. By default all variables
            are aligned together, by the squared Euclidean distance of their vectors.
        divergence: make the loss zero where prediction equals target, and nowhere negative. With
            ``D[f] = f(x, y) - (f(x, x) + f(y, y)) / 2`` the shape term is ``max(0, D[Eq. 2])``, the soft-DTW
            divergence (:mod:`loss.divergence` tells why it needs the maximum), and the temporal term
            ``max(0, D[Eq. 4])``, time distortion beyond what smoothing alone does to either series. Proof: both
            maxima are at least 0, and D is 0 for ``x = y``. The reverse fails: within about ``sqrt(gamma)`` of its
            target a prediction may have loss 0 too. It costs three sweeps instead of one.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series or lengths when called.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float | Tensor = 0.01,
        reduction: str = "mean",
        *,
        omega: Omega = "squared",
        band: int | None = None,
        per_channel: bool = False,
        divergence: bool = False,
    ):
        super().__init__(gamma, reduction, band, per_channel, divergence)
        self.alpha, self.omega = alpha, omega

    def _check_omega(self, omega: Omega) -> Omega:
        return check_omega(omega, self.divergence)

    def _weights(self) -> tuple[float, float]:
        return self.alpha, 1 - self.alpha  # Eq. 1

    def _arguments(self, pairs: Pairs) -> tuple[object, ...]:
        return check_gamma(self.gamma, pairs.x), penalty(self.omega, pairs)  # Eq. 2, Eq. 4

    def _debiased(self, pairs: Pairs) -> tuple[Tensor, ...]:
        return tuple(term.relu() for term in super()._debiased(pairs))

    def components(
        self,
        prediction: Tensor,
        target: Tensor,
        prediction_lengths: Lengths = None,
        target_lengths: Lengths = None,
    ) -> DilateTerms:
        """Return the loss with its shape and its temporal term, all reduced; the arguments are those of a call."""
        pairs = check_pairs(prediction, target, prediction_lengths, target_lengths, self.band)
        shape, temporal = self._per_pair(pairs)
        terms = self._weighted((shape, temporal)), shape, temporal
        return DilateTerms(*(reduce(term, self.reduction) for term in terms))


class TangledDilateLoss(AlignmentLoss):
    """DILATE^t, soft-DTW of the cost ``alpha * Delta + (1 - alpha) * Omega`` (Eq. 5).

    The paper's two versions: *weighted* (DILATE^t-W), with an Omega that grows with ``|h - j|``, and *band*
    (DILATE^t-BC), ``TangledDilateLoss(omega=None, band=T)``: Omega is 0 where ``|h - j| <= T``, else infinite. Both
    at once are possible. Shapes and the sign of the value are as for :class:`SoftDTWLoss`.

    Args:
        alpha: weight of Delta in the cost, from 0 to 1; what the paper used is not said there.
        gamma: as for :class:`DilateLoss`.
        reduction: "mean", "sum" or "none", over the batch.
        omega: as for :class:`DilateLoss`, or None for the band alone. A parameter is learned here too.
        band: Sakoe-Chiba band, T in the paper.
        per_channel: align each variable on its own and take the mean over the variables.
        divergence: subtract half of the loss of each series with itself (:mod:`loss.divergence`), so that it is zero
            where prediction equals target. With ``omega="squared"`` this is the soft-DTW divergence of series that
            carry the scaled time as one more variable, since the cost is their squared distance. It may be slightly
            negative, as all soft-DTW divergences of that cost.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series or lengths when called.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float | Tensor = 0.01,
        reduction: str = "mean",
        *,
        omega: Omega | None = "squared",
        band: int | None = None,
        per_channel: bool = False,
        divergence: bool = False,
    ):
        super().__init__(gamma, reduction, band, per_channel, divergence)
        if omega is None and band is None:
            raise ValueError("omega may be None only beside a band, but band is None too: see SoftDTWLoss.")
        self.alpha, self.omega = alpha, omega

    def _check_omega(self, omega: Omega | None) -> Omega | None:
        return None if omega is None else check_omega(omega, self.divergence)

    def _arguments(self, pairs: Pairs) -> tuple[object, ...]:
        omega = None if self.omega is None else penalty(self.omega, pairs)
        return check_gamma(self.gamma, pairs.x), omega, self.alpha  # Eq. 5
