"""The sweeps on CUDA devices: numba.cuda, one block of threads for each pair of series.

The recursions, their letters and their precision are those of :mod:`loss.soft_dtw` and :mod:`loss.path_soft_dtw`, and
the formulas of a cell those of :mod:`.cells`, compiled for a thread.

One launch does everything for a batch. A block takes one pair after the other, and its threads stride along the
anti-diagonals ("rows"), with a barrier between two of them, so that any length works. Rows of V, then of E, are in
shared memory if they fit. The softmin weights are kept for a *segment* of rows only, in memory of a block, not of a
pair: V at the starts of the segments is kept as well, and a segment is swept again before the way back goes through
it. Its E is kept too, and then each thread sums up derivatives by some steps of a series: no two threads write to the
same number, so nothing is atomic and results are the same every time.

Kernels take bare pointers, for numba looks longer at an array than a small sweep takes; they read gamma where it is,
so that the host never waits; and they run on torch's current stream, which torch's array interface does not tell.
Under ``NUMBA_ENABLE_CUDASIM=1`` the same code runs on CPU tensors.

Nothing is cached on disk: to compile takes some seconds, and whether numba would ever hand out stale machine code, as
:mod:`.jit` rules out for the CPU, could not be tried without a GPU.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import config, cuda, float32, float64, int64
from torch import Tensor

from .cells import formulas
from .lattice import LN2, UNREACHABLE, MaybeTensor, Wants, allocate, check_arguments

_SIMULATED = bool(config.ENABLE_CUDASIM)
_REGISTERS = 128  # of a thread: 512 threads fill the register file of a processor

# ----------------------------------------------------------------------- what a kernel is told


class Numbers:
    """A pointer to numbers of the input's precision."""


class Doubles:
    """A pointer to float64."""


class Integers:
    """A pointer to int64."""


class Problem(NamedTuple):
    """What to sweep over; pointers that a call does not need are null."""

    x: Numbers  # (B, C, N) predictions, time last, so that neighbouring threads read neighbouring numbers
    y: Numbers  # (B, C, M) targets
    D: Numbers  # (B, N, M) costs, if they are given instead
    gamma: Doubles  # ()
    omega: Doubles  # Omega of pair b at (i, j) is at first + b * by_pair + i * by_row + j * by_column
    omega_scale: Doubles  # (B,) its factor for each pair
    n: Integers  # (B,) true lengths of x
    m: Integers  # (B,) true lengths of y
    batch: int
    N: int
    M: int
    C: int
    band: int  # N + M for none
    first: int
    by_pair: int
    by_row: int
    by_column: int
    of_series: bool
    has_scale: bool
    has_n: bool
    has_m: bool
    dual: bool  # is there an Omega, so that V_dot and E_dot are swept too?
    want_x: bool
    want_y: bool
    want_D: bool
    want_gamma: bool
    backward: bool  # any of these


class Results(NamedTuple):
    """What a kernel writes, as in :class:`.lattice.Results`; null where it is not wanted."""

    value: Numbers
    value_dot: Numbers
    d_x: Numbers
    d_y: Numbers
    d_D: Numbers
    d_gamma: Doubles


class Plan(NamedTuple):
    """How a block works, and the memory that all blocks have; ``*_at``: where a part begins in that of a block."""

    doubles: Doubles
    numbers: Numbers  # the softmin weights left, diagonal, up and, with the dual part, the derivatives of left and up
    doubles_per_block: int
    numbers_per_block: int
    width: int  # cells in the longest row
    rows: int  # in a segment; of weights there are two more, which the last ones of the segment look at
    table: int  # of each of the parts of the weights
    cells: int  # in a segment
    stride: int  # distance of two rows of V, or of normalised E, of which there are three; V_dot is N after V
    rows_at: int  # if they are not in shared memory
    saved_at: int  # E, while a segment is swept again, then V at the start of each segment but the first
    E_at: int  # E and, with the dual part, E_dot
    by_x_at: int  # sums for the derivatives by the series
    by_y_at: int
    sums_at: int  # of each thread, for the derivatives by gamma


