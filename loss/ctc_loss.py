"""Connectionist temporal classification (Graves, Fernández, Gomez & Schmidhuber, ICML 2006), written out.

A network says at each time t how probable each class is, ``p_t(k)``; one class is the blank. An alignment names one
class at each t, and reads as a target once repeated classes are merged and then blanks removed. The loss is minus the
logarithm of the probability of all alignments that read as the target. With ``l``, the L labels of the target and a
blank before, between and after them, 2 L + 1 states in all, counted from 0 like the time::

    alpha_0(s) = p_0(l_s) where s < 2, else 0
    alpha_t(s) = p_t(l_s) (alpha_{t-1}(s) + alpha_{t-1}(s-1) + alpha_{t-1}(s-2) [l_s is no blank and not l_{s-2}])
    loss       = -log(alpha_{T-1}(2 L) + alpha_{T-1}(2 L - 1))

This is soft-DTW with gamma 1 on another lattice: minus the logarithm of a sum of ``exp(-cost)`` over all monotone
paths. Like Eq. 2, its derivative by the costs ``-log p_t`` is the expected alignment, here :func:`ctc_alignment`.
"""

import inspect
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .checks import check_flag, check_lengths, check_reduction, check_tensor, raise_unless, whole_numbers
from .criterion import REDUCE
from .kernels import compiled_transforms
from .kernels.ctc import sweep_ctc
from .kernels.operators import below_autograd, is_differentiated, is_exported, is_recorded

WholeNumbers = Tensor | Sequence[int]


def ctc_loss_of_one_sequence(probabilities: Tensor, target: Iterable[int], blank: int = 0) -> Tensor:
    """CTC of one sequence as the equations say it, in probabilities: readable, for short sequences.

    Alpha shrinks with each step and is zero, and the loss infinite, after some hundred: :func:`ctc_loss` is for use.

    Args:
        probabilities: (C, T), p_t(k) in row k and column t; columns sum to one.
        target: L labels.
        blank: the class of the blank.

    Returns:
        -log p(target), a scalar; divided by L it is what ``reduction="mean"`` gives for a batch of one.
    """
    extended = [blank]
    for label in target:
        extended += [int(label), blank]
    states, device = range(len(extended)), probabilities.device
    may_begin = torch.tensor([s < 2 for s in states], device=device)
    may_skip = torch.tensor([s >= 2 and extended[s] not in (blank, extended[s - 2]) for s in states], device=device)
    p = probabilities[extended]  # (2 L + 1, T)
    alpha = p[:, 0] * may_begin
    for t in range(1, p.shape[1]):
        step, skip = (nn.functional.pad(alpha, (states_on, 0))[:-states_on] for states_on in (1, 2))
        alpha = p[:, t] * (alpha + step + skip * may_skip)
    return -alpha[-2:].sum().log()


class Labelling(NamedTuple):
    """Targets, and how much of inputs and targets counts."""

    targets: Tensor  # (B, S) padded or (sum of m,) concatenated, int64
    n: Tensor  # (B,) int64, input lengths
    m: Tensor  # (B,) int64, target lengths
    blank: int

    def spans(self) -> Tensor:
        """(3, B): input lengths, where each target begins in the flattened targets, and target lengths."""
        if self.targets.dim() == 1:
            return torch.stack([self.n, self.m.cumsum(0) - self.m, self.m])
        B, S = self.targets.shape
        m = torch.where(self.m <= S, self.m, -1)  # or a recorded graph would read on into the next target
        return torch.stack([self.n, torch.arange(B, device=m.device) * S, m])

    def states(self) -> int:
        """How many states the widest lattice has."""
        return 2 * (self.targets.shape[1] if self.targets.dim() == 2 else int(self.m.max())) + 1


def _check_blank(blank: int, classes: float = math.inf) -> int:
    if isinstance(blank, bool) or not isinstance(blank, numbers.Integral):
        raise TypeError(f"blank must be a class, a whole number, but it is {blank!r}.")
    if not 0 <= blank < classes:
        allowed = "of at least 0" if classes == math.inf else f"from 0 to {classes - 1}"
        raise ValueError(f"blank must be a class {allowed}, but it is {blank}.")
    return int(blank)


def _check_labels(targets: Tensor, m: Tensor, blank: int, classes: int) -> None:
    """Demand that every label that counts is a class, and not the blank."""
    wrong = (targets < 0) | (targets >= classes) | (targets == blank)
    if targets.dim() == 2:
        wrong &= torch.arange(targets.shape[1], device=m.device) < m.unsqueeze(1)

    def error() -> ValueError:
        return ValueError(f"targets must be classes from 0 to {classes - 1} other than the blank, {blank}, but "
                          f"{targets[wrong][0].item()} is among them.")  # fmt: skip

    raise_unless(~wrong, error, f"targets must be classes from 0 to {classes - 1} other than the blank, {blank}.")


