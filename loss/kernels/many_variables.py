"""Series of many variables on the CPU: all costs before the sweep, whose derivative by them is chained to the series.

For few variables the sweeps make Delta row by row and chain E through it cell by cell, without a matrix. That takes
time in proportion to cells and variables; here the costs are made in registers, and the chain is a matrix product.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import lattice
from .jit import jit
from .workers import on_threads

MANY = 64  # variables from which this is faster: at 48 it takes 0.74 to 1.03 of the time, at 64 0.66 to 0.89
GROUP_BYTES = 12 << 20  # of pairs that are worked on together, so that what they need stays near


@partial(jit, fastmath={"contract", "reassoc"})  # in any order, so that variables are added in vectors
def square_distances(x, y, D, share, shares):
    """(output) Delta of every ``shares``-th pair of float64 series, in blocks of two steps by four."""
    N, M, C = x.shape[1], y.shape[1], x.shape[2]
    for b in range(share, x.shape[0], shares):
        for i in range(0, N, 2):
            for j in range(0, M, 4):
                # A block that is not whole has its last step several times.
                i_1, j_1, j_2, j_3 = min(i + 1, N - 1), min(j + 1, M - 1), min(j + 2, M - 1), min(j + 3, M - 1)
                D_00 = D_01 = D_02 = D_03 = D_10 = D_11 = D_12 = D_13 = 0.0
                for c in range(C):
                    x_0, x_1 = x[b, i, c], x[b, i_1, c]
                    y_0, y_1, y_2, y_3 = y[b, j, c], y[b, j_1, c], y[b, j_2, c], y[b, j_3, c]
                    D_00 += (x_0 - y_0) * (x_0 - y_0)
                    D_01 += (x_0 - y_1) * (x_0 - y_1)
                    D_02 += (x_0 - y_2) * (x_0 - y_2)
                    D_03 += (x_0 - y_3) * (x_0 - y_3)
                    D_10 += (x_1 - y_0) * (x_1 - y_0)
                    D_11 += (x_1 - y_1) * (x_1 - y_1)
                    D_12 += (x_1 - y_2) * (x_1 - y_2)
                    D_13 += (x_1 - y_3) * (x_1 - y_3)
                D[b, i, j], D[b, i, j_1], D[b, i, j_2], D[b, i, j_3] = D_00, D_01, D_02, D_03
                D[b, i_1, j], D[b, i_1, j_1], D[b, i_1, j_2], D[b, i_1, j_3] = D_10, D_11, D_12, D_13


def run(
    sweep: Callable,
    x: Tensor | None,
    y: Tensor | None,
    D: Tensor | None,
    gamma: Tensor,
    n: Tensor | None,
    m: Tensor | None,
    omega: Tensor | None,
    omega_scale: Tensor | None,
    band: int,
    wants: lattice.Wants,
    **how,
) -> tuple[Tensor, ...]:
    """Run a compiled sweep over a batch; arguments and results are those of :func:`.lattice.run`."""
    if D is not None or x.shape[2] < MANY:
        return lattice.run(sweep, x, y, D, gamma, n, m, omega, omega_scale, band, wants, **how)
    lattice.check_arguments(x, y, D, gamma, n, m, omega, omega_scale, band)
    outputs = lattice.allocate(x, y, D, gamma, 1 if omega is None else 2, wants)
    (B, N, C), M = x.shape, y.shape[1]
    want_x, want_y, want_D, want_gamma = wants
    group = max(torch.get_num_threads(), GROUP_BYTES // (8 * (N * C + M * C + 2 * N * M)))
    for first in range(0, B, group):
        part = slice(first, first + group)
        n_, m_, scale = (None if each is None else each[part] for each in (n, m, omega_scale))
        a, b = (_without_padding(s[part].detach().double(), lengths) for s, lengths in ((x, n_), (y, m_)))
        costs = a.new_empty(len(a), N, M)
        arrays = [array.numpy() for array in (a, b, costs)]
        threads = min(torch.get_num_threads(), len(a))
        on_threads(threads, lambda share, arrays=arrays, threads=threads: square_distances(*arrays, share, threads))
        Omega = omega if omega is None or omega.dim() == 1 or omega.shape[0] == 1 else omega[part]
        by_costs = (False, False, want_x or want_y or want_D, want_gamma)
        # costs in float64, weights in the precision of the series
        found = lattice.run(sweep, None, None, costs, gamma, n_, m_, Omega, scale, band, by_costs, x.dtype, **how)
        value, value_dot, _, _, all_E, d_gamma = found
        for term, values in enumerate((value, value_dot)[: 1 if omega is None else 2]):
            outputs[term][part] = values
            if want_x:  # d Delta / d x = 2 (x - y)
                outputs[2][term, part] = _chained(all_E[term], a, b)
            if want_y:
                outputs[3][term, part] = _chained(all_E[term].transpose(1, 2), b, a)
        if want_D:
            outputs[4][0, part] = all_E[0]
        if want_gamma:
            outputs[5][:, part] = d_gamma
    return outputs


def _chained(E: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``2 sum_j E (a - b_j)`` of each step of the first series.

    Sum and product cancel where the series lie far from zero; float64 has 29 bits more than two float32 numbers there
    can share.
    """
    return torch.baddbmm(E.sum(2, keepdim=True) * a, E, b, beta=2, alpha=-2)


def _without_padding(series: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return series
    inside = torch.arange(series.shape[1]) < lengths.unsqueeze(1)
    return torch.where(inside.unsqueeze(-1), series, 0.0)
