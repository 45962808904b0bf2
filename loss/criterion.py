"""What the losses of this package share: their settings, and the way from series to reduced terms."""

from functools import partial

from torch import Tensor, nn

from .checks import check_alpha, check_band, check_flag, check_new_gamma, check_reduction
from .divergence import debiased
from .pairs import Lengths, Pairs, check_pairs
from .series import sweep_series, takes_weights

_CHECKS = {
    "alpha": check_alpha,
    "gamma": check_new_gamma,
    "reduction": check_reduction,
    "band": check_band,
    "per_channel": partial(check_flag, "per_channel"),
    "divergence": partial(check_flag, "divergence"),
}
_MAY_BE_TENSORS = ("gamma", "omega")
_UNSAID = ("None", "False", "'squared'")  # settings that a printed loss does not mention


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Mean, sum or nothing over the batch (B,)."""
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values


class AlignmentLoss(nn.Module):
    """A loss over all alignments of two series; a subclass says which, and how much each of its terms counts.

    gamma is a number or a tensor with one number: a parameter is seen by optimizers, any other tensor becomes a
    buffer, and both may require grad (the derivative is minus the entropy of the alignments). Nothing keeps a learned
    gamma above zero: once it is not, the loss is NaN. Learn its logarithm instead:
    ``torch.nn.utils.parametrize.register_parametrization(criterion, "gamma", Exp())`` with a module ``Exp`` whose
    ``forward(x)`` returns ``x.exp()`` and whose ``right_inverse(x)`` returns ``x.log()``.

    Every setting may be changed between calls, and is checked then as in the constructor. To anneal gamma, set
    ``criterion.gamma = 0.05``. A compiled loss needs a tensor for that, ``DilateLoss(gamma=torch.tensor(0.1))``, that
    is filled in place, ``criterion.gamma.fill_(0.05)``: ``torch.compile`` compiles anew for each number, and with
    ``fullgraph=True`` gives up at the ninth.
    """

    def __init__(self, gamma: float | Tensor, reduction: str, band: int | None, per_channel: bool, divergence: bool):
        super().__init__()
        self.gamma, self.reduction, self.band = gamma, reduction, band
        self.per_channel, self.divergence = per_channel, divergence

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute; a setting is checked, and a tensor becomes a buffer, which is saved and moved along."""
        if name in _CHECKS:
            value = _CHECKS[name](value)
        elif name == "omega":
            value = self._check_omega(value)
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

    def _weights(self) -> tuple[float, ...]:
        """How much each term of the sweep counts in the loss."""
        return (1.0,)

    def _arguments(self, pairs: Pairs) -> tuple[object, ...]:
        """What :func:`loss.series.sweep_series` takes after the pairs."""
        raise NotImplementedError

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        prediction_lengths: Lengths = None,
        target_lengths: Lengths = None,
    ) -> Tensor:
        """Return the reduced loss.

        Args:
            prediction: (B, N, d) or (B, N).
            target: (B, M, d) or (B, M).
            prediction_lengths: (B,) true lengths, a sequence or a tensor; the padding beyond has no influence, and
                a named Omega is divided by the true lengths. Lengths on a GPU make the host wait: keep them off it.
            target_lengths: the same for the target.
        """
        pairs = check_pairs(prediction, target, prediction_lengths, target_lengths, self.band)
        if self.reduction != "none" and not self.divergence:
            parts = self._by_variable(pairs)
            arguments = self._arguments(parts)
            if takes_weights(parts, *arguments[1:2]):
                return self._reduced(pairs, parts, arguments)
        return reduce(self._weighted(self._per_pair(pairs)), self.reduction)

    def _by_variable(self, pairs: Pairs) -> Pairs:
        return pairs.by_variable() if self.per_channel and pairs.x.shape[2] > 1 else pairs

    def _reduced(self, pairs: Pairs, parts: Pairs, arguments: tuple[object, ...]) -> Tensor:
        """The reduced loss by a sweep that weights its terms itself."""
        of_mean = parts.x.shape[0] if self.reduction == "mean" else parts.x.shape[0] // pairs.x.shape[0]
        shape, temporal = (*self._weights(), 0.0)[:2]
        return sweep_series(parts, *arguments, weights=(shape / of_mean, temporal / of_mean))[0]

    def _per_pair(self, pairs: Pairs) -> tuple[Tensor, ...]:
        """The terms of each pair, each (B,)."""
        parts, d = self._by_variable(pairs), pairs.x.shape[2]
        terms = self._debiased(parts) if self.divergence else self._sweep(parts)
        return terms if parts.x.shape[2] == d else tuple(term.reshape(-1, d).mean(1) for term in terms)

    def _debiased(self, pairs: Pairs) -> tuple[Tensor, ...]:
        return debiased(self._sweep, pairs)

    def _sweep(self, pairs: Pairs) -> tuple[Tensor, ...]:
        return sweep_series(pairs, *self._arguments(pairs))[: len(self._weights())]

    def _weighted(self, terms: tuple[Tensor, ...]) -> Tensor:
        weighted = [weight * term for weight, term in zip(self._weights(), terms, strict=True)]
        return weighted[0] if len(weighted) == 1 else weighted[0] + weighted[1]

    def extra_repr(self) -> str:
        """Show the settings, those that are switched off left out."""
        names = ("alpha", "gamma", "reduction", "omega", "band", "per_channel", "divergence")
        shown = {name: self._shown(name) for name in names if hasattr(self, name)}
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value not in _UNSAID)

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            return repr(value)
        kind = "Parameter" if isinstance(value, nn.Parameter) else "tensor"
        return f"{kind}{tuple(value.shape)}" if value.numel() > 1 or value.is_meta else f"{kind}({value.item():.6g})"