def _check_targets(targets: WholeNumbers, B: int, device: torch.device) -> Tensor:
    targets = whole_numbers("targets", targets).to(device=device, dtype=torch.int64)
    if targets.dim() not in (1, 2) or (targets.dim() == 2 and len(targets) != B):
        raise ValueError(f"targets must have shape ({B}, S), padded, or (sum of target_lengths,), concatenated, but "
                         f"their shape is {tuple(targets.shape)}.")  # fmt: skip
    return targets


def _check_sum(m: Tensor, targets: Tensor) -> None:
    def error() -> ValueError:
        return ValueError(f"target_lengths must sum to the length of concatenated targets, {len(targets)}, but they "
                          f"sum to {m.sum().item()}.")  # fmt: skip

    raise_unless(m.sum() == len(targets), error, "target_lengths must sum to the length of concatenated targets.")


def _check(
    log_probs: Tensor, targets: WholeNumbers, input_lengths: WholeNumbers, target_lengths: WholeNumbers, blank: int
) -> tuple[Tensor, Labelling, bool]:
    """Return log_probs (T, B, C), the labelling on its device, and whether the user gave a batch."""
    log_probs = check_tensor("log_probs", log_probs, "(T, batch, classes) or (T, classes)", (2, 3))
    batched = log_probs.dim() == 3
    log_probs = log_probs if batched else log_probs.unsqueeze(1)
    T, B, C = log_probs.shape
    blank, targets = _check_blank(blank, C), _check_targets(targets, B, log_probs.device)

    def lengths(name: str, given: WholeNumbers, longest: int) -> Tensor:
        given = whole_numbers(name, given)
        given = given if batched or given.dim() else given.unsqueeze(0)
        return check_lengths(name, given, B, longest, log_probs.device, shortest=0)

    n = lengths("input_lengths", input_lengths, T)
    m = lengths("target_lengths", target_lengths, targets.shape[-1])
    if targets.dim() == 1:
        _check_sum(m, targets)
    _check_labels(targets, m, blank, C)
    return log_probs, Labelling(targets, n, m, blank), batched


class CTC(torch.autograd.Function):
    """-log p(target) of each sequence. The forward pass makes the derivative as well, the backward pass scales it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_probs, targets, spans, blank, zero_infinity, want_gradient):
        """(T, B, C) -> (B,), and the derivative (T, B, C)."""
        with below_autograd():
            return sweep_ctc(log_probs, targets, spans, blank, zero_infinity, want_gradient, 0)[:2]

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the derivative."""
        ctx.save_for_backward(inputs[0], output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, _):
        """``d loss / d log p_t(k)`` is minus the posterior of class k at t."""
        if grad is None:
            return (None,) * 6
        log_probs, derivative = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            derivative = CTCDerivative.apply(derivative, log_probs)
        return grad.unsqueeze(1) * derivative, *(None,) * 5


# apply() asks for it at every call, and making it anew costs a tenth of a millisecond
CTC.forward.__signature__ = inspect.signature(CTC.forward)


class CTCDerivative(torch.autograd.Function):
    """The derivative of CTC, or the alignment it is made of: passed on, and not to be differentiated in its turn."""

    generate_vmap_rule = True

    @staticmethod
    def forward(derivative, log_probs):
        """Pass it on."""
        return derivative.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, grad):
        """Refuse."""
        raise NotImplementedError(
            "CTC can be differentiated once only, and its alignment not at all: ctc_loss_of_one_sequence can be "
            "differentiated any number of times."
        )