class Pair(NamedTuple):
    """One pair of series, and where the memory of its block begins."""

    b: int
    n: int
    m: int
    inverse_gamma: float
    unit: float  # 1 / (gamma * log(2)): V is in units of gamma * log(2)
    omega_scale: float
    doubles: int
    numbers: int
    rows: int


def _device(function: Callable) -> Callable:
    return cuda.jit(device=True)(function)


# ----------------------------------------------------------------------- a cell


@_device
def _larger(a, b):
    return a if a > b else b  # the built-in max of two numbers does not compile for CUDA (numba, issue 10753)


@_device
def _smaller(a, b):
    return a if a < b else b


@_device
def _where_positive(condition, then, otherwise):
    return then if condition > 0 else otherwise


@_device
def _exp2_minus_abs(x):
    return math.exp2(-abs(x))


@_device
def _log2_1p(u):
    return math.log1p(u) * (1.0 / LN2)


class Operations:
    """What the formulas of a cell are made of on a GPU: functions on the numbers of one thread."""

    function = staticmethod(_device)
    least, where_positive, exp2_minus_abs, log2_1p = _smaller, _where_positive, _exp2_minus_abs, _log2_1p
    double = float64


_cell = formulas(Operations)
_softmin, _tangent, _correction = _cell.softmin, _cell.tangent, _cell.correction
_adjoint, _adjoint_dot, _entropies = _cell.adjoint, _cell.adjoint_dot, _cell.entropies


@_device
def _omega(problem, pair, i, j):
    """Omega of a cell (Eq. 3)."""
    at = problem.first + pair.b * problem.by_pair + i * problem.by_row + j * problem.by_column
    return problem.omega[at] * pair.omega_scale


@_device
def _cost(problem, pair, i, j):
    """The cost of a cell in units of gamma * log(2); float64 differences keep the digits of series far from zero."""
    total = 0.0
    if problem.of_series:
        x, y = pair.b * problem.C * problem.N + i, pair.b * problem.C * problem.M + j
        for c in range(problem.C):
            difference = float64(problem.x[x + c * problem.N]) - float64(problem.y[y + c * problem.M])
            total += difference * difference
    else:
        total = float64(problem.D[(pair.b * problem.N + i) * problem.M + j])
    return total * pair.unit


# ----------------------------------------------------------------------- forward


@_device
def _row(problem, pair, d):
    """First and last cell i of row d, which may have none."""
    lo = _larger(_larger(0, d - pair.m + 1), (d - problem.band + 1) >> 1)
    return lo, _smaller(_smaller(d, pair.n - 1), (d + problem.band) >> 1)


@_device
def _advance_cell(problem, plan, pair, rows, d, i, weights, keep, number):
    """V, q and, if asked for, V_dot and the derivatives of q, of cell i of row d; ``weights`` is where they go."""
    j, T, N = d - i, plan.numbers, problem.N
    here = pair.rows + (d % 3) * plan.stride + i
    before = pair.rows + ((d + 2) % 3) * plan.stride + i
    diagonal = pair.rows + ((d + 1) % 3) * plan.stride + i - 1
    has_left, has_up = j > 0 and i - j < problem.band, i > 0 and j - i < problem.band
    has_diagonal = i > 0 and j > 0

    start = 0.0 if d == 0 else UNREACHABLE  # the path starts at (-1, -1)
    V_left = rows[before] if has_left else UNREACHABLE
    V_diagonal = rows[diagonal] if has_diagonal else start
    V_up = rows[before - 1] if has_up else UNREACHABLE
    value, left, up, middle = _softmin(V_left, V_up, V_diagonal, number)
    rows[here] = _cost(problem, pair, i, j) + value
    if keep:
        T[weights] = left
        T[weights + plan.table] = middle
        T[weights + 2 * plan.table] = up

    if problem.dual:
        from_left = rows[before + N] if has_left else 0.0
        from_up = rows[before - 1 + N] if has_up else 0.0
        from_diagonal = rows[diagonal + N] if has_diagonal else 0.0
        inverse_gamma = number(pair.inverse_gamma)
        value_dot, left_dot, up_dot = _tangent(
            _omega(problem, pair, i, j), from_left, from_up, from_diagonal, left, up, middle, inverse_gamma, number
        )
        rows[here + N] = value_dot
        if keep:
            T[weights + 3 * plan.table] = left_dot
            T[weights + 4 * plan.table] = up_dot


