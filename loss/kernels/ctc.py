"""The sweeps of CTC on the CPU: numba, vectorised over the states of a sequence, the batch divided among threads.

An alignment is, at each time t, in one of 2 L + 1 states s: the L labels of the target, with a blank before, between
and after them. It stays, steps to the next state, or skips the blank between two labels that differ. With the cost
``-log2 p_t(label of s)`` this is soft-DTW on another lattice, where all three predecessors of a cell lie in the row
before:

=====  ===================================================================================================
``V``  ``-log2 alpha``; alpha is the probability of all ways to be in state s after time t
``q``  the shares of the three predecessors in alpha: stay, step and skip
``E``  ``alpha beta / p(target)``: the probability that an alignment of the target is in state s at time t
=====  ===================================================================================================

alpha and beta are those of Graves et al. (2006), section 4.1. The backward sweep carries E in place of beta: with the
shares of the forward sweep at hand it takes no exponential, its rows sum to one, and no large logarithms cancel. V
and E are float64 whatever the input is, the shares have its precision.

Why logarithms: scaled probabilities would be faster still, but where a network is sure of blanks, the alignments that
count in the end may for hundreds of steps be 1e-400 times as likely as some that lead nowhere, and would vanish.

V is finite: a probability of zero costs IMPOSSIBLE, what no alignment reaches is UNREACHABLE, so that no infinity is
ever subtracted from another one. States that no alignment can be in, early and late, are not looked at.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import simd
from .cells import formulas
from .jit import jit
from .operators import differentiable, is_recorded, once_differentiable, operator
from .simd import SLACK, flush_denormals, pointer, restore_denormals, row_loop
from .workers import Memory, on_threads

UNREACHABLE = 1e300
IMPOSSIBLE = 1e200
_NO_ALIGNMENT = 1e199  # V above this has met one of the two: a float32 logarithm is at most 3.4e38
_BITS = 1.0 / math.log(2.0)  # in a natural logarithm of 1
_MARGIN = 2  # states before the first one, where a path begins and a skip may look
_PARALLEL_CELLS = 1 << 16  # below this a second thread costs more than it brings
_RUNS_PER_THREAD = 4

cell = formulas(simd)


# ----------------------------------------------------------------------- the formulas of a cell


@row_loop
def _soft_minimum(rows, at, numbers):
    """V = cost + softmin of the three predecessors, and the share q of each."""
    V, cost, skip_cost, q_stay, q_step, q_skip = rows
    here, stay, step, skip, state, q = at
    V_skip = V.load(skip) + skip_cost.load(state)
    value, *shares = cell.softmin(V.load(stay), V.load(step), V_skip, q_stay.number)
    for row, share in zip((q_stay, q_step, q_skip), shares, strict=True):
        row.store(q, share)
    V.store(here, cost.load(state) + value)


@row_loop
def _normalise(rows, at, numbers):
    """E / (sum of q), to second order: rounded shares must not lose or make alignments along thousands of steps."""
    E, q_stay, q_step, q_skip = rows
    here, q = at
    excess = q_stay.load(q).double() + q_step.load(q).double() + q_skip.load(q).double() - 1.0
    E.store(here, E.load(here) * (1.0 - excess))


@row_loop
def _pull(rows, at, numbers):
    """E of the row before: what stayed, stepped and skipped from there."""
    E, q_stay, q_step, q_skip = rows
    before, stay, step, skip, of_stay, of_step, of_skip = at
    moved = q_step.load(of_step).double() * E.load(step) + q_skip.load(of_skip).double() * E.load(skip)
    E.store(before, q_stay.load(of_stay).double() * E.load(stay) + moved)


# ----------------------------------------------------------------------- one sequence


class Problem(NamedTuple):
    """What to sweep over."""

    log_probs: np.ndarray  # (T, B, C)
    targets: np.ndarray  # the labels of all targets
    n: np.ndarray  # (B,) input lengths
    starts: np.ndarray  # (B,) where each target begins
    m: np.ndarray  # (B,) target lengths
    blank: int
    zero_infinity: bool
    want_gradient: bool
    want_posterior: bool
    backward: bool  # any of these


class Results(NamedTuple):
    """What a sweep writes; arrays that are not wanted are empty."""

    value: np.ndarray  # (B,)
    gradient: np.ndarray  # (T, B, C)
    posterior: np.ndarray  # (B, T, states)


@jit
def _width(states):
    """Room for a row of q: its loop runs on by up to SLACK states, and the backward sweep looks two states ahead."""
    return states + SLACK + 2


@jit
def _cost(log_p):
    cost = -np.float64(log_p) * _BITS
    return IMPOSSIBLE if cost > IMPOSSIBLE else cost


@jit
def _skip_costs(problem, b):
    """0 for states that may be reached by a skip: labels that differ from the one before."""
    targets, start, m = problem.targets, problem.starts[b], problem.m[b]
    costs = np.full(2 * m + 1 + SLACK, UNREACHABLE)
    for k in range(m):
        if k == 0 or targets[start + k] != targets[start + k - 1]:
            costs[2 * k + 1] = 0.0
    return costs


@jit
def _bounds(problem, b, skip_cost):
    """First and last of the states that an alignment can be in, at each time."""
    n, last = problem.n[b], 2 * problem.m[b]
    lo, hi = np.zeros(n, np.int64), np.zeros(n, np.int64)
    s = min(1, last)
    for t in range(n):
        hi[t] = s
        s = s + 2 if s + 2 < last and skip_cost[s + 2] == 0.0 else min(s + 1, last)
    s = max(last - 1, 0)
    for t in range(n - 1, -1, -1):
        lo[t] = s
        s = s - 2 if s > 1 and skip_cost[s] == 0.0 else max(s - 1, 0)
    return lo, hi


@jit
def _load_costs(problem, b, t, lo, hi, cost):
    """-log2 of the probability at time t of the blank, for state 2 k, and of the k-th label, for state 2 k + 1."""
    log_probs, targets, start = problem.log_probs, problem.targets, problem.starts[b]
    of_blank = _cost(log_probs[t, b, problem.blank])
    for k in range((lo + 1) // 2, hi // 2 + 1):
        cost[2 * k] = of_blank
    for k in range(lo // 2, (hi + 1) // 2):
        cost[2 * k + 1] = _cost(log_probs[t, b, targets[start + k]])


@jit
def _forward(problem, b, lo, hi, skip_cost, shares, row):
    """V of the last two states at the end; row t of each share begins at ``t * row``."""
    states = 2 * problem.m[b] + 1
    width = _MARGIN + states + SLACK
    V, cost = np.full(2 * width, UNREACHABLE), np.zeros(states + SLACK)
    rows = (pointer(V, 0), pointer(cost, 0), pointer(skip_cost, 0), *shares)
    before, here = _MARGIN, width + _MARGIN
    V[before - 1] = 0.0  # alignments come from outside: a step leads to the first blank, a skip to the first label
    for t in range(problem.n[b]):
        _load_costs(problem, b, t, lo[t], hi[t], cost)
        stay = before + lo[t]
        at = (here + lo[t], stay, stay - 1, stay - 2, lo[t], t * row + lo[t])
        _soft_minimum(rows, at, (), hi[t] + 1 - lo[t])
        V[before - 1] = UNREACHABLE
        before, here = here, before
    cost[0] = 0.0  # it has lived until here
    return V[before + states - 1], V[before + states - 2]


@jit
def _add_row(problem, results, b, t, lo, hi, E):
    """Write row t of E: by states, and, negative, summed over the states of each class."""
    targets, start = problem.targets, problem.starts[b]
    if problem.want_posterior:
        results.posterior[b, t, lo : hi + 1] = E[lo : hi + 1]
    if problem.want_gradient:
        of_blank = 0.0
        for k in range((lo + 1) // 2, hi // 2 + 1):
            of_blank += E[2 * k]
        results.gradient[t, b, problem.blank] = -of_blank
        for k in range(lo // 2, (hi + 1) // 2):
            results.gradient[t, b, targets[start + k]] -= E[2 * k + 1]


@jit
def _backward(problem, results, b, lo, hi, ends, shares, row):
    """E from the last row to the first; ``ends`` are the probabilities to end in each of the last two states."""
    states = 2 * problem.m[b] + 1
    width = _MARGIN + states + SLACK + 2
    E = np.zeros(2 * width)
    rows = (pointer(E, 0), *shares)
    here, before = _MARGIN, width + _MARGIN
    E[here + states - 1], E[here + states - 2] = ends
    for t in range(problem.n[b] - 1, -1, -1):
        _add_row(problem, results, b, t, lo[t], hi[t], E[here : here + states])
        if t > 0:
            at = (here + lo[t], t * row + lo[t])
            _normalise(rows, at, (), hi[t] + 1 - lo[t])
            stay, q = here + lo[t - 1], t * row + lo[t - 1]
            at = (before + lo[t - 1], stay, stay + 1, stay + 2, q, q + 1, q + 2)
            _pull(rows, at, (), hi[t - 1] + 1 - lo[t - 1])
            E[before + hi[t - 1] + 1 : before + hi[t - 1] + 3] = 0.0
        here, before = before, here


@jit
def _sweep_sequence(problem, results, b, table):
    """Both sweeps; ``table`` is memory to work in, which holds finite numbers."""
    n, states = problem.n[b], 2 * problem.m[b] + 1
    skip_cost = _skip_costs(problem, b)
    lo, hi = _bounds(problem, b, skip_cost)
    width = _width(states)
    part, row = (n * width, width) if problem.backward else (width, 0)
    shares = pointer(table, 0), pointer(table, part), pointer(table, 2 * part)
    last, last_but_one = _forward(problem, b, lo, hi, skip_cost, shares, row)
    ratio = 2.0 ** -abs(last - last_but_one)
    V = min(last, last_but_one) - math.log2(1.0 + ratio)
    results.value[b] = np.inf if V > _NO_ALIGNMENT else V / _BITS
    if problem.zero_infinity and results.value[b] == np.inf:
        results.value[b] = 0.0
    elif not np.isfinite(results.value[b]):
        results.gradient[:n, b : b + 1] = np.nan
        results.posterior[b : b + 1, :n, :states] = np.nan
        table[:] = 0.0  # the next sequence must not meet a NaN in it
    elif problem.backward:
        likely, unlikely = 1.0 / (1.0 + ratio), ratio / (1.0 + ratio)
        ends = (likely, unlikely) if last < last_but_one else (unlikely, likely)
        _backward(problem, results, b, lo, hi, ends, shares, row)


@jit
def _sweep_sequences(problem, results, first, last, table):
    # Far from the likely alignments E falls below the smallest normal number, where a CPU is fifty times slower.
    state = flush_denormals()
    for b in range(first, last):
        _sweep_sequence(problem, results, b, table)
    restore_denormals(state)


# ----------------------------------------------------------------------- the batch, over threads


def _runs(cells, count):
    """Cut the batch into runs, first to last, whose lattices have about as many cells each."""
    sums = np.cumsum(cells)
    cuts = np.searchsorted(sums, sums[-1] * np.arange(1, count) / count)
    return list(zip([0, *cuts], [*cuts, len(cells)], strict=True))


def _run(problem, results, memory):
    """Sweep the whole batch."""
    states = 2 * problem.m + 1
    cells = problem.n * states
    threads = min(torch.get_num_threads(), len(cells)) if cells.sum() >= _PARALLEL_CELLS else 1
    runs = iter(_runs(cells, min(_RUNS_PER_THREAD * threads, len(cells))) if threads > 1 else [(0, len(cells))])
    rows = max(1, int(problem.n.max())) if problem.backward else 1
    room, dtype = 3 * rows * int(_width(states.max())), results.value.dtype

    def work(share):
        table = memory.take(room * dtype.itemsize).view(dtype)
        table[:] = 0.0  # what no row has written must be finite
        for first, last in runs:
            _sweep_sequences(problem, results, first, last, table)

    on_threads(threads, work)


MEMORY = Memory()


# ----------------------------------------------------------------------- the operator


def _check_bounds(log_probs, targets, spans, blank, states):
    """Refuse arrays that a kernel would read beyond: a recorded graph calls the operator without other checks."""
    T, B, C = log_probs.shape
    if spans.shape != (3, B) or not 0 <= blank < C:
        raise ValueError(
            f"spans must have shape (3, {B}) and blank be a class, but they are {spans.shape} and {blank}."
        )
    n, starts, m = spans
    within = (spans >= 0).all() and (n <= T).all() and (starts + m <= targets.size).all()
    if not within or 0 < states <= 2 * m.max(initial=0):
        raise ValueError(
            f"Input lengths must be at most {T}, targets lie among {targets.size} labels, and the posterior hold "
            f"twice the longest and one more, but spans are {spans.tolist()} and states {states}."
        )
    labels = targets[np.arange(m.sum()) - np.repeat(m.cumsum() - m, m) + np.repeat(starts, m)]
    if ((labels < 0) | (labels >= C)).any():
        raise ValueError(f"targets must be classes from 0 to {C - 1}, but {labels.min()} or {labels.max()} is not.")


def sweep_on_cpu(log_probs, targets, spans, blank, zero_infinity, want_gradient, states, memory=MEMORY):
    """The operator on the CPU."""
    kind = {"dtype": log_probs.dtype, "device": log_probs.device}
    value, gradient, posterior = (torch.zeros(shape, **kind) for shape in _shapes(log_probs, want_gradient, states))
    log_probs, targets, spans = (t.detach().contiguous().numpy() for t in (log_probs, targets, spans))
    _check_bounds(log_probs, targets, spans, blank, states)
    wants = (want_gradient, states > 0)
    problem = Problem(log_probs, targets, *spans, blank, zero_infinity, *wants, any(wants))
    _run(problem, Results(value.numpy(), gradient.numpy(), posterior.numpy()), memory)
    return value, gradient, posterior


def _shapes(log_probs, want_gradient, states):
    T, B, C = log_probs.shape
    return (B,), (T, B, C) if want_gradient else (0, 0, 0), (B, T, states) if states else (0, 0, 0)


@operator(cpu=sweep_on_cpu)
def sweep_ctc(
    log_probs: Tensor,
    targets: Tensor,
    spans: Tensor,
    blank: int,
    zero_infinity: bool,
    want_gradient: bool,
    states: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """-log p(target) of each sequence, its derivative and the posterior over the lattice.

    Args:
        log_probs: (T, B, C), float32 or float64.
        targets: (n,) int64, the labels of all targets.
        spans: (3, B) int64: input lengths, where each target begins, and target lengths.
        blank: the class of the blank.
        zero_infinity: give 0, and the derivative 0, where no alignment has a probability above zero; otherwise
            the value is infinite there, and derivative and posterior are NaN.
        want_gradient: differentiate by log_probs.
        states: the width of the posterior, at least twice the longest target and one more; 0 for none.

    Returns:
        (B,) values, (T, B, C) derivatives and the (B, T, states) posterior; those not asked for are empty.
    """
    return tuple(log_probs.new_empty(shape) for shape in _shapes(log_probs, want_gradient, states))


def _keep_derivative(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.set_materialize_grads(False)


def _scale_derivative(
    ctx, grad: Tensor | None, by_derivative: Tensor | None, by_posterior: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradient where a graph calls the operator that was recorded (``torch.export``, ``make_fx``)."""
    log_probs, derivative = ctx.saved_tensors
    if torch.is_grad_enabled() or by_posterior is not None or not derivative.numel():
        raise NotImplementedError(
            "A recorded CTC can be differentiated once, if it was recorded with log_probs that require grad, and its "
            "alignment not at all: call .detach() on the log_probs of ctc_alignment."
        )
    scaled = grad.unsqueeze(1) * derivative
    return once_differentiable(scaled, log_probs) if is_recorded() else scaled, *(None,) * 6


differentiable(sweep_ctc, _scale_derivative, _keep_derivative)


def _batch_rule(info, in_dims, log_probs, targets, spans, *settings):
    """``torch.func.vmap``: the mapped dimension joins the batch."""
    if in_dims[1] is not None or in_dims[2] is not None:
        raise NotImplementedError("targets and lengths cannot be mapped over by vmap: only log_probs can.")
    size = info.batch_size
    folded = log_probs.movedim(in_dims[0], 1).flatten(1, 2)  # (T, size * B, C)
    value, gradient, posterior = sweep_ctc(folded, targets, spans.repeat(1, size), *settings)
    gradient = gradient.unflatten(1, (size, -1)) if gradient.numel() else gradient
    posterior = posterior.unflatten(0, (size, -1)) if posterior.numel() else posterior
    dimensions = 0, 1 if gradient.numel() else None, 0 if posterior.numel() else None
    return (value.unflatten(0, (size, -1)), gradient, posterior), dimensions


torch.library.register_vmap(sweep_ctc, _batch_rule)
