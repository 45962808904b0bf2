"""Delta and Eq. 2: soft-DTW, the shape term of DILATE (Cuturi & Blondel 2017, Algorithms 1 and 2).

Forward, with the letters of Mensch & Blondel (2018), over the predecessors p of a cell: left ``(i, j-1)``, diagonal
``(i-1, j-1)`` and up ``(i-1, j)``::

    V   = Delta + m - gamma * log(sum_p exp((m - V_p) / gamma)),   m = min_p V_p       V[N-1, M-1] is Eq. 2
    q_p = exp((m - V_p) / gamma) / sum_r exp((m - V_r) / gamma)

and backward, over the successors of a cell::

    E   = sum q_succ * E_succ                                                          E is d Eq. 2 / d Delta

V and E are float64 whatever the input is: q depends on differences of V divided by gamma, and with costs of 1e6 a
float32 V leaves no digit of them. V is in units of ``gamma * log(2)``, so that the softmin takes powers and
logarithms of two. The formulas of a cell are in :mod:`.kernels.cells`, the rows in :mod:`.kernels.lattice`.
"""

import numpy as np
import torch
from torch import Tensor, nn

from . import kernels
from .checks import check_alike, check_band, check_gamma, check_tensor
from .kernels import cpu, lattice, reference, simd
from .kernels.cells import LN2, OneCell, formulas
from .kernels.jit import inlined, jit
from .kernels.lattice import (
    BLOCK,
    CHUNK,
    UNREACHABLE,
    MaybeTensor,
    Wants,
    allocate,
    at_block,
    at_q,
    at_V,
    cells_of,
    fill,
)
from .kernels.operators import (
    Sweep,
    SweepInBackward,
    below_autograd,
    is_differentiated,
    is_recorded,
    made,
    operator,
    register_sweep,
    sweep_on_cuda,
)
from .kernels.simd import SLACK, flush_denormals, restore_denormals, row_loop
from .pairs import Lattice, Lengths, check_lattice, reachable

cell = formulas(simd)
correction_of_one_cell = inlined(formulas(OneCell).correction)


def pairwise_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Delta: squared Euclidean distances between the steps of two series.

    The differences are squared themselves: the expansion ``|x|**2 + |y|**2 - 2 x y`` loses all digits of series
    that lie far away from zero.

    Args:
        x: (N, d) or (B, N, d), float32 or float64 (half precision is computed in float32).
        y: (M, d) or (B, M, d); ``x`` by default.

    Returns:
        (N, M) or (B, N, M).

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    allowed = "(N, variables) or (batch, N, variables)"
    x = check_tensor("x", x, allowed, (2, 3))
    y = x if y is None else check_tensor("y", y, allowed, (2, 3))
    axes = {-1: "number of variables"} if x.dim() == 2 else {0: "batch size", -1: "number of variables"}
    check_alike(("x", "y"), x, y, axes)
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


# ----------------------------------------------------------------------- forward: a row of Delta, of V and q


@row_loop
def square_differences(rows, at, numbers):
    """(output) Delta = Delta of other variables + scale * (x - y)**2; float64 keeps the digits of offset series."""
    x, y, others, Delta = rows
    difference = x.load(at[0]).double() - y.load(at[1]).double()
    Delta.store(at[2], others.load(at[2]) + difference * difference * numbers[0])


@row_loop
def value_cells(rows, at, numbers):
    """(input) Delta and V of the predecessors, (output) V and q: Eq. 2."""
    V, Delta, q_left, q_diagonal, q_up = rows
    here, left, diagonal, up, at_Delta, at_q = at
    softmin, of_left, of_up, of_diagonal = cell.softmin(V.load(left), V.load(up), V.load(diagonal), q_left.number)
    q_left.store(at_q, of_left)
    q_diagonal.store(at_q, of_diagonal)
    q_up.store(at_q, of_up)
    V.store(here, Delta.load(at_Delta) + softmin)


@inlined
def cost_row(tile, d, p, n):
    """Delta of n cells of row d from the p-th on, of two series; given costs are gathered instead."""
    plan, work, lo = tile.plan, tile.work, tile.plan.lo[d]
    others = work.zeros
    for c in range(plan.C):
        at_x, at_y = (c * plan.N + lo) * tile.size + p, (c * plan.M + plan.M - 1 - d + lo) * tile.size + p
        square_differences((work.x, work.y, others, work.Delta), (at_x, at_y, p), (1.0 / (tile.gamma * LN2),), n)
        others = work.Delta