@_device
def _copy(source, begin, target, to, size):
    for k in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        target[to + k] = source[begin + k]


@_device
def _advance(problem, plan, pair, rows, begin, end, origin, first_time, number):
    """The rows from ``begin`` to ``end``; weights are kept of those from ``origin`` on.

    The first time through, keep at the start of each segment what a second sweep needs.
    """
    segment = 1
    for d in range(begin, end + 1):
        if first_time and d == segment * plan.rows and d < origin:
            saved = pair.doubles + plan.saved_at + segment * 3 * plan.stride
            _copy(rows, pair.rows, plan.doubles, saved, 3 * plan.stride)
            cuda.syncthreads()
            segment += 1
        lo, hi = _row(problem, pair, d)
        weights = pair.numbers + (d - origin) * plan.width - lo
        for i in range(lo + cuda.threadIdx.x, hi + 1, cuda.blockDim.x):
            _advance_cell(problem, plan, pair, rows, d, i, weights + i, d >= origin, number)
        cuda.syncthreads()


# ----------------------------------------------------------------------- backward


@_device
def _pull(problem, plan, pair, rows, d, i, origin, number):
    """E and E_dot of cell i of row d: what its successors send back over left, up and diagonal steps."""
    j, T, N, table = d - i, plan.numbers, problem.N, plan.table
    has_right = j + 1 < pair.m and j - i < problem.band
    has_below = i + 1 < pair.n and i - j < problem.band
    has_beyond = i + 1 < pair.n and j + 1 < pair.m
    right = pair.rows + ((d + 1) % 3) * plan.stride + i  # its normalised E; one more is that of the cell below
    beyond = pair.rows + ((d + 2) % 3) * plan.stride + i + 1
    next_row = pair.numbers + (d + 1 - origin) * plan.width + i - _row(problem, pair, d + 1)[0]
    later = pair.numbers + (d + 2 - origin) * plan.width + i + 1 - _row(problem, pair, d + 2)[0]
    zero = number(0.0)
    left, of_right = (T[next_row], rows[right]) if has_right else (zero, 0.0)
    up, of_below = (T[next_row + 2 * table + 1], rows[right + 1]) if has_below else (zero, 0.0)
    diagonal, of_beyond = (T[later + table], rows[beyond]) if has_beyond else (zero, 0.0)
    is_last = i == pair.n - 1 and j == pair.m - 1
    E, E_dot = 1.0 if is_last else _adjoint(left, up, diagonal, of_right, of_below, of_beyond), 0.0
    if problem.dual and not is_last:
        left_dot = T[next_row + 3 * table] if has_right else zero
        up_dot = T[next_row + 4 * table + 1] if has_below else zero
        left_dot_beyond, up_dot_beyond = (T[later + 3 * table], T[later + 4 * table]) if has_beyond else (zero, zero)
        E_dot = _adjoint_dot(left_dot, up_dot, left_dot_beyond, up_dot_beyond, of_right, of_below, of_beyond)
        dot_right = rows[right + N] if has_right else 0.0
        dot_below = rows[right + 1 + N] if has_below else 0.0
        dot_beyond = rows[beyond + N] if has_beyond else 0.0
        E_dot += _adjoint(left, up, diagonal, dot_right, dot_below, dot_beyond)
    return E, E_dot


@_device
def _keep_derivatives(problem, plan, results, pair, i, j, k, E, E_dot, number):
    """Derivatives of the results by the cost of a cell, the k-th of its segment."""
    if problem.want_D:
        at = (pair.b * problem.N + i) * problem.M + j
        results.d_D[at] = number(E)
        if problem.dual:
            results.d_D[problem.batch * problem.N * problem.M + at] = number(E_dot)
    if problem.want_x or problem.want_y:
        at = pair.doubles + plan.E_at + k
        plan.doubles[at] = E
        if problem.dual:
            plan.doubles[at + plan.cells] = E_dot


