"""A*_gamma and Eq. 4: the temporal term of DILATE, ``<A*_gamma, Omega>``, as a derivative of Eq. 2.

``V_dot`` is the derivative of V along Omega (Mensch & Blondel 2018, Algorithm 2): soft-DTW on dual numbers
``Delta + eps * Omega``, ``eps**2 = 0``. Forward, over the predecessors of a cell::

    V_dot   = Omega + sum_p q_p * V_dot_p                                      V_dot[N-1, M-1] is Eq. 4
    q_dot_p = -q_p * (V_dot_p - sum_r q_r * V_dot_r) / gamma

and backward, over its successors::

    E_dot   = sum (q_dot_succ * E_succ + q_succ * E_dot_succ)                  E_dot is d Eq. 4 / d Delta

With any other matrix in the place of Omega, E_dot is the product of the Hessian of Eq. 2 with that matrix.
"""

import numpy as np
import torch
from torch import Tensor

from . import kernels, soft_dtw
from .checks import check_gamma
from .kernels import lattice, reference
from .kernels.jit import inlined, jit
from .kernels.lattice import at_block, at_omega, at_q, at_V, cells_of, fill
from .kernels.operators import Sweep, SweepInBackward, is_exported, once_compiled, registered
from .kernels.simd import row_loop
from .pairs import Lattice, Lengths
from .soft_dtw import SoftDTW, cell, check_costs, crop, soft_dtw_sweep, uncrop

# ----------------------------------------------------------------------- forward: a row of V_dot and q_dot


@row_loop
def tangent_cells(rows, at, numbers):
    """(input) Omega, q and V_dot of the predecessors, (output) V_dot and q_dot: Eq. 4."""
    V_dot, omega, q_left, q_diagonal, q_up, q_dot_left, q_dot_up = rows
    here, left, diagonal, up, at_Omega, at_weights = at
    q = q_left.load(at_weights), q_up.load(at_weights), q_diagonal.load(at_weights)
    before = V_dot.load(left), V_dot.load(up), V_dot.load(diagonal)
    inverse_gamma = q_left.number(numbers[0])
    value, dot_left, dot_up = cell.tangent(omega.load(at_Omega), *before, *q, inverse_gamma, q_left.number)
    V_dot.store(here, value)
    q_dot_left.store(at_weights, dot_left)
    q_dot_up.store(at_weights, dot_up)


