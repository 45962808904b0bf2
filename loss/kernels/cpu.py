"""The sweeps on the CPU: how a batch is cut into tiles that threads share; :mod:`.tile` has the sweeps themselves."""

import math
from functools import cache, lru_cache

import numpy as np
import torch

from . import halves, workers
from .simd import LANES, SLACK
from .tile import Plan, Problem, Results, sweep_tiles

_TABLE_BYTES = 6 << 20  # of weights at most: what is kept of a lattice that needs more is a segment
_SEGMENT_BYTES = 1 << 20  # weights of a segment: they stay in the cache until the way back
_ROW_CELLS = 1536  # cells in a row of a tile: so many that the work on them outweighs that on a row
_PARALLEL_CELLS = 1 << 16  # below this a second thread costs more than it brings
_HALVED_CELLS = 1 << 19  # and below this two halves of one pair, with a meeting between them


def _row_bounds(N, M, band):
    """First and last cell of each row, and where the row's weights begin in a table with a cell around each."""
    d = np.arange(N + M)
    lo, hi = np.maximum(0, d - M + 1), np.minimum(N - 1, d)
    if band >= 0:
        lo = np.maximum(lo, -((band - d) // 2))
        hi = np.maximum(np.minimum(hi, (d + band) // 2), lo - 1)  # a row may have no cells, but no fewer
    return lo, hi, np.concatenate([[0], np.cumsum(hi - lo + 3)])


def _offsets(sizes):
    """Where parts of these sizes begin, each at a cache line, and how much they are together."""
    ends = np.cumsum([-(-size // LANES) * LANES for size in sizes])
    return np.concatenate([[0], ends])


def _tile(batch, threads, most):
    """Pairs in a tile: at most ``most``, a multiple of the vectors' length if that is possible, else all alike."""
    most = max(1, min(most, -(-batch // (2 * max(2, threads)))))
    if most >= LANES:
        return most - most % LANES
    tiles = -(-batch // most)
    return -(-batch // (-(-tiles // threads) * threads))


@lru_cache(maxsize=128)
def _plan(N, M, C, band, batch, end, itemsize, toeplitz, want_x, want_y, backward, threads, table_bytes, segment_bytes):  # fmt: skip # noqa: E501
    """How to cut up the batch, and the rows up to ``end``, so that what a tile needs stays in the cache."""
    lo, hi, start = _row_bounds(N, M, band)
    longest, rows_in_all = int((hi - lo).max()) + 1, end + 1
    bytes_per_pair = 5 * itemsize * int(start[rows_in_all])
    tile = _tile(batch, threads, min(_ROW_CELLS // longest, table_bytes // (2 * bytes_per_pair)))
    rows = rows_in_all
    if bytes_per_pair > table_bytes:
        rows = int(min(rows, max(segment_bytes * rows / (tile * bytes_per_pair), math.sqrt(rows))))
    rows = rows if backward else 1
    begins = np.arange(0, rows_in_all, rows)
    table = int((start[np.minimum(begins + rows + 2, N + M)] - start[begins]).max()) + longest + 3
    table = -(-(table * tile + SLACK) // LANES) * LANES
    stride = -(-((N + 3) * tile + 2 * SLACK) // LANES) * LANES
    row, of_x, of_y = longest * tile + SLACK, C * N * tile + SLACK, C * M * tile + SLACK
    by_x, by_y = of_x if want_x else 0, of_y if want_y else 0
    doubles = _offsets([
        toeplitz and 2 * ((N + M - 1) // 2 + 1) * tile + SLACK, 3 * stride,
        *(3 * stride,) * 3, row + SLACK, row + SLACK, row, by_x, by_x, by_y, by_y,
        row, row, len(begins) * 6 * stride if backward and len(begins) > 1 else 0,
    ])  # fmt: skip
    numbers = _offsets([of_x, of_y, 5 * table])
    parts = np.concatenate([numbers[:3], doubles])
    return Plan(lo, hi, start, tile, rows, stride, table, parts, int(numbers[-1]), int(doubles[-1]))


_memory = workers.Memory()
_DOUBLE = np.dtype(np.float64)


def _run(problem, results, band):
    """Sweep the whole batch."""
    N, M, batch, dtype = problem.N, problem.M, results.value.size, results.value.dtype
    threads = torch.get_num_threads() if batch * N * M >= _PARALLEL_CELLS else 1
    halved = batch == 1 and threads > 1 and N * M >= _HALVED_CELLS and halves.can_be_halved(problem, band)
    threads, end = min(threads, batch), max(halves.ends(problem)) if halved else N + M - 2
    plan = _plan(N, M, problem.x.shape[2], band, batch, end, dtype.itemsize, problem.toeplitz.size > 0,
                 problem.want_x, problem.want_y, problem.backward, threads, _TABLE_BYTES, _SEGMENT_BYTES)  # fmt: skip

    def memory(which=0):
        doubles = _memory.take(("doubles", which), plan.room_for_doubles, _DOUBLE)
        return doubles, _memory.take(("numbers", which), plan.room_for_numbers, dtype)

    if halved:
        halves.sweep_halves(problem, plan, results, (memory(0), memory(1)))
        return
    tickets = np.zeros(1, np.int64)
    workers.on_threads(threads, lambda: sweep_tiles(problem, plan, results, tickets, *memory()))


# ----------------------------------------------------------------------- what loss/kernels/__init__.py calls


@cache
def _nothing(dtype, dimensions):
    """What a call does not need; nobody writes into it."""
    return np.empty((0,) * dimensions, dtype)


def _array(tensor):
    """The numbers of a tensor."""
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).detach().numpy()


def _array_or_nothing(tensor, dtype):
    return _array(tensor) if tensor.numel() else _nothing(dtype, tensor.dim())


def _sweep(x, y, D, shape, gamma, omega, omega_scale, n, m, band, scales, dual, weights, wants):
    """Pack the arguments, allocate the results, run; ``wants``: differentiate by x, by y, by D, by gamma."""
    (batch, N, M), (want_x, want_y, want_D, want_gamma) = shape, wants
    like, apart = D if x is None else x, weights is None
    terms = 2 if dual and apart else 1
    nothing = _nothing(_NUMPY[like.dtype], 3)
    costs = (nothing, nothing, _array(D)) if x is None else (_array(x), _array(y), nothing)
    omega = _array_or_nothing(omega, np.float64)
    omegas = (omega, _nothing(np.float64, 3)) if omega.ndim == 1 else (_nothing(np.float64, 1), omega)
    problem = Problem(
        N, M, *costs, D is None, *scales, *omegas, _array_or_nothing(omega_scale, np.float64),
        _array_or_nothing(n, np.int64), _array_or_nothing(m, np.int64), gamma.item(), dual, apart,
        *((1.0, 0.0) if apart else weights), *wants, any(wants),
    )  # fmt: skip
    value, value_dot = like.new_empty(batch), like.new_empty(batch if apart else 0)
    d_x = x.new_empty(terms, *x.shape) if want_x else None
    d_y = y.new_empty(terms, *y.shape) if want_y else None
    E = D.new_zeros(terms, *D.shape) if want_D else None
    d_gamma = gamma.new_zeros(2, batch) if want_gamma else None
    arrays = (_nothing(_NUMPY[like.dtype], 4) if t is None else t.numpy() for t in (d_x, d_y, E))
    by_gamma = _nothing(np.float64, 2) if d_gamma is None else d_gamma.numpy()
    _run(problem, Results(value.numpy(), value_dot.numpy(), *arrays, by_gamma), band)
    return value, value_dot, d_x, d_y, E, d_gamma


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def _tensor(result, like, dimensions):
    return like.new_empty((0,) * dimensions) if result is None else result


def series(x, y, gamma, omega, omega_scale, n, m, band, cost_scale, omega_in_cost, dual, weights, want_x, want_y, want_gamma):  # fmt: skip # noqa: E501
    """The sweeps over the cost of two series; see :func:`loss.kernels.series`."""
    wants, shape = (want_x, want_y, False, want_gamma), (x.shape[0], x.shape[1], y.shape[1])
    value, value_dot, d_x, d_y, _, d_gamma = _sweep(
        x, y, None, shape, gamma, omega, omega_scale, n, m, band, (cost_scale, omega_in_cost), dual, weights, wants
    )
    return value, value_dot, _tensor(d_x, x, 4), _tensor(d_y, y, 4), _tensor(d_gamma, gamma, 2)


def matrix(D, gamma, omega, n, m, band, dual, want_path, want_gamma):
    """The sweeps over given costs; see :func:`loss.kernels.matrix`."""
    wants, no_scale = (False, False, want_path, want_gamma), gamma.new_empty(0)
    value, value_dot, _, _, E, d_gamma = _sweep(
        None, None, D, D.shape, gamma, omega, no_scale, n, m, band, (1.0, 0.0), dual, None, wants
    )
    return value, value_dot, _tensor(E, D, 4), _tensor(d_gamma, gamma, 2)
