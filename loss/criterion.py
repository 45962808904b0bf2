"""What the losses of this package share: their settings, and the way from series to reduced terms."""

from torch import Tensor, nn

from .checks import check_band, check_flag, check_new_gamma, check_reduction
from .divergence import debiased
from .pairs import Lengths, Pairs, check_pairs

_UNSAID = ("None", "False", "'squared'")  # settings that a printed loss does not mention


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Mean, sum or nothing over the batch (B,)."""
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values


def keep(module: nn.Module, name: str, value: object) -> None:
    """Set an attribute; a tensor that is no parameter becomes a buffer, so that it is saved and moved along."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


class AlignmentLoss(nn.Module):
    """A loss over all alignments of two series; a subclass says in :meth:`_sweep` which.

    gamma is a number, which may be changed between calls to anneal it, or a tensor with one number: a parameter is
    seen by optimizers, any other tensor becomes a buffer, and both may require grad (the derivative is minus the
    entropy of the alignments). Nothing keeps a learned gamma above zero: once it is not, the loss is NaN. Learn its
    logarithm instead: ``torch.nn.utils.parametrize.register_parametrization(criterion, "gamma", Exp())`` with a
    module ``Exp`` whose ``forward(x)`` returns ``x.exp()`` and whose ``right_inverse(x)`` returns ``x.log()``.
    """

    def __init__(self, gamma: float | Tensor, reduction: str, band: int | None, per_channel: bool, divergence: bool):
        super().__init__()
        keep(self, "gamma", check_new_gamma(gamma))
        self.reduction, self.band = check_reduction(reduction), check_band(band)
        self.per_channel, self.divergence = (
            check_flag("per_channel", per_channel),
            check_flag("divergence", divergence),
        )

    def _sweep(self, pairs: Pairs) -> tuple[Tensor, ...]:
        """The terms of each pair, each (B,)."""
        raise NotImplementedError

    def _terms(self, pairs: Pairs) -> tuple[Tensor, ...]:
        """The terms that are reported, each (B,)."""
        return debiased(self._sweep, pairs) if self.divergence else self._sweep(pairs)

    def _evaluate(
        self, prediction: Tensor, target: Tensor, prediction_lengths: Lengths, target_lengths: Lengths
    ) -> tuple[Tensor, ...]:
        """Check what the user gives and return the terms of each pair, each (B,)."""
        pairs = check_pairs(prediction, target, prediction_lengths, target_lengths, self.band)
        d = pairs.x.shape[2]
        if self.per_channel and d > 1:
            return tuple(term.reshape(-1, d).mean(1) for term in self._terms(pairs.by_variable()))
        return self._terms(pairs)

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