@_device
def _go_back(problem, plan, results, pair, rows, origin, last, number):
    """E and E_dot of the rows from ``last`` down to ``origin``, and what this thread has for the entropies."""
    T, table = plan.numbers, plan.table
    by_gamma, by_gamma_dot = 0.0, 0.0
    for d in range(last, origin - 1, -1):
        lo, hi = _row(problem, pair, d)
        here = pair.rows + (d % 3) * plan.stride
        in_segment = (d - origin) * plan.width - lo
        for i in range(lo + cuda.threadIdx.x, hi + 1, cuda.blockDim.x):
            own = pair.numbers + in_segment + i
            left, diagonal, up = float64(T[own]), float64(T[own + table]), float64(T[own + 2 * table])
            E, E_dot = _pull(problem, plan, pair, rows, d, i, origin, number)
            correction = _correction(left, up, diagonal)
            rows[here + i] = E * correction  # normalised: E divided by the sum of the weights
            if problem.dual:
                rows[here + i + problem.N] = E_dot * correction
            _keep_derivatives(problem, plan, results, pair, i, d - i, in_segment + i, E, E_dot, number)
            if problem.want_gamma:
                left_dot, up_dot = 0.0, 0.0
                if problem.dual:
                    left_dot, up_dot = float64(T[own + 3 * table]), float64(T[own + 4 * table])
                entropy, entropy_dot = _entropies(left, up, diagonal, left_dot, up_dot)
                by_gamma -= E * entropy
                by_gamma_dot -= E_dot * entropy + E * entropy_dot
        cuda.syncthreads()
    return by_gamma, by_gamma_dot


@_device
def _add_to_series(problem, plan, pair, own, length, N, other, other_length, M, of_x, to, origin, last):
    """Chain E of a segment through Delta = (x - y)**2, for one of the series: its (C, N), the other one's (C, M)."""
    E = pair.doubles + plan.E_at
    for p in range(cuda.threadIdx.x, problem.C * length, cuda.blockDim.x):
        c, k = p // length, p % length
        value = float64(own[(pair.b * problem.C + c) * N + k])
        theirs = (pair.b * problem.C + c) * M - k
        begin = _larger(_larger(origin, k), 2 * k - problem.band)
        end = _smaller(_smaller(last, k + other_length - 1), 2 * k + problem.band)
        total, total_dot = 0.0, 0.0
        for d in range(begin, end + 1):
            i = k if of_x else d - k
            at = E + (d - origin) * plan.width + i - _row(problem, pair, d)[0]
            difference = value - float64(other[theirs + d])
            total += plan.doubles[at] * difference
            if problem.dual:
                total_dot += plan.doubles[at + plan.cells] * difference
        plan.doubles[to + c * N + k] += total
        if problem.dual:
            plan.doubles[to + (problem.C + c) * N + k] += total_dot


