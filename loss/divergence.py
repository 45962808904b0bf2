"""The soft-DTW divergence (Blondel, Mensch & Vert, "Differentiable divergences between time series", AISTATS 2021).

Soft-DTW of a series with itself is not zero but about ``-gamma`` times the logarithm of how many alignments are as
good as the straight one. The divergence subtracts that share::

    D(x, y) = S(x, y) - S(x, x) / 2 - S(y, y) / 2

What holds. ``D(x, x) = 0``, by construction, and ``x = y`` is a stationary point, because S is symmetric. ``D >= 0``
follows (Cauchy-Schwarz) where the alignment kernel ``exp(-S / gamma)`` is positive definite, and D tends to the hard
DTW, which is not negative, as gamma goes to 0. With the squared Euclidean cost, however, that kernel is not positive
definite: series of a few steps that differ by less than ``sqrt(gamma)`` can have a D slightly below zero (-0.008 for
the six steps in tests/loss/test_variants.py, at gamma 1). Where a loss must not be negative, take ``max(0, D)``,
which is what DilateLoss does.
"""

from collections.abc import Callable

from torch import Tensor

from .pairs import Pairs


def debiased(terms: Callable[[Pairs], tuple[Tensor, ...]], pairs: Pairs) -> tuple[Tensor, ...]:
    """Each term of the pairs less half of what it is for the prediction with itself and the target with itself.

    Args:
        terms: maps pairs to their terms, each (B,); it is called three times.
        pairs: predictions and targets.

    Returns:
        The terms' divergences, each (B,).
    """
    of_both, of_x, of_y = terms(pairs), terms(pairs.of_predictions()), terms(pairs.of_targets())
    return tuple(xy - (xx + yy) / 2 for xy, xx, yy in zip(of_both, of_x, of_y, strict=True))