def ctc_loss(
    log_probs: Tensor,
    targets: WholeNumbers,
    input_lengths: WholeNumbers,
    target_lengths: WholeNumbers,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Connectionist temporal classification, with the arguments of ``torch.nn.functional.ctc_loss``.

    The gradient by ``log_probs`` is that of the value: minus the posterior of each class at each time. PyTorch's own
    is ``exp(log_probs)`` more, the gradient by the logits of the log_softmax that must come before. Behind one, both
    are the same: its backward subtracts ``exp(log_probs)`` times the sum over the classes, which is -1 for ours and 0
    for PyTorch's. By ``log_probs`` themselves, ours is the true one.

    On the CPU this runs in our own kernels, on any other device (CUDA) it is PyTorch's ctc_loss, with its gradient.

    Args:
        log_probs: (T, B, C), or (T, C) for one sequence: logarithms of probabilities, float32 or float64 (half
            precision is computed in float32).
        targets: labels, whole numbers from 0 to C - 1 other than the blank: (B, S) padded, where what lies beyond a
            target's length has no influence, or (sum of target_lengths,), one after the other.
        input_lengths: (B,) true lengths of the inputs, from 0 to T, a tensor or a sequence; a single number may stand
            for one sequence without a batch. What lies beyond has no influence.
        target_lengths: (B,) true lengths of the targets, likewise; 0 for an empty target.
        blank: the class of the blank.
        reduction: "none" for (B,) losses, "sum", or "mean": each loss is divided by its target's length, that of an
            empty target by 1, before the mean over the batch is taken.
        zero_infinity: where a target has no alignment, because the input is too short or a probability is zero, the
            loss and its gradient are 0. By default the loss is infinite there, and the gradient NaN.

    Returns:
        A scalar, or (B,) with ``reduction="none"`` and a batch.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    check_reduction(reduction)
    check_flag("zero_infinity", zero_infinity)
    log_probs, labelling, batched = _check(log_probs, targets, input_lengths, target_lengths, blank)
    targets, n, m, blank = labelling
    if compiled_transforms():
        raise NotImplementedError(
            "CTC cannot be differentiated by torch.func inside of torch.compile: call torch.func outside of it, or "
            "ctc_loss_of_one_sequence, which can."
        )
    if log_probs.device.type == "cpu":
        # What is recorded may be called with log_probs that require grad.
        want_gradient = is_differentiated(log_probs) or is_recorded()
        arguments = log_probs, targets.flatten(), labelling.spans(), blank, zero_infinity, want_gradient
        # Where it is recorded, the operator itself, whose gradient goes with it.
        values = sweep_ctc(*arguments, 0)[0] if is_recorded() else CTC.apply(*arguments)[0]
    else:
        values = nn.functional.ctc_loss(log_probs, targets, n, m, blank, "none", zero_infinity)
    if reduction == "mean":
        values = values / m.clamp(min=1)
    return REDUCE[reduction](values if batched else values.squeeze(0))


def ctc_alignment(
    log_probs: Tensor,
    targets: WholeNumbers,
    input_lengths: WholeNumbers,
    target_lengths: WholeNumbers,
    blank: int = 0,
) -> Tensor:
    """The posterior over the lattice: how likely an alignment of the target is in each state at each time.

    It is to CTC what A*_gamma (:func:`loss.soft_path`) is to soft-DTW. State 0 is the blank before the first label,
    state 2 k + 1 the k-th label, and state 2 k + 2 the blank behind it. Summed over the states of a class it is minus
    the derivative of the loss by that class's log_probs. It can be computed wherever log_probs are, on the CPU, and
    cannot be differentiated.

    Args:
        log_probs: (T, B, C) or (T, C), as for :func:`ctc_loss`.
        targets: (B, S) or (sum of target_lengths,).
        input_lengths: (B,).
        target_lengths: (B,).
        blank: the class of the blank.

    Returns:
        (B, T, 2 S + 1), or (T, 2 S + 1) without a batch, where S is the longest target if they are concatenated. Each
        row within the input's length sums to one; what lies beyond the lengths is zero. The posterior of a target
        that has no alignment is NaN.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    log_probs, labelling, batched = _check(log_probs, targets, input_lengths, target_lengths, blank)
    # A recording may leave out the Function's backward, so there the operator's refuses. torch.compile runs that one
    # while it records, and would refuse those who want no gradient, too.
    recorded = is_recorded() and (is_exported() or not torch.compiler.is_compiling())
    followed = log_probs if recorded else log_probs.detach()
    tensors = (t.cpu() for t in (followed, labelling.targets.flatten(), labelling.spans()))
    posterior = sweep_ctc(*tensors, labelling.blank, False, False, labelling.states())[2].to(log_probs.device)
    posterior = posterior if recorded else CTCDerivative.apply(posterior, log_probs)
    return posterior if batched else posterior.squeeze(0)


class CTCLoss(nn.Module):
    """Connectionist temporal classification as a training criterion, with the arguments of ``torch.nn.CTCLoss``.

    See :func:`ctc_loss`.

    Args:
        blank: the class of the blank.
        reduction: "mean", "sum" or "none".
        zero_infinity: give 0, and the gradient 0, where a target has no alignment.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad tensors or lengths when called.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False):
        super().__init__()
        self.blank, self.reduction = _check_blank(blank), check_reduction(reduction)
        self.zero_infinity = check_flag("zero_infinity", zero_infinity)

    def forward(
        self, log_probs: Tensor, targets: WholeNumbers, input_lengths: WholeNumbers, target_lengths: WholeNumbers
    ) -> Tensor:
        """Return the reduced loss.

        Args:
            log_probs: (T, B, C) or (T, C), behind a log_softmax.
            targets: (B, S) padded, or (sum of target_lengths,) concatenated.
            input_lengths: (B,).
            target_lengths: (B,).
        """
        lengths = input_lengths, target_lengths
        return ctc_loss(log_probs, targets, *lengths, self.blank, self.reduction, self.zero_infinity)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"blank={self.blank}, reduction={self.reduction!r}, zero_infinity={self.zero_infinity}"