@_device
def _store_by_series(problem, plan, pair, to, N, nan_if_invalid, out, number):
    """From sums (C, N), one term after the other, to the results (terms, B, N, C)."""
    size = N * problem.C
    for term in range(2 if problem.dual else 1):
        for p in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            total = plan.doubles[to + term * size + (p % problem.C) * N + p // problem.C]
            out[(term * problem.batch + pair.b) * size + p] = number(2.0 * total + nan_if_invalid)


@_device
def _store_by_gamma(problem, plan, results, pair, by_gamma, by_gamma_dot, nan_if_invalid):
    """Add up what the threads have, in their order."""
    sums, threads = pair.doubles + plan.sums_at, cuda.blockDim.x
    plan.doubles[sums + cuda.threadIdx.x] = by_gamma
    plan.doubles[sums + threads + cuda.threadIdx.x] = by_gamma_dot
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        total, total_dot = nan_if_invalid, nan_if_invalid
        for t in range(threads):
            total += plan.doubles[sums + t]
            total_dot += plan.doubles[sums + threads + t]
        results.d_gamma[pair.b] = total
        if problem.dual:
            results.d_gamma[problem.batch + pair.b] = total_dot


@_device
def _way_back(problem, plan, results, pair, rows, end, origin, nan_if_invalid, number):
    """All segments from the last one to the first, and the derivatives of this pair."""
    by_x, by_y = pair.doubles + plan.by_x_at, pair.doubles + plan.by_y_at
    for p in range(cuda.threadIdx.x, plan.sums_at - plan.by_x_at, cuda.blockDim.x):
        plan.doubles[by_x + p] = 0.0
    by_gamma, by_gamma_dot, size = 0.0, 0.0, 3 * plan.stride
    saved = pair.doubles + plan.saved_at
    while origin >= 0:
        last = _smaller(origin + plan.rows - 1, end)
        if last < end:  # its weights have not been kept
            _copy(rows, pair.rows, plan.doubles, saved, size)  # each thread the same numbers in all three copies
            _copy(plan.doubles, saved + origin // plan.rows * size, rows, pair.rows, size if origin > 0 else 0)
            cuda.syncthreads()
            _advance(problem, plan, pair, rows, origin, _smaller(last + 2, end), origin, False, number)
            _copy(plan.doubles, saved, rows, pair.rows, size)
            cuda.syncthreads()
        more, more_dot = _go_back(problem, plan, results, pair, rows, origin, last, number)
        by_gamma, by_gamma_dot = by_gamma + more, by_gamma_dot + more_dot
        if problem.want_x:
            _add_to_series(problem, plan, pair, problem.x, pair.n, problem.N, problem.y, pair.m, problem.M, True,
                           by_x, origin, last)  # fmt: skip
        if problem.want_y:
            _add_to_series(problem, plan, pair, problem.y, pair.m, problem.M, problem.x, pair.n, problem.N, False,
                           by_y, origin, last)  # fmt: skip
        cuda.syncthreads()
        origin -= plan.rows

    if problem.want_x:
        _store_by_series(problem, plan, pair, by_x, problem.N, nan_if_invalid, results.d_x, number)
    if problem.want_y:
        _store_by_series(problem, plan, pair, by_y, problem.M, nan_if_invalid, results.d_y, number)
    if problem.want_gamma:
        _store_by_gamma(problem, plan, results, pair, by_gamma, by_gamma_dot, nan_if_invalid)


# ----------------------------------------------------------------------- a pair, and the batch


@_device
def _store_values(problem, results, pair, value, value_dot, number):
    if cuda.threadIdx.x == 0:
        results.value[pair.b] = number(value)
        if problem.dual:
            results.value_dot[pair.b] = number(value_dot)


@_device
def _spoil_path(problem, results, pair):
    """NaN instead of E and E_dot."""
    size = problem.N * problem.M
    for term in range(2 if problem.dual else 1):
        for p in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            results.d_D[(term * problem.batch + pair.b) * size + p] = math.nan


@_device
def _sweep_pair(problem, plan, results, pair, rows, number):
    end = pair.n + pair.m - 2
    origin = end // plan.rows * plan.rows if problem.backward else end + 1
    _advance(problem, plan, pair, rows, 0, end, origin, problem.backward, number)
    last = pair.rows + (end % 3) * plan.stride + pair.n - 1
    V, V_dot = rows[last], rows[last + problem.N] if problem.dual else 0.0
    longer = pair.n - pair.m if pair.n > pair.m else pair.m - pair.n
    valid = abs(V) < 0.5 * UNREACHABLE and longer <= problem.band
    nan_if_invalid = 0.0 if valid else math.nan  # added to all that depends on a value that is NaN
    _store_values(problem, results, pair, V * problem.gamma[0] * LN2 + nan_if_invalid, V_dot + nan_if_invalid, number)
    cuda.syncthreads()  # rows are used for E from here on
    if problem.backward:
        _way_back(problem, plan, results, pair, rows, end, origin, nan_if_invalid, number)
        if problem.want_D and not valid:
            _spoil_path(problem, results, pair)


@_device
def _sweep_pairs(problem, plan, results, rows, rows_at, number):
    """All pairs of this block."""
    doubles, numbers = cuda.blockIdx.x * plan.doubles_per_block, cuda.blockIdx.x * plan.numbers_per_block
    for b in range(cuda.blockIdx.x, problem.batch, cuda.gridDim.x):
        n = problem.n[b] if problem.has_n else problem.N
        m = problem.m[b] if problem.has_m else problem.M
        omega_scale = problem.omega_scale[b] if problem.has_scale else 1.0
        unit = 1.0 / (problem.gamma[0] * LN2)
        pair = Pair(b, n, m, 1.0 / problem.gamma[0], unit, omega_scale, doubles, numbers, rows_at)
        _sweep_pair(problem, plan, results, pair, rows, number)


def make_kernel(number, shared: bool) -> Callable:
    """The kernel for float32 or float64, with its rows in shared memory or not."""

    def sweep_in_shared_memory(problem, plan, results):
        _sweep_pairs(problem, plan, results, cuda.shared.array(0, float64), 0, number)

    def sweep_in_global_memory(problem, plan, results):
        rows_at = cuda.blockIdx.x * plan.doubles_per_block + plan.rows_at
        _sweep_pairs(problem, plan, results, plan.doubles, rows_at, number)

    return sweep_in_shared_memory if shared else sweep_in_global_memory


def signature(number) -> tuple:
    """The types of a kernel's arguments."""
    from numba.cuda import types

    known = {
        Numbers: types.CPointer(number),
        Doubles: types.CPointer(float64),
        Integers: types.CPointer(int64),
        int: int64,
        float: float64,
        bool: types.boolean,
    }
    return tuple(
        types.NamedTuple([known[kind] for kind in arguments.__annotations__.values()], arguments)
        for arguments in (Problem, Plan, Results)
    )


@cache
def _compiled(number, shared: bool, device: torch.device) -> Callable:
    """A kernel, ready to be launched on a device: each has machine code of its own."""
    if _SIMULATED:
        return cuda.jit(make_kernel(number, shared))
    return cuda.jit(signature(number), max_registers=_REGISTERS)(make_kernel(number, shared))


@lru_cache(maxsize=256)
def _launcher(number, device: torch.device, blocks: int, threads: int, shared_bytes: int, stream: int) -> Callable:
    """A kernel on a device, which is the current one, and on one of its streams, given by its address."""
    kernel = _compiled(number, shared_bytes > 0, device)
    with warnings.catch_warnings():  # a small batch needs few blocks, and numba would say so each time
        warnings.filterwarnings("ignore", "Grid size")
        return kernel[blocks, threads, cuda.external_stream(stream), shared_bytes]


# ----------------------------------------------------------------------- how a batch is cut up


class Limits(NamedTuple):
    """What a launch may use of a device."""

    processors: int = 1
    warp: int = 32
    most_threads: int = 512  # of a block; a longer row takes several turns
    threads_per_processor: int = 512  # enough to hide each other's waiting, few enough to share the scratch memory
    shared_bytes: int = 48 << 10  # of a block, without asking the device for more
    scratch_bytes: int = 64 << 20  # for weights, E and all as large as the series; more if sqrt(all rows) need more


class Sizes(NamedTuple):
    """What decides about memory."""

    batch: int
    N: int
    M: int
    C: int
    band: int  # N + M for none
    itemsize: int
    dual: bool
    want_x: bool
    want_y: bool
    backward: bool


@cache
def limits_of(device: torch.device) -> Limits:
    """The limits of a device."""
    return Limits(1 if _SIMULATED else torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache(maxsize=128)
def make_plan(sizes: Sizes, limits: Limits) -> tuple[Plan, int, int, int]:
    """A plan without its memory, and blocks, threads, and bytes of shared memory."""
    batch, N, M, C, band, itemsize, dual, want_x, want_y, backward = sizes
    width = min(N, M, band + 1)
    threads = min(limits.most_threads, -(-width // limits.warp) * limits.warp)
    blocks = min(batch, limits.processors * max(1, limits.threads_per_processor // threads))
    terms = 2 if dual else 1
    stride, of_weights, of_E = N * terms, 5 if dual else 3, terms if want_x or want_y else 0
    shared_bytes = 3 * stride * 8 if 3 * stride * 8 <= limits.shared_bytes else 0

    diagonals, bytes_per_row = N + M - 1, width * (of_weights * itemsize + 8 * of_E)
    by_x, by_y = terms * C * N if want_x else 0, terms * C * M if want_y else 0
    copies_and_gradients = (1 + terms) * batch * C * (N + M) * itemsize
    room = (limits.scratch_bytes - copies_and_gradients) // blocks - 8 * (by_x + by_y)
    rows = min(diagonals, max(math.isqrt(diagonals - 1) + 1, room // bytes_per_row))
    segments = -(-diagonals // rows) if backward else 0
    parts = (
        0 if shared_bytes else 3 * stride,
        segments * 3 * stride if segments > 1 else 0,
        rows * width * of_E if backward else 0,
        by_x,
        by_y,
        2 * threads,
    )
    rows_at, saved_at, E_at, by_x_at, by_y_at, sums_at, doubles = np.cumsum((0, *parts)).tolist()
    table = (rows + 2) * width if backward else 0
    plan = Plan(0, 0, doubles, of_weights * table, width, rows, table, rows * width, stride, rows_at, saved_at, E_at,
                by_x_at, by_y_at, sums_at)  # fmt: skip
    return plan, blocks, threads, shared_bytes


def _pointer(tensor: Tensor | None):
    """The address of a tensor's first number, or what the simulator has for it."""
    if tensor is None or not tensor.numel():
        return 0
    return memoryview(tensor.detach().numpy().reshape(-1)) if _SIMULATED else tensor.data_ptr()


def _launch(problem: Problem, results: Results, sizes: Sizes, limits: Limits, like: Tensor) -> None:
    """Sweep the whole batch, on the current stream of the tensors' device."""
    device = like.device
    plan, blocks, threads, shared_bytes = make_plan(sizes, limits)
    doubles = like.new_empty(blocks * plan.doubles_per_block, dtype=torch.float64)
    numbers = like.new_empty(blocks * plan.numbers_per_block)
    plan = plan._replace(doubles=_pointer(doubles), numbers=_pointer(numbers))
    number = _NUMBERS[like.dtype]
    if _SIMULATED:
        _compiled(number, shared_bytes > 0, device)[blocks, threads, 0, shared_bytes](problem, plan, results)
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        _launcher(number, device, blocks, threads, shared_bytes, stream)(problem, plan, results)


_NUMBERS = {torch.float32: float32, torch.float64: float64}


# ----------------------------------------------------------------------- what the operators call


def _omega_steps(omega: Tensor | None, N: int, M: int) -> tuple[int, int, int, int]:
    """Where Omega begins, and how far apart those of two pairs, two rows and two columns are."""
    if omega is None:
        return 0, 0, 0, 0
    if omega.dim() == 1:
        return M - 1, 0, 1, -1
    return 0, N * M if omega.shape[0] > 1 else 0, M, 1


def sweep(
    x: MaybeTensor,
    y: MaybeTensor,
    D: MaybeTensor,
    gamma: Tensor,
    n: MaybeTensor,
    m: MaybeTensor,
    omega: MaybeTensor,
    omega_scale: MaybeTensor,
    band: int,
    wants: Wants,
    limits: Limits | None = None,
) -> tuple[Tensor, ...]:
    """Either operator: pack the arguments, allocate the results, launch; without Omega there is no temporal term."""
    check_arguments(x, y, D, gamma, n, m, omega, omega_scale, band)
    of_series, dual = D is None, omega is not None
    batch, N, M, C = (*x.shape[:2], *y.shape[1:]) if of_series else (*D.shape, 1)
    like, band = x if of_series else D, N + M if band < 0 else min(band, N + M)
    # copies must live until the kernel is launched; torch gives their memory to what comes after it on the stream
    series = (s.detach().transpose(1, 2).contiguous() for s in (x, y)) if of_series else (None, None)
    others = (t if t is None else t.contiguous() for t in (D, gamma, omega, omega_scale, n, m))
    inputs = (*series, *others)
    problem = Problem(
        *map(_pointer, inputs), batch, N, M, C, band, *_omega_steps(omega, N, M), of_series,
        *(t is not None for t in (omega_scale, n, m)), dual, *wants, any(wants),
    )  # fmt: skip
    outputs = allocate(x, y, D, gamma, 2 if dual else 1, wants)
    sizes = Sizes(batch, N, M, C, band, like.element_size(), dual, *wants[:2], any(wants))
    _launch(problem, Results(*map(_pointer, outputs)), sizes, limits or limits_of(like.device), like)
    return outputs
