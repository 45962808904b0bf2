"""A compiled sweep over a batch on the CPU: what it is given, the memory and the threads that it gets.

For few variables the sweeps make Delta row by row and chain E through it cell by cell, without a matrix. That takes
time in proportion to cells and variables. For many, all costs are made in registers before the sweep, and its
derivative by them is chained to the series cell by cell, where a path passes.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from .cells import LN2
from .jit import jit
from .lattice import (
    BLOCK,
    MANY,
    Plan,
    Problem,
    Results,
    Wants,
    Work,
    allocate,
    check_arguments,
    make_plan,
    sweep_on_costs,
)
from .simd import SLACK
from .workers import Memory, on_threads

_PARALLEL_CELLS = 1 << 16  # below this a second thread costs more than it brings
GROUP_BYTES = 4 << 20  # of the costs of pairs that are worked on together, so that they stay near
NEGLIGIBLE = 2.0**-100  # an E of this part of the largest one at a step is left out


# ----------------------------------------------------------------------- memory


def _sizes(plan: Plan) -> dict[str, int]:
    """How many numbers each part of the memory holds, without the room that row loops need behind it."""
    _, _, start, N, M, C, tile, rows, longest, stride, block_stride, _, backward, by_gamma, matrices = plan
    begins = np.arange(0, N + M - 1, rows)
    table = (int((start[np.minimum(begins + rows + 2, N + M)] - start[begins]).max()) + longest + 3) * tile
    row, by_lag = longest * tile + SLACK, 2 * ((N + M - 1) // 2 + 1) * tile
    sizes = {"x": C * N * tile, "y": C * M * tile, "omega": by_lag}
    sizes |= dict.fromkeys(("q_left", "q_diagonal", "q_up", "q_dot_left", "q_dot_up"), table)
    sizes |= dict.fromkeys(("zeros", "Delta", "E", "E_dot"), row)
    sizes |= dict.fromkeys(("by_gamma", "by_gamma_dot"), row * by_gamma)
    sizes |= dict.fromkeys(("V", "V_dot", "E_normalised", "E_dot_normalised"), 3 * stride)
    sizes |= dict.fromkeys(("Delta_rows", "omega_rows", "E_rows", "E_dot_rows"), BLOCK * block_stride * matrices)
    sizes |= {name: sizes[name[3]] for name in ("by_x", "by_x_dot", "by_y", "by_y_dot")}
    sizes["saved"] = len(begins) * 6 * stride if backward and len(begins) > 1 else 0
    return sizes


class WorkMemory(Memory):
    """The memory of each thread, cut up as a plan says."""

    def work_for(self, plan: Plan, dtype: np.dtype) -> Work:
        """A thread's memory for a plan; the last one is kept, for to cut it up takes as long as a small sweep."""
        last = getattr(self.of_thread, "last", None)
        if last is not None and last[0] is plan and last[1] == dtype:
            return last[2]
        sizes = _sizes(plan)
        kinds = {name: dtype if name in "xy" or name[0] == "q" else np.dtype(np.float64) for name in sizes}
        spans = {name: -(-(size + SLACK) * kinds[name].itemsize // 64) * 64 for name, size in sizes.items()}
        ends = dict(zip(spans, np.cumsum(list(spans.values())).tolist(), strict=True))
        memory = self.take(sum(spans.values()))
        parts = {name: memory[end - spans[name] : end].view(kinds[name]) for name, end in ends.items()}
        work = Work(**parts)
        if memory.base is getattr(self.of_thread, "bytes", None):
            self.of_thread.last = plan, dtype, work
        return work


MEMORY = WorkMemory()


# ----------------------------------------------------------------------- running

_NONE = {dtype: np.empty((0, 0, 0), dtype) for dtype in (np.float32, np.float64)}
_NO_LAGS = np.empty(0)


@lru_cache(maxsize=128, typed=True)  # typed: 1 for a length is not 1.0 for a factor
def _same_for_all(batch: int, number: float) -> np.ndarray:
    return np.full(batch, number)


@lru_cache(maxsize=128)
def _as_they_come(batch: int) -> np.ndarray:
    return np.arange(batch)


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
    wants: Wants,
    dtype: torch.dtype | None = None,
    make_plan: Callable = make_plan,
    memory: WorkMemory = MEMORY,
) -> tuple[Tensor, ...]:
    """Run a compiled sweep over a batch, cut up by ``make_plan``, on torch's number of threads, in ``memory``.

    ``dtype`` is for :func:`.lattice.allocate`. The other arguments and the results are those of the operators.
    """
    check_arguments(x, y, D, gamma, n, m, omega, omega_scale, band)
    outputs = allocate(x, y, D, gamma, 1 if omega is None else 2, wants, dtype)
    if D is None and x.shape[2] >= MANY:
        on_costs = partial(run, sweep, None, None, make_plan=make_plan, memory=memory)
        threads = torch.get_num_threads()
        group = threads * max(1, GROUP_BYTES // (8 * threads * x.shape[1] * y.shape[1]))
        how = on_costs, _square_distances, partial(_on_pairs, chain_to_series), group
        sweep_on_costs(outputs, *how, x, y, gamma, n, m, omega, omega_scale, band, wants)
        return outputs
    B, N, M, C = (*D.shape, 0) if x is None else (*x.shape[:2], *y.shape[1:])
    results, has_lengths = Results(*(output.numpy() for output in outputs)), n is not None or m is not None
    none, no_lags, no_matrix = _NONE[results.value.dtype.type], _NO_LAGS, _NONE[np.float64]
    x, y, D, omega, omega_scale, n, m = [
        None if array is None else array.detach().contiguous().numpy()
        for array in (x, y, D, omega, omega_scale, n, m)
    ]
    n, m = (_same_for_all(B, k) if given is None else given for given, k in ((n, N), (m, M)))
    problem = Problem(
        none if x is None else x,
        none if y is None else y,
        none if D is None else D,
        _same_for_all(B, 1.0 / (gamma.item() * LN2)),
        no_lags if omega is None or omega.ndim > 1 else omega,
        no_matrix if omega is None or omega.ndim == 1 else omega,
        _same_for_all(B, 1.0) if omega_scale is None else omega_scale,
        n,
        m,
        np.argsort(n + m, kind="stable") if has_lengths else _as_they_come(B),
        gamma.item(),
    )
    threads = min(torch.get_num_threads(), B) if B * N * M >= _PARALLEL_CELLS else 1
    matrices = problem.D.size + problem.omega_matrix.size + results.d_D.size > 0
    plan = make_plan(N, M, C, band, B, results.value.itemsize, any(wants), bool(wants[3]), matrices, threads)
    kind = results.value.dtype
    if threads == 1:
        sweep(problem, results, plan, memory.work_for(plan, kind), 0, 1)
    else:
        on_threads(threads, lambda share: sweep(problem, results, plan, memory.work_for(plan, kind), share, threads))
    return outputs


# ----------------------------------------------------------------------- many variables


@partial(jit, fastmath={"contract", "reassoc"})  # in any order, so that variables are added in vectors
def square_distances(x, y, n, m, band, D, share, shares):
    """(output) Delta of every ``shares``-th pair of series where a path may lead, in blocks of two steps by four."""
    C = x.shape[2]
    a, b = np.empty(x.shape[1:]), np.empty(y.shape[1:])  # the pair in float64
    for pair in range(share, x.shape[0], shares):
        N, M = n[pair], m[pair]
        for i in range(N):
            for c in range(C):
                a[i, c] = x[pair, i, c]
        for j in range(M):
            for c in range(C):
                b[j, c] = y[pair, j, c]
        for i in range(0, N, 2):
            for j in range(max(0, i - band), min(M, i + band + 2), 4):
                # A block that is not whole has its last step several times.
                i_1, j_1, j_2, j_3 = min(i + 1, N - 1), min(j + 1, M - 1), min(j + 2, M - 1), min(j + 3, M - 1)
                D_00 = D_01 = D_02 = D_03 = D_10 = D_11 = D_12 = D_13 = 0.0
                for c in range(C):
                    x_0, x_1 = a[i, c], a[i_1, c]
                    y_0, y_1, y_2, y_3 = b[j, c], b[j_1, c], b[j_2, c], b[j_3, c]
                    D_00 += (x_0 - y_0) * (x_0 - y_0)
                    D_01 += (x_0 - y_1) * (x_0 - y_1)
                    D_02 += (x_0 - y_2) * (x_0 - y_2)
                    D_03 += (x_0 - y_3) * (x_0 - y_3)
                    D_10 += (x_1 - y_0) * (x_1 - y_0)
                    D_11 += (x_1 - y_1) * (x_1 - y_1)
                    D_12 += (x_1 - y_2) * (x_1 - y_2)
                    D_13 += (x_1 - y_3) * (x_1 - y_3)
                D[pair, i, j], D[pair, i, j_1], D[pair, i, j_2], D[pair, i, j_3] = D_00, D_01, D_02, D_03
                D[pair, i_1, j], D[pair, i_1, j_1], D[pair, i_1, j_2], D[pair, i_1, j_3] = D_10, D_11, D_12, D_13


@partial(jit, fastmath={"contract"})
def chain_to_series(E, x, y, by_x, share, shares):
    """(output) ``2 sum_j E (x - y_j)`` at each step of every ``shares``-th pair, E by the distances of the series.

    A product of matrices would take the many cells that no path passes, and lose the digits of series that lie far
    from zero, ``rowsum(E) x - E y``.
    """
    (N, C), M = x.shape[1:], y.shape[1]
    steps, weights, sums = np.zeros(M + 4, np.int64), np.empty(M + 4), np.empty(C)
    for pair in range(share, x.shape[0], shares):
        for i in range(N):
            largest, n = 0.0, 0
            for j in range(M):
                largest = max(largest, abs(E[pair, i, j]))
            for j in range(M):
                if not abs(E[pair, i, j]) <= NEGLIGIBLE * largest:  # NaN counts
                    steps[n], weights[n], n = j, 2.0 * E[pair, i, j], n + 1
            weights[n : n + 4] = 0.0
            steps[n : n + 4] = steps[0]
            sums[:] = 0.0
            for k in range(0, n, 4):
                E_0, E_1, E_2, E_3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
                j_0, j_1, j_2, j_3 = steps[k], steps[k + 1], steps[k + 2], steps[k + 3]
                for c in range(C):
                    x_i, y_0, y_1 = float(x[pair, i, c]), float(y[pair, j_0, c]), float(y[pair, j_1, c])
                    y_2, y_3 = float(y[pair, j_2, c]), float(y[pair, j_3, c])
                    sums[c] += E_0 * (x_i - y_0) + E_1 * (x_i - y_1) + E_2 * (x_i - y_2) + E_3 * (x_i - y_3)
            for c in range(C):
                by_x[pair, i, c] = sums[c]


def _square_distances(x, y, n, m, band, D) -> None:
    """(output) Delta of each pair where a path may lead."""
    B, N, M = D.shape
    n, m = (_same_for_all(B, K) if k is None else k.contiguous().numpy() for k, K in ((n, N), (m, M)))
    _on_pairs(square_distances, x, y, n, m, N + M if band < 0 else band, D)


def _on_pairs(kernel: Callable, *arguments: Tensor | np.ndarray | int) -> None:
    """Run a kernel over the pairs of a batch, on torch's number of threads."""
    threads = min(torch.get_num_threads(), len(arguments[0]))
    arguments = [a.numpy() if isinstance(a, Tensor) else a for a in arguments]
    on_threads(threads, lambda share: kernel(*arguments, share, threads))