@inlined
def before_row(tile, origin, d):
    """Unreachable cells in front of row d, which no path passes."""
    work, lo = tile.work, tile.plan.lo[d]
    fill((work.V,), (at_V(tile, d, lo - 1),), (UNREACHABLE,), tile.size)
    fill((work.q_left, work.q_diagonal, work.q_up), (at_q(tile, origin, d, lo - 1),), (0.0,), tile.size)


@inlined
def forward_row(tile, origin, d, p, n):
    """Eq. 2: (input) Delta and the two rows of V before row d, (output) V and q of n cells from the p-th on."""
    work, lo = tile.work, tile.plan.lo[d]
    here, left, diagonal = at_V(tile, d, lo) + p, at_V(tile, d + 2, lo) + p, at_V(tile, d + 1, lo - 1) + p
    Delta, at_Delta = (work.Delta, p) if tile.plan.C > 0 else (work.Delta_rows, at_block(tile, d, lo) + p)
    arrays = (work.V, Delta, work.q_left, work.q_diagonal, work.q_up)
    value_cells(arrays, (here, left, diagonal, left - tile.size, at_Delta, at_q(tile, origin, d, lo) + p), (), n)


@inlined
def after_row(tile, origin, d):
    """Unreachable cells behind row d; its row loop has written there."""
    work, hi = tile.work, tile.plan.hi[d]
    fill((work.V,), (at_V(tile, d, hi + 1),), (UNREACHABLE,), tile.size)
    fill((work.q_left, work.q_diagonal, work.q_up), (at_q(tile, origin, d, hi + 1),), (0.0,), tile.size)


@inlined
def after_last_row(tile, origin):
    """Where the weights of the row after the last one are, and how many: zeros, for the last row but one."""
    end, before = tile.end, max(tile.end - 1, 0)
    wide = (tile.plan.hi[before] - tile.plan.lo[before] + 3) * tile.size
    return at_q(tile, origin, end + 1, tile.plan.lo[end + 1] - 1), wide


@jit
def read_values(tile, problem, d, value):
    """(output) Eq. 2 of the pairs whose last cell lies on row d; NaN where no path leads there."""
    for k in range(tile.size):
        b = tile.pairs[k]
        if lattice.last_row(problem, b) == d:
            V = tile.work.V[at_V(tile, d, problem.n[b] - 1) + k]
            value[b] = V * tile.gamma * LN2 if abs(V) < 0.5 * UNREACHABLE else np.nan


# ----------------------------------------------------------------------- backward: a row of E


@row_loop
def adjoint_cells(rows, at, numbers):
    """(input) q and E of the successors, (output) E: as it is, and divided by the sum of the cell's own weights."""
    q_left, q_diagonal, q_up, E_normalised, E = rows
    here, in_row, right, below, beyond, at_left, at_up, at_diagonal, own = at
    q = q_left.load(at_left), q_up.load(at_up), q_diagonal.load(at_diagonal)
    total = cell.adjoint(*q, *(E_normalised.load(successor) for successor in (right, below, beyond)))
    correction = cell.correction(q_left.load(own), q_up.load(own), q_diagonal.load(own))
    E.store(in_row, total)
    E_normalised.store(here, total * correction)


@row_loop
def add_to_series(rows, at, numbers):
    """Chain E through Delta = (x - y)**2: (output) sums += E * (x - y), for each pair of E and sums given."""
    x, y, *terms = rows
    at_x, at_y, here, to = at
    difference = x.load(at_x).double() - y.load(at_y).double()
    for E, sums in zip(terms[::2], terms[1::2], strict=True):
        sums.store(to, sums.load(to) + E.load(here) * difference)


@inlined
def successors(tile, origin, d, p):
    """Where E, then the weights, of the cells right of, below and diagonally beyond the p-th cell of row d are."""
    lo = tile.plan.lo[d]
    return (
        at_V(tile, d + 1, lo) + p,
        at_V(tile, d + 1, lo + 1) + p,
        at_V(tile, d + 2, lo + 1) + p,
        at_q(tile, origin, d + 1, lo) + p,
        at_q(tile, origin, d + 1, lo + 1) + p,
        at_q(tile, origin, d + 2, lo + 1) + p,
    )


