"""The sweeps on the CPU: how a batch is cut into tiles that threads share; :mod:`.tile` has the sweeps themselves."""

import ctypes
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from . import halves, workers
from .call import Call, Inputs, Results, addresses, pack
from .forms import of_costs, of_series
from .simd import LANES, SLACK
from .tile import sweep_tiles

_TABLE_BYTES = 6 << 20  # of weights at most: what is kept of a lattice that needs more is a segment
_SEGMENT_BYTES = 1 << 20  # weights of a segment: they stay in the cache until the way back
_ROW_CELLS = 1536  # cells in a row of a tile: so many that the work on them outweighs that on a row
_PARALLEL_CELLS = 1 << 14  # below this a second thread costs more than it brings
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


class Plan(NamedTuple):
    """How the work on a batch is cut up."""

    lo: np.ndarray  # arrays as in `Call`
    hi: np.ndarray
    start: np.ndarray
    parts: np.ndarray
    fields: tuple[int, ...]  # their addresses, and the other numbers of the plan
    room_for_numbers: int
    room_for_doubles: int


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
    arrays = lo, hi, start, np.concatenate([numbers[:3], doubles])
    rooms = int(numbers[-1]), int(doubles[-1])
    at = (array.ctypes.data for array in arrays)
    return Plan(*arrays, (*at, tile, rows, stride, table, itemsize, *rooms), *rooms)


# ----------------------------------------------------------------------- what loss/kernels/__init__.py calls

_memory = workers.Memory()


def _contiguous(tensor):
    return None if tensor is None else tensor.contiguous()


def _results(x, y, D, gamma, terms, apart, want_x, want_y, want_D, want_gamma):
    like = D if x is None else x
    batch = like.shape[0]
    return Results(
        like.new_empty(batch),
        like.new_empty(batch if apart else 0),
        x.new_empty(terms, *x.shape) if want_x else None,
        y.new_empty(terms, *y.shape) if want_y else None,
        D.new_zeros(terms, *D.shape) if want_D else None,
        gamma.new_zeros(2, batch) if want_gamma else None,
    )


def _sweep(x, y, D, gamma, omega, omega_scale, n, m, band, scales, dual, weights, wants):
    """Allocate the results and run; ``wants``: differentiate by x, by y, by D, by gamma."""
    of_series, apart, backward = D is None, weights is None, any(wants)
    batch, N, M, C = (*x.shape[:2], *y.shape[1:]) if of_series else (*D.shape, 0)
    omegas = (omega, None) if omega.dim() == 1 else (None, omega)
    inputs = Inputs(*map(_contiguous, (x, y, D, *omegas, omega_scale, n, m)))
    results = _results(x, y, D, gamma, 2 if dual and apart else 1, apart, *wants)
    dtype = results.value.dtype

    threads = torch.get_num_threads() if batch * N * M >= _PARALLEL_CELLS else 1
    halved = threads > 1 and N * M >= _HALVED_CELLS and halves.can_be_halved(inputs, band) and not wants[3]
    threads, end = (2, max(halves.ends(N, M))) if halved else (min(threads, batch), N + M - 2)
    plan = _plan(N, M, C, band, batch, end, dtype.itemsize, inputs.toeplitz is not None, *wants[:2], backward,
                 min(threads, batch), _TABLE_BYTES, _SEGMENT_BYTES)  # fmt: skip
    doubles = _memory.take("doubles", threads * plan.room_for_doubles, torch.float64)
    numbers = _memory.take("numbers", threads * plan.room_for_numbers, dtype)
    call = Call(
        0, 0, batch, N, M, C, of_series, *scales, omega.shape[0], gamma.item(), dual, apart, *(weights or (1.0, 0.0)),
        *wants, backward, *addresses(inputs), *addresses(results), *addresses((doubles, numbers)),
        *plan.fields,
    )  # fmt: skip
    if halved:
        halves.sweep_halves(call, plan, inputs, results, doubles)
    else:
        block = pack(call)
        workers.run(threads, sweep_tiles(dtype), ctypes.addressof(block))
    return results


series, matrix = of_series(_sweep), of_costs(_sweep)
