"""What the losses of this package share: their settings, and the way from series to reduced terms."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from . import kernels  # torch 2.5's compiler puts a constant in the place of an imported function
from .checks import INFEASIBLE, check_alpha, check_band, check_flag, check_new_gamma, check_reduction, check_word
from .costs import Cost, check_cost, costs_of
from .kernels.reference import widened
from .pairs import Lengths, Pairs, check_pairs, with_paths

_CHECKS = {
    "alpha": check_alpha,
    "gamma": check_new_gamma,
    "reduction": check_reduction,
    "band": check_band,
    "per_channel": partial(check_flag, "per_channel"),
    "divergence": partial(check_flag, "divergence"),
    "cost": check_cost,
    "infeasible": partial(check_word, "infeasible", words=INFEASIBLE),
}
_MAY_BE_TENSORS = ("gamma", "omega")
HIDDEN_IN_REPR = ("None", "False", "'squared'", "'raise'")  # settings that a printed loss does not mention


REDUCE = {"mean": Tensor.mean, "sum": Tensor.sum, "none": lambda values: values}  # over the batch (B,)


def _wide(tensor: Tensor) -> Tensor:
    """In float64, where the device surely has it."""
    return tensor.double() if kernels.has_kernels(tensor.device) else widened(tensor)


class AlignmentLoss(nn.Module):
    """A loss over all alignments of two series; a subclass says which.

    gamma is a number or a tensor with one number: a parameter is seen by optimizers, any other tensor becomes a
    buffer, and both may require grad (the derivative is minus the entropy of the alignments). Nothing keeps a learned
    gamma above zero: once it is not, the loss is NaN. Learn its logarithm instead:
    ``torch.nn.utils.parametrize.register_parametrization(criterion, "gamma", Exp())`` with a module ``Exp`` whose
    ``forward(x)`` returns ``x.exp()`` and whose ``right_inverse(x)`` returns ``x.log()``.

    Every setting may be changed between calls, and is checked then as in the constructor. To anneal gamma, set
    ``criterion.gamma = 0.05``; torch puts no number in the place of a parameter before ``del criterion.gamma``, and
    in that of a parametrization a tensor only. A compiled loss needs a tensor for that,
    ``DilateLoss(gamma=torch.tensor(0.1))``, that is filled in place, ``criterion.gamma.fill_(0.05)``:
    ``torch.compile`` compiles anew for each number, and with ``fullgraph=True`` gives up at the ninth.

    ``infeasible`` says what becomes of a pair whose lengths differ by more than the band, so that no path is left:
    with "raise" the batch is refused; with "inf" or "zero" that is the value of this pair and of its terms, the
    gradient by its series is 0, and "mean" counts it among the pairs of the batch.
    """

    def __init__(
        self,
        gamma: float | Tensor,
        reduction: str,
        band: int | None,
        per_channel: bool,
        divergence: bool,
        cost: Cost = "squared",
        infeasible: str = "raise",
    ):
        super().__init__()
        self.gamma, self.reduction, self.band = gamma, reduction, band
        self.per_channel, self.divergence, self.cost, self.infeasible = per_channel, divergence, cost, infeasible

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute; a setting is checked, and a tensor becomes a buffer, which is saved and moved along."""
        if name in _CHECKS:
            value = _CHECKS[name](value)
        elif name == "omega":
            value = self._check_omega(value)
        if name == "cost":  # a module, whose parameters then are this loss's, may be followed by what is none
            self._modules.pop(name, None)
            self.__dict__.pop(name, None)
        # A property in place of the attribute is a parametrization, which stores the value itself.
        if name in _MAY_BE_TENSORS and not isinstance(getattr(type(self), name, None), property):
            self._buffers.pop(name, None)
            self.__dict__.pop(name, None)
            if isinstance(value, Tensor) and name not in self._parameters and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
                return
        super().__setattr__(name, value)

    def _check_omega(self, omega: object) -> object:
        """Return Omega as a user gives it."""
        return omega

    def _other_costs(self, pairs: Pairs) -> Tensor:
        """Delta other than the squared distance, (B, N, M)."""
        D = costs_of(self.cost, pairs)
        return _wide(D) if self.divergence else D

    def _terms(self, pairs: Pairs) -> tuple[Tensor, ...]:
        """The loss of each pair, (B,), and what it is made of, if it has parts."""
        raise NotImplementedError

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        prediction_lengths: Lengths = None,
        target_lengths: Lengths = None,
        *,
        all_terms: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the reduced loss.

        Args:
            prediction: (B, N, d) or (B, N).
            target: (B, M, d) or (B, M).
            prediction_lengths: (B,) true lengths, a sequence or a tensor; the padding beyond has no influence, and
                a named Omega is divided by the true lengths. Lengths on a GPU make the host wait: keep them off it.
            target_lengths: the same for the target.
            all_terms: return the terms that the loss is made of, too.
        """
        lenient = self.infeasible != "raise" and self.band is not None
        pairs = check_pairs(prediction, target, prediction_lengths, target_lengths, None if lenient else self.band)
        pairs, pathless = with_paths(pairs, self.band) if lenient else (pairs, None)
        d = pairs.x.shape[2]
        apart = self.per_channel and d > 1
        parts = pairs.by_variable() if apart else pairs
        terms = self._debiased(parts) if self.divergence else self._terms(parts)
        terms = tuple(term.to(pairs.x.dtype) for term in terms)
        if apart:
            terms = tuple(term.reshape(-1, d).mean(1) for term in terms)
        if pathless is not None:
            value = math.inf if self.infeasible == "inf" else 0.0
            terms = tuple(torch.where(pathless, value, term) for term in terms)
        reduce = REDUCE[self.reduction]
        return tuple(map(reduce, terms)) if all_terms else reduce(terms[0])

    def _debiased(self, pairs: Pairs) -> tuple[Tensor, ...]:
        """The soft-DTW divergence (Blondel, Mensch & Vert, AISTATS 2021) of each term.

        Soft-DTW of a series with itself is not zero but about ``-gamma`` times the logarithm of how many alignments
        are as good as the straight one. The divergence subtracts that share::

            D(x, y) = S(x, y) - S(x, x) / 2 - S(y, y) / 2

        What holds. ``D(x, x) = 0``, by construction, and ``x = y`` is a stationary point, because S is symmetric.
        ``D >= 0`` follows (Cauchy-Schwarz) where the alignment kernel ``exp(-S / gamma)`` is positive definite, and D
        tends to the hard DTW, which is not negative, as gamma goes to 0. With the squared Euclidean cost, however,
        that kernel is not positive definite: series of a few steps that differ by less than ``sqrt(gamma)`` can have
        a D slightly below zero (-0.008 for the six steps in tests/loss/test_variants.py, at gamma 1). Where a loss
        must not be negative, take ``max(0, D)``, which is what DilateLoss does.

        Near the target the three terms have the digits of a float32 in common, so they are made in float64, where
        the device has kernels; costs of a function are as it returns them.
        """
        if self.cost == "squared":
            pairs = Pairs(_wide(pairs.x), _wide(pairs.y), pairs.lattice)
        of_both, of_x, of_y = map(self._terms, (pairs, pairs.of_predictions(), pairs.of_targets()))
        return tuple(xy - (xx + yy) / 2 for xy, xx, yy in zip(of_both, of_x, of_y, strict=True))

    def extra_repr(self) -> str:
        """Show the settings, those that are switched off left out."""
        names = ("alpha", "gamma", "reduction", "omega", "band", "per_channel", "cost", "divergence", "infeasible")
        shown = {name: self._shown(name) for name in names if hasattr(self, name)}
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value not in HIDDEN_IN_REPR)

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            return getattr(value, "__name__", type(value).__name__) if callable(value) else repr(value)
        kind = "Parameter" if isinstance(value, nn.Parameter) else "tensor"
        return f"{kind}{tuple(value.shape)}" if value.numel() > 1 or value.is_meta else f"{kind}({value.item():.6g})"