@jit
def load_omega(tile, problem):
    """An Omega by lag, its even and its odd entries apart, and each times the factor of every pair of the tile."""
    lags, half = problem.omega.size, problem.omega.size // 2 + 1
    for t in range(lags):
        at = ((t % 2) * half + t // 2) * tile.size
        for b in range(tile.size):
            tile.work.omega[at + b] = problem.omega[t] * problem.omega_scale[tile.pairs[b]]


@inlined
def before_row(tile, origin, d):
    """No derivative in front of row d."""
    work, lo = tile.work, tile.plan.lo[d]
    fill((work.V_dot,), (at_V(tile, d, lo - 1),), (0.0,), tile.size)
    fill((work.q_dot_left, work.q_dot_up), (at_q(tile, origin, d, lo - 1),), (0.0,), tile.size)


@inlined
def forward_row(tile, problem, origin, d, p, n):
    """Eq. 4: (input) Omega, q and the two rows of V_dot before row d, (output) V_dot and q_dot of n cells."""
    work, lo = tile.work, tile.plan.lo[d]
    here, left, diagonal = at_V(tile, d, lo) + p, at_V(tile, d + 2, lo) + p, at_V(tile, d + 1, lo - 1) + p
    by_lag = problem.omega_matrix.size == 0
    omega, at = (work.omega, at_omega(tile, d)) if by_lag else (work.omega_rows, at_block(tile, d, lo))
    arrays = (work.V_dot, omega, work.q_left, work.q_diagonal, work.q_up, work.q_dot_left, work.q_dot_up)
    at = (here, left, diagonal, left - tile.size, at + p, at_q(tile, origin, d, lo) + p)
    tangent_cells(arrays, at, (1.0 / tile.gamma,), n)


@inlined
def after_row(tile, origin, d):
    """No derivative behind row d."""
    work, hi = tile.work, tile.plan.hi[d]
    fill((work.V_dot,), (at_V(tile, d, hi + 1),), (0.0,), tile.size)
    fill((work.q_dot_left, work.q_dot_up), (at_q(tile, origin, d, hi + 1),), (0.0,), tile.size)


@jit
def read_values(tile, problem, d, value, value_dot):
    """(output) Eq. 4 of the pairs whose last cell lies on row d; NaN where Eq. 2 is."""
    for k in range(tile.size):
        b = tile.pairs[k]
        if lattice.last_row(problem, b) == d:
            V_dot = tile.work.V_dot[at_V(tile, d, problem.n[b] - 1) + k]
            value_dot[b] = np.nan if np.isnan(value[b]) else V_dot


# ----------------------------------------------------------------------- backward: a row of E_dot


@row_loop
def adjoint_cells(rows, at, numbers):
    """(input) q, q_dot, E and E_dot of the successors, (output) E and E_dot, as they are and normalised.

    E is made in the same loop, which loads q once: two loops cost 3 to 8 % more.
    """
    q_left, q_diagonal, q_up, q_dot_left, q_dot_up, E_normalised, E, E_dot_normalised, E_dot = rows
    here, in_row, right, below, beyond, at_left, at_up, at_diagonal, own = at
    q = q_left.load(at_left), q_up.load(at_up), q_diagonal.load(at_diagonal)
    q_dot = q_dot_left.load(at_left), q_dot_up.load(at_up), q_dot_left.load(at_diagonal), q_dot_up.load(at_diagonal)
    of_E, of_E_dot = ([row.load(at) for at in (right, below, beyond)] for row in (E_normalised, E_dot_normalised))
    total, total_dot = cell.adjoint(*q, *of_E), cell.adjoint(*q, *of_E_dot) + cell.adjoint_dot(*q_dot, *of_E)
    correction = cell.correction(q_left.load(own), q_up.load(own), q_diagonal.load(own))
    E.store(in_row, total)
    E_dot.store(in_row, total_dot)
    E_normalised.store(here, total * correction)
    E_dot_normalised.store(here, total_dot * correction)


@inlined
def backward_row(tile, origin, d, p, n):
    """(input) q, q_dot, E and E_dot of the two rows after row d, (output) E and E_dot of n cells from the p-th on."""
    work, lo = tile.work, tile.plan.lo[d]
    at = (at_V(tile, d, lo) + p, p, *soft_dtw.successors(tile, origin, d, p), at_q(tile, origin, d, lo) + p)
    q = (work.q_left, work.q_diagonal, work.q_up, work.q_dot_left, work.q_dot_up)
    adjoint_cells((*q, work.E_normalised, work.E, work.E_dot_normalised, work.E_dot), at, (), n)


@row_loop
def entropy_cells(rows, at, numbers):
    """(output) the sums for the derivatives of Eq. 2 and of Eq. 4 by gamma."""
    q_left, q_diagonal, q_up, q_dot_left, q_dot_up, E, E_dot, sums, sums_dot = rows
    own, here = at
    q, q_dot = (q_left.load(own), q_up.load(own), q_diagonal.load(own)), (q_dot_left.load(own), q_dot_up.load(own))
    surprisals = cell.surprisals(*q)
    entropy, entropy_dot = cell.entropy(*q, *surprisals), cell.entropy(*q_dot, -(q_dot[0] + q_dot[1]), *surprisals)
    sums.store(here, sums.load(here) + E.load(here) * entropy)
    sums_dot.store(here, sums_dot.load(here) + E_dot.load(here) * entropy + E.load(here) * entropy_dot)


@inlined
def add_entropies(tile, origin, d):
    """(input) q, q_dot, E and E_dot of row d, (output) the sums for the derivatives of both terms by gamma."""
    work, (lo, cells) = tile.work, cells_of(tile, d)
    q = (work.q_left, work.q_diagonal, work.q_up, work.q_dot_left, work.q_dot_up)
    arrays = (*q, work.E, work.E_dot, work.by_gamma, work.by_gamma_dot)
    entropy_cells(arrays, (at_q(tile, origin, d, lo), 0), (), cells)


# ----------------------------------------------------------------------- A*_gamma and its Function


class SoftPath(Sweep):
    """``A*_gamma = (1/Z) sum_A A exp(-<A, Delta> / gamma)``, the derivative of Eq. 2 by the costs."""

    @staticmethod
    def forward(D, gamma, n, m, band):
        """(B, N, M), () -> (B, N, M)."""
        wants = (False, False, True, False)
        E = soft_dtw_sweep(None, None, crop(D, band), gamma, n, m, band, wants)[4]
        return uncrop(E.squeeze(0), *D.shape[1:])

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the costs."""
        ctx.save_for_backward(*inputs[:4])
        ctx.band = inputs[4]

    @staticmethod
    def backward(ctx, grad):
        """The Hessian of Eq. 2 times the incoming gradient, which takes the place of Omega in the sweep of Eq. 4."""
        (D, gamma, n, m), band = ctx.saved_tensors, ctx.band
        want_D, want_gamma = ctx.needs_input_grad[:2]
        Z, wants = crop(grad, band).double(), (False, False, want_D, want_gamma)
        dilate_sweep = registered("dilate_sweep")  # of :mod:`.dilate_loss`, which imports this module
        E, d_gamma = SweepInBackward.apply(dilate_sweep, crop(D, band), gamma, n, m, Z, band, wants)
        d_D = uncrop(E[1], *D.shape[1:]) if want_D else None
        return d_D, d_gamma[1].sum() if want_gamma else None, None, None, None


SoftDTW.derivative = SoftPath


def soft_path_of(D: Tensor, gamma: Tensor, pairs: Lattice) -> Tensor:
    """A*_gamma of costs that are checked, by the kernels or, where there are none, by the readable reference."""
    n, m, band = pairs
    if not kernels.has_kernels(D.device):
        return reference.soft_path(D, gamma, band, n, m)
    path = SoftPath.apply(D, gamma, n, m, band)
    return once_compiled(path) if torch.compiler.is_compiling() else path


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
        D: (B, N, M) costs, float32 or float64 (half precision is computed in float32). A cost of 1e20 keeps paths out
            of a cell; infinite costs may make the path NaN.
        gamma: smoothing, in the units of the cost, > 0; a 0-d tensor may require grad.
        prediction_lengths: (B,) true numbers of rows; the path is zero beyond.
        target_lengths: (B,) true numbers of columns.
        band: Sakoe-Chiba band: paths stay where ``|h - j| <= band``.

    Returns:
        (B, N, M), entries in [0, 1]; every row and every column sums to at least one.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    D, pairs = check_costs(D, prediction_lengths, target_lengths, band)
    gamma = check_gamma(gamma, D)
    if is_exported() and D.requires_grad:
        raise NotImplementedError("soft_path cannot be exported with its gradient: call .detach() on D.")
    return soft_path_of(D, gamma, pairs)


class PathDTWBatch(SoftPath):
    """The name of the released code: ``PathDTWBatch.apply(D, gamma)`` is the batch mean of A*_gamma.

    Its gradient is that of the value it returns; the released one's is ``batch size`` times larger.
    """

    @classmethod
    def apply(cls, D: Tensor, gamma: float | Tensor = 1.0) -> Tensor:
        """(B, N, M) costs -> the mean path (N, M)."""
        return soft_path(D, gamma).mean(0)