@inlined
def backward_row(tile, origin, d, p, n):
    """(input) q and E of the two rows after row d, (output) E of n cells from the p-th on."""
    work, lo = tile.work, tile.plan.lo[d]
    at = (at_V(tile, d, lo) + p, p, *successors(tile, origin, d, p), at_q(tile, origin, d, lo) + p)
    adjoint_cells((work.q_left, work.q_diagonal, work.q_up, work.E_normalised, work.E), at, (), n)


@jit
def start_paths(tile, problem, origin, d):
    """E is one at the last cell of each pair whose last cell lies on row d."""
    work, lo = tile.work, tile.plan.lo[d]
    for k in range(tile.size):
        b = tile.pairs[k]
        if lattice.last_row(problem, b) == d:
            p = (problem.n[b] - 1 - lo) * tile.size + k
            q = at_q(tile, origin, d, lo) + p
            work.E[p] = 1.0
            correction = correction_of_one_cell(work.q_left[q], work.q_up[q], work.q_diagonal[q])
            work.E_normalised[at_V(tile, d, lo) + p] = correction


@inlined
def add_row_to_series(tile, results, d, p, n):
    """(input) E of n cells of row d from the p-th on, (output) the sums for the derivatives by the series."""
    plan, work, lo = tile.plan, tile.work, tile.plan.lo[d]
    for c in range(plan.C):
        at_x, at_y = (c * plan.N + lo) * tile.size + p, (c * plan.M + plan.M - 1 - d + lo) * tile.size + p
        if results.d_x.size > 0:
            add_to_series((work.x, work.y, work.E, work.by_x), (at_x, at_y, p, at_x), (), n)
        if results.d_y.size > 0:
            add_to_series((work.x, work.y, work.E, work.by_y), (at_x, at_y, p, at_y), (), n)


@row_loop
def entropy_cells(rows, at, numbers):
    """(output) sums += E times the entropy of the steps to a cell, which is minus d Eq. 2 / d gamma."""
    q_left, q_diagonal, q_up, E, sums = rows
    own, here = at
    q = q_left.load(own), q_up.load(own), q_diagonal.load(own)
    sums.store(here, sums.load(here) + E.load(here) * cell.entropy(*q, *cell.surprisals(*q)))


@inlined
def add_entropies(tile, origin, d):
    """(input) q and E of row d, (output) the sums for the derivative by gamma."""
    work, (lo, cells) = tile.work, cells_of(tile, d)
    arrays = (work.q_left, work.q_diagonal, work.q_up, work.E, work.by_gamma)
    entropy_cells(arrays, (at_q(tile, origin, d, lo), 0), (), cells)


# ----------------------------------------------------------------------- both passes over the rows


@jit
def forward(tile, problem, results, origin, end):
    """Eq. 2 (Algorithm 1): V and q of the rows from ``origin`` to ``end``, and the values that end there."""
    for d in range(origin, end + 1):
        if problem.D.size > 0 and d % BLOCK == 0:
            lattice.gather_rows(problem.D, problem.D_scale, tile, problem, d, tile.work.Delta_rows)
        before_row(tile, origin, d)
        cells = cells_of(tile, d)[1]
        for p in range(0, cells, CHUNK):
            n = min(CHUNK, cells - p)
            cost_row(tile, d, p, n)  # Delta
            forward_row(tile, origin, d, p, n)  # V, q
        after_row(tile, origin, d)
        if d >= tile.first_end:
            read_values(tile, problem, d, results.value)
    if end == tile.end:
        work, (at, n) = tile.work, after_last_row(tile, origin)
        fill((work.q_left, work.q_diagonal, work.q_up), (at,), (0.0,), n)


@jit
def backward(tile, problem, results, origin, end):
    """Algorithm 2: E of the rows from ``end`` down to ``origin``, and the derivatives that are wanted."""
    work = tile.work
    for d in range(end, origin - 1, -1):
        lo, cells = cells_of(tile, d)
        fill((work.E_normalised,), (at_V(tile, d, lo - 1),), (0.0,), tile.size)
        chunk = CHUNK if d < tile.first_end else max(cells, 1)
        for p in range(0, cells, chunk):
            n = min(chunk, cells - p)
            if d < tile.end:
                backward_row(tile, origin, d, p, n)  # E
            if d >= tile.first_end:
                start_paths(tile, problem, origin, d)
            if p + n == cells:  # the row loop has written behind the row, and sums over series must not notice
                fill((work.E,), (cells,), (0.0,), SLACK)
            add_row_to_series(tile, results, d, p, n)
        fill((work.E_normalised,), (at_V(tile, d, tile.plan.hi[d] + 1),), (0.0,), tile.size)
        if results.d_D.size > 0:
            lattice.store_row(work.E, work.E_rows, tile, problem, d, end, results.d_D[0])
        if results.d_gamma.size > 0:
            add_entropies(tile, origin, d)


@jit
def sweep(problem, results, plan, work, share, shares):
    """Every ``shares``-th tile of the batch: forward segment by segment, then backward.

    On the way back each segment but the last is swept forward again, with the two rows after it.
    """
    # Far from the likely paths E falls below the smallest normal number, where a CPU is fifty times slower.
    state = flush_denormals()
    for first in range(share * plan.tile, problem.n.size, shares * plan.tile):
        tile = lattice.tile_of(problem, plan, work, first)
        V, saved, size, rows, end = work.V, work.saved, 3 * plan.stride, plan.rows, tile.end
        last = end // rows * rows
        for origin in range(0, last + 1, rows):
            if plan.backward and origin < last:
                lattice.copy(V, 0, saved, origin // rows * size, size)
            forward(tile, problem, results, origin, min(origin + rows - 1, end))
        for origin in range(last if plan.backward else -1, -1, -rows):
            if origin < last:
                lattice.copy(saved, origin // rows * size, V, 0, size)
                forward(tile, problem, results, origin, min(origin + rows + 1, end))
            backward(tile, problem, results, origin, min(origin + rows - 1, end))
        if results.d_x.size > 0:
            lattice.store_series(work.by_x, tile, 0, 1, 1.0, results.value, results.d_x[0])
        if results.d_y.size > 0:
            lattice.store_series(work.by_y, tile, plan.M - 1, -1, -1.0, results.value, results.d_y[0])
        if results.d_gamma.size > 0:
            lattice.store_by_gamma(work.by_gamma, tile, results.d_gamma[0])
        lattice.nan_where_invalid(tile, results)
    restore_denormals(state)


# ----------------------------------------------------------------------- the operator and its Function


def sweep_on_cpu(x, y, D, gamma, n, m, band, wants, **how):
    """The operator on the CPU; ``how`` is for :func:`.kernels.cpu.run`."""
    return cpu.run(sweep, x, y, D, gamma, n, m, None, None, band, wants, **how)


def _sweep_on_cuda(x, y, D, gamma, n, m, band, wants):
    return sweep_on_cuda(x, y, D, gamma, n, m, None, None, band, wants)


@operator(cpu=sweep_on_cpu, cuda=_sweep_on_cuda)
def soft_dtw_sweep(
    x: MaybeTensor,
    y: MaybeTensor,
    D: MaybeTensor,
    gamma: Tensor,
    n: MaybeTensor,
    m: MaybeTensor,
    band: int,
    wants: Wants,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Eq. 2 of two series, or of given costs, and its derivatives.

    Args:
        x: (B, N, C) predictions, float32 or float64; None where costs are given.
        y: (B, M, C) targets of the same type; None where costs are given.
        D: (B, N, M) costs, float32 or float64; None where series are given.
        gamma: 0-d float64, the smoothing.
        n: (B,) int64, true lengths of the predictions; None where all are N.
        m: (B,) int64, true lengths of the targets; None where all are M.
        band: cells with ``|i - j| > band`` are left out; -1 for none.
        wants: whether to differentiate by x, by y, by D and by gamma.

    Returns:
        ``value`` (B,), an empty tensor, and the derivatives of ``value`` by x (1, B, N, C), by y (1, B, M, C), by D
        (1, B, N, M) and by gamma (1, B), float64; those that are not wanted are empty.
    """
    return allocate(x, y, D, gamma, 1, wants)


register_sweep(soft_dtw_sweep)


class SoftDTW(Sweep):
    """Eq. 2 of each cost matrix, ``DTW_gamma = -gamma log sum_A exp(-<A, Delta> / gamma)``.

    Its derivative, made in the forward pass, is the soft alignment A*_gamma, itself differentiable, so that Eq. 2 can
    be differentiated twice.
    """

    derivative: type[Sweep]  # SoftPath of :mod:`.path_soft_dtw`, which imports this module

    @staticmethod
    def forward(D, gamma, n, m, band, want_D, want_gamma):
        """Eq. 2, (B,), and its derivatives by the costs that a path can reach (1, B, N, M) and by gamma (1, B)."""
        wants = (False, False, want_D, want_gamma)
        with below_autograd():
            value, _, _, _, E, d_gamma = soft_dtw_sweep(None, None, crop(D, band), gamma, n, m, band, wants)
        return value, E, d_gamma

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the derivatives, and what is needed to make them again."""
        ctx.save_for_backward(*inputs[:4], *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.band = inputs[4]

    @staticmethod
    def backward(ctx, grad, *_):
        """``d DTW_gamma / d Delta = A*_gamma``; the derivative by gamma is minus the entropy of the paths."""
        D, gamma, n, m, E, by_gamma = ctx.saved_tensors
        if grad is None:
            return (None,) * 7
        want_D, want_gamma = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # make them again as functions that have a derivative, or that refuse it
            E = SoftDTW.derivative.apply(D, gamma, n, m, ctx.band).unsqueeze(0) if want_D else None
            if want_gamma:
                wants = (False, False, False, True)
                costs = crop(D, ctx.band)
                by_gamma = SweepInBackward.apply(soft_dtw_sweep, costs, gamma, n, m, None, ctx.band, wants)[1]
        d_D = grad.reshape(-1, 1, 1) * uncrop(made(E, D).squeeze(0), *D.shape[1:]) if want_D else None
        d_gamma = (grad * made(by_gamma, D)[0]).sum() if want_gamma else None
        return d_D, d_gamma, *(None,) * 5


def crop(D: Tensor, band: int) -> Tensor:
    """The costs without the padding, far outside of the band, that no path can reach."""
    N, M = reachable(*D.shape[1:], band)
    return D[:, :N, :M]


def uncrop(E: Tensor, N: int, M: int) -> Tensor:
    """E (..., N, M) with zeros where :func:`crop` has cut off."""
    return nn.functional.pad(E, (0, M - E.shape[-1], 0, N - E.shape[-2])) if E.shape[-2:] != (N, M) else E


def check_costs(
    D: Tensor, prediction_lengths: Lengths = None, target_lengths: Lengths = None, band: int | None = None
) -> tuple[Tensor, Lattice]:
    """Return costs (B, N, M) and their lattice."""
    D = check_tensor("D", D, "(batch, N, M)", (3,))
    return D, check_lattice(tuple(D.shape), D.device, prediction_lengths, target_lengths, check_band(band))


def soft_dtw_of(D: Tensor, gamma: Tensor, pairs: Lattice) -> Tensor:
    """Eq. 2 of costs that are checked, by the kernels or, where there are none, by the readable reference."""
    n, m, band = pairs
    if not kernels.has_kernels(D.device):
        return reference.soft_dtw(D, gamma, band, n, m)
    recorded = is_recorded()  # costs may require grad when the record is called
    wants = [is_differentiated(D) or (recorded and torch.is_grad_enabled()), is_differentiated(gamma)]
    # Recorded is the operator itself, whose gradient goes with it.
    run = SoftDTW.forward if recorded or not any(wants) else SoftDTW.apply
    return run(D, gamma, n, m, band, *wants)[0]


def soft_dtw(
    D: Tensor,
    gamma: float | Tensor = 1.0,
    *,
    prediction_lengths: Lengths = None,
    target_lengths: Lengths = None,
    band: int | None = None,
) -> Tensor:
    """Eq. 2, soft-DTW, of each cost matrix.

    Args:
        D: (B, N, M) costs, float32 or float64 (half precision is computed in float32). A cost of 1e20 keeps paths out
            of a cell; infinite costs may make the value NaN.
        gamma: smoothing, in the units of the cost, > 0; a 0-d tensor may require grad.
        prediction_lengths: (B,) true numbers of rows; what lies beyond has no influence.
        target_lengths: (B,) true numbers of columns.
        band: Sakoe-Chiba band: paths stay where ``|h - j| <= band``.

    Returns:
        (B,) values.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    D, pairs = check_costs(D, prediction_lengths, target_lengths, band)
    return soft_dtw_of(D, check_gamma(gamma, D), pairs)


class SoftDTWBatch(SoftDTW):
    """The name of the released code: ``SoftDTWBatch.apply(D, gamma)`` is the batch mean of Eq. 2.

    Its gradient is that of the value it returns; the released one's is ``batch size`` times larger.
    """

    @classmethod
    def apply(cls, D: Tensor, gamma: float | Tensor = 1.0) -> Tensor:
        """(B, N, M) costs -> the mean of Eq. 2, a scalar."""
        return soft_dtw(D, gamma).mean()
