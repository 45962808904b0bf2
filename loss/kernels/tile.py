"""The sweeps of soft-DTW and DILATE on the CPU: numba, vectorised over anti-diagonal and batch together.

One call runs, for every pair of series of the batch, the soft-DTW recursion on dual numbers
``Delta + eps * Omega`` (``eps**2 = 0``), then, where gradients are wanted, its reverse:

====================  =======================================================================
``V``                 values; ``V[N-1, M-1]`` is Eq. 2 of the DILATE paper, the shape term
``V_dot``             derivative along Omega; ``V_dot[N-1, M-1]`` is Eq. 4, the temporal term
``E``                 derivative of ``V[N-1, M-1]`` by the cost: the soft alignment ``A*_gamma``
``E_dot``             derivative of ``V_dot[N-1, M-1]`` by the cost: the Hessian times Omega
====================  =======================================================================

The letters are those of Mensch & Blondel (2018) and Blondel et al. (2021). ``q`` holds the softmin weights of
the three predecessors of a cell: left ``(i, j-1)``, diagonal ``(i-1, j-1)`` and up ``(i-1, j)``.

Layout. A *row* is an anti-diagonal ``d = i + j``; its cells of all series of a *tile* of the batch lie side by
side, cell ``i`` of series ``b`` at ``i * tile + b``. The predecessors of a row are then the same range shifted by
0 or 1 cells, no cell of a row depends on another one, and the loops over a row vectorise for one long pair of
series as well as for a hundred short ones. The softmin weights are kept for a *segment* of rows only; a lattice
that needs several segments keeps the values at their starts, and sweeps a segment again before it goes back
through it. A row goes through the formulas of :mod:`.cells` in chunks, which stay in the fastest cache.

Precision. V, V_dot, E and E_dot are float64 whatever the input is: ``q`` depends on differences of V divided by
gamma, and with costs of 1e6 a float32 V leaves no digit of them. V is in units of ``gamma * log(2)``, so that the
softmin needs only powers and logarithms of two.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from . import cells
from .jit import inlined, jit
from .simd import SLACK, flush_denormals, pointer, restore_denormals, take_ticket

UNREACHABLE = 1e300  # V of cells outside of the lattice: far above any cost, yet finite, so that it makes no NaN
_LN2 = math.log(2.0)
_CHUNK = 512  # cells of a row that go through one formula after the other while they are in the fastest cache

# ----------------------------------------------------------------------- one tile of the batch


class Problem(NamedTuple):
    """What to sweep over; arrays that a call does not need are empty."""

    N: int
    M: int
    x: np.ndarray  # (B, N, C) predictions, if the cost is that of two series
    y: np.ndarray  # (B, M, C) targets
    D: np.ndarray  # (B, N, M) costs, if they are given instead
    of_series: bool
    cost_scale: float  # the cost of a cell is cost_scale * Delta + omega_in_cost * Omega (Eq. 5: alpha, 1 - alpha)
    omega_in_cost: float
    toeplitz: np.ndarray  # (N + M - 1,): Omega(h, j) at h - j + M - 1, if it depends on h - j alone
    Omega: np.ndarray  # (1 or B, N, M) otherwise
    omega_scale: np.ndarray  # (B,) factor of Omega for each pair; empty: 1
    n: np.ndarray  # (B,) true lengths of x; empty: N
    m: np.ndarray  # (B,) true lengths of y; empty: M
    gamma: float
    dual: bool  # sweep the dual part too?
    apart: bool  # keep V and V_dot apart, or return weight * V + weight_dot * V_dot and its derivatives?
    weight: float
    weight_dot: float
    want_x: bool
    want_y: bool
    want_D: bool
    want_gamma: bool
    backward: bool  # any of these


class Results(NamedTuple):
    """What a sweep writes; what is not wanted is empty.

    Where V and V_dot are kept apart, derivatives are those of V and, with the dual part, of V_dot.
    """

    value: np.ndarray  # (B,)
    value_dot: np.ndarray  # (B,), zeros without the dual part
    d_x: np.ndarray  # (1 or 2, B, N, C)
    d_y: np.ndarray  # (1 or 2, B, M, C)
    E: np.ndarray  # (1 or 2, B, N, M)
    d_gamma: np.ndarray  # (2, B); the first row alone where they are not kept apart


class Plan(NamedTuple):
    """How the work on a batch is cut up."""

    lo: np.ndarray  # (N + M,) first cell i of each row, and of an empty one after the last
    hi: np.ndarray  # (N + M,) last cell i of each row
    start: np.ndarray  # (N + M + 1,) where a row begins in the table of weights, in cells
    tile: int  # pairs in a tile
    rows: int  # rows in a segment
    stride: int  # distance of two rows of V
    table: int  # size of each of the five parts of the table of weights
    parts: np.ndarray  # where those of a tile begin, three in an array of the input's precision, others in float64
    room_for_numbers: int  # how long these arrays are
    room_for_doubles: int


class Tile(NamedTuple):
    """Pointers to the memory of one tile.

    Of V, V_dot and mass there are three rows, cell i at (i + 1) * size; of E there is one, from its first cell on.
    """

    first: int
    size: int
    first_end: int  # the row on which the shortest of the tile's pairs ends
    end: int  # and the longest
    x: types.CPointer  # (C * N * size,) the tile's series, time first
    y: types.CPointer  # (C * M * size,) backwards in time, so that along a row it is read forwards
    T: types.CPointer  # weights left, diagonal, up and the derivatives of left and up, for the rows of one segment
    spread: types.CPointer  # a Toeplitz Omega: its even and its odd entries, each repeated over the tile
    V: types.CPointer
    V_dot: types.CPointer
    mass: types.CPointer  # E divided by the sum of the weights, which rounding has moved from one
    mass_dot: types.CPointer
    E: types.CPointer
    E_dot: types.CPointer
    nothing: types.CPointer  # zeros
    by_x: types.CPointer  # sums for the derivatives by the series
    by_x_dot: types.CPointer
    by_y: types.CPointer
    by_y_dot: types.CPointer
    cost: types.CPointer
    omega: types.CPointer
    saved: types.CPointer  # V and V_dot at the start of each segment


@jit
def _length(lengths, b, longest):
    return lengths[b] if lengths.size > 0 else longest


@jit
def _last_row(problem, b):
    """The row on which the last cell of a pair lies."""
    return _length(problem.n, b, problem.N) + _length(problem.m, b, problem.M) - 2


@jit
def _load_series(series, lengths, first, size, backwards, out):
    """(B, N, C) -> flat (C, N, size), with zeros beyond a series' true length: padding may hold anything."""
    _, N, C = series.shape
    cells.fill((out,), (0,), (0.0,), C * N * size + SLACK)
    for b in range(size):
        for i in range(_length(lengths, first + b, N)):
            row = N - 1 - i if backwards else i
            for c in range(C):
                out[(c * N + row) * size + b] = series[first + b, i, c]


@jit
def _store_series(by, by_dot, weight, weight_dot, first, size, backwards, value, out):
    """Weighted sum of flat (C, N, size) -> (B, N, C); NaN where the value is NaN."""
    _, N, C = out.shape
    for b in range(size):
        spoilt = np.nan if np.isnan(value[first + b]) else 0.0
        for i in range(N):
            row = N - 1 - i if backwards else i
            for c in range(C):
                p = (c * N + row) * size + b
                out[first + b, i, c] = weight * by[p] + weight_dot * by_dot[p] + spoilt


@jit
def _spread_toeplitz(problem, tile):
    """Entry k of half r is Omega at index 2 * k + r: along a row, h - j grows in steps of two."""
    half, scale = problem.toeplitz.size // 2 + 1, problem.omega_scale
    for t in range(problem.toeplitz.size):
        at = ((t % 2) * half + t // 2) * tile.size
        for b in range(tile.size):
            factor = scale[tile.first + b] if scale.size > 0 else 1.0
            tile.spread[at + b] = problem.toeplitz[t] * factor


@inlined
def _weights(plan, size, origin, d):
    """Offsets of row d's weights (left, diagonal, up) and their derivatives (left, up) in the table.

    The table holds the rows from ``origin`` on; rows before it, which will be swept again, share its first place.
    """
    o, table = (plan.start[max(d, origin)] - plan.start[origin] + 1) * size, plan.table
    return o, table + o, 2 * table + o, 3 * table + o, 4 * table + o


@inlined
def _shifted(offsets, by):
    a, b, c, d, e = offsets
    return a + by, b + by, c + by, d + by, e + by


@jit
def _keep(problem, plan, tile, d, into):
    """Copy V and V_dot to the memory of the segment that begins with row d, or back from there."""
    n = 3 * plan.stride
    saved = d // plan.rows * 2 * n
    for k in range(n):
        if into:
            tile.saved[saved + k] = tile.V[k]
        else:
            tile.V[k] = tile.saved[saved + k]
    if problem.dual:
        for k in range(n):
            if into:
                tile.saved[saved + n + k] = tile.V_dot[k]
            else:
                tile.V_dot[k] = tile.saved[saved + n + k]


@inlined
def _series_costs(problem, tile, d, lo, p, n):
    """The costs of n cells of row d from the p-th on, in units of gamma * log(2)."""
    N, M, C, size = problem.N, problem.M, problem.x.shape[2], tile.size
    scale, others = problem.cost_scale / (problem.gamma * _LN2), tile.nothing
    for c in range(C):
        at = ((c * N + lo) * size + p, (c * M + M - 1 - d + lo) * size + p, 0)
        cells.square_differences((tile.x, tile.y, others, tile.cost), at, (scale,), n)
        others = tile.cost


@inlined
def _find_omega(problem, plan, tile, d):
    """Where Omega of row d is, for the whole tile."""
    if problem.toeplitz.size > 0:
        t, half = 2 * plan.lo[d] - d + problem.M - 1, problem.toeplitz.size // 2 + 1
        return tile.spread, ((t % 2) * half + t // 2) * tile.size
    if problem.Omega.size > 0:
        _gather(problem, plan, problem.Omega, 1.0, tile, d, tile.omega)
        for p in range((plan.hi[d] - plan.lo[d] + 1) * tile.size if problem.omega_scale.size > 0 else 0):
            tile.omega[p] *= problem.omega_scale[tile.first + p % tile.size]
    return tile.omega, 0


@jit
def _gather(problem, plan, matrix, scale, tile, d, out):
    """Row d of given costs or of a given Omega, zero beyond a pair's true lengths."""
    last, lo = matrix.shape[0] - 1, plan.lo[d]
    for i in range(lo, plan.hi[d] + 1):
        for k in range(tile.size):
            b = tile.first + k
            inside = i < _length(problem.n, b, problem.N) and d - i < _length(problem.m, b, problem.M)
            out[(i - lo) * tile.size + k] = scale * matrix[min(b, last), i, d - i] if inside else 0.0


@jit
def advance(problem, plan, results, tile, begin, end, origin, first_time):
    """V, q and, if asked for, V_dot and the derivatives of q, on the rows from ``begin`` to ``end``.

    The first time through, keep at the start of each segment what a second sweep needs, and read off the values.
    """
    size, V, V_dot, T, dual = tile.size, tile.V, tile.V_dot, tile.T, problem.dual
    unit, at_cost = 1.0 / (problem.gamma * _LN2), 0
    for d in range(begin, end + 1):
        if problem.backward and d < origin and d % plan.rows == 0:
            _keep(problem, plan, tile, d, True)
        lo = plan.lo[d]
        n = (plan.hi[d] - lo + 1) * size
        here = (d % 3) * plan.stride + (lo + 1) * size
        left = ((d + 2) % 3) * plan.stride + (lo + 1) * size
        diagonal = ((d + 1) % 3) * plan.stride + lo * size
        weights = _weights(plan, size, origin, d)
        omega, at_omega = _find_omega(problem, plan, tile, d)
        if not problem.of_series:
            _gather(problem, plan, problem.D, problem.cost_scale * unit, tile, d, tile.cost)

        # Each loop writes a little beyond its end, so what lies before a row is written before it, and so on.
        cells.fill((V,), (here - size,), (UNREACHABLE,), size)
        cells.fill((V_dot,), (here - size,), (0.0,), size if dual else 0)
        cells.blank((T,), _shifted(weights, -size), (0.0,), size)
        for p in range(0, n, _CHUNK):
            k = min(_CHUNK, n - p)
            if problem.of_series:
                _series_costs(problem, tile, d, lo, p, k)
            else:
                at_cost = p
            if problem.omega_in_cost != 0.0:
                cells.add_omega((omega, tile.cost), (at_omega + p, at_cost), (problem.omega_in_cost * unit,), k)
            q_left, q_diagonal, q_up, q_dot_left, q_dot_up = _shifted(weights, p)
            q = (q_left, q_diagonal, q_up)
            cells_of_V = (here + p, left + p, diagonal + p, left - size + p)
            cells.soft_minimum((V, tile.cost, T), (*cells_of_V, at_cost, *q), (), k)
            if dual:
                at = (*cells_of_V, at_omega + p, *q, q_dot_left, q_dot_up)
                cells.dual_part((V_dot, omega, T), at, (1.0 / problem.gamma,), k)
        cells.fill((V,), (here + n,), (UNREACHABLE,), size)
        cells.fill((V_dot,), (here + n,), (0.0,), size if dual else 0)
        cells.blank((T,), _shifted(weights, n), (0.0,), size)
        if first_time and d >= tile.first_end:
            _store_values(problem, plan, results, tile, d)


@jit
def _store_values(problem, plan, results, tile, d):
    """Read off the values of the pairs whose last cell lies on row d."""
    for b in range(tile.first, tile.first + tile.size):
        if _last_row(problem, b) == d:
            p = (d % 3) * plan.stride + _length(problem.n, b, problem.N) * tile.size + b - tile.first
            valid = abs(tile.V[p]) < 0.5 * UNREACHABLE
            value = tile.V[p] * problem.gamma * _LN2 if valid else np.nan
            value_dot = (tile.V_dot[p] if valid else np.nan) if problem.dual else 0.0
            if problem.apart:
                results.value[b], results.value_dot[b] = value, value_dot
            else:
                results.value[b] = problem.weight * value + problem.weight_dot * value_dot


@jit
def _add_entropies(tile, dual, d_gamma, weights, n):
    """Derivatives of V and V_dot by gamma: minus the entropy of the steps, weighted by how often each is taken."""
    left, diagonal, up, left_dot, up_dot = weights
    for p in range(n):
        q_left, q_up = np.float64(tile.T[left + p]), np.float64(tile.T[up + p])
        q_diagonal = np.float64(tile.T[diagonal + p])
        a_dot, c_dot = (np.float64(tile.T[left_dot + p]), np.float64(tile.T[up_dot + p])) if dual else (0.0, 0.0)
        entropy, entropy_dot = 0.0, 0.0
        for w, w_dot, others in (
            (q_left, a_dot, q_diagonal + q_up),
            (q_diagonal, -(a_dot + c_dot), q_left + q_up),
            (q_up, c_dot, q_left + q_diagonal),
        ):
            if w > 0.0:
                # near one, a float32 weight has lost its distance from one; the other two have it
                log = math.log1p(-others) if w > 0.5 else math.log(w)
                entropy -= w * log
                entropy_dot -= w_dot * log
        b = tile.first + p % tile.size
        d_gamma[0, b] -= tile.E[p] * entropy
        d_gamma[1, b] -= tile.E_dot[p] * entropy + tile.E[p] * entropy_dot


@jit
def _store_path(problem, plan, results, tile, d):
    """Row d of E and E_dot."""
    lo, hi = plan.lo[d], plan.hi[d]
    for i in range(lo, hi + 1):
        for b in range(tile.size):
            p = (i - lo) * tile.size + b
            results.E[0, tile.first + b, i, d - i] = tile.E[p]
            if problem.dual:
                results.E[1, tile.first + b, i, d - i] = tile.E_dot[p]


@jit
def _correction(tile, weights, p):
    """About one divided by the sum of a cell's weights, as in :mod:`.cells`."""
    left, diagonal, up, _, _ = weights
    return 2.0 - (np.float64(tile.T[left + p]) + np.float64(tile.T[diagonal + p]) + np.float64(tile.T[up + p]))


@jit
def _start_paths(problem, plan, tile, starts, weights, here, d):
    """E is one at the last cells, where these lie on row d; ``starts`` has more for the last two rows."""
    for p in range((plan.hi[d] - plan.lo[d] + 1) if starts.size > 0 and d >= tile.end - 1 else 0):
        tile.E[p] += starts[tile.end - d, 0, plan.lo[d] + p]
        tile.E_dot[p] += starts[tile.end - d, 1, plan.lo[d] + p]
        correction = _correction(tile, weights, p)
        tile.mass[here + p], tile.mass_dot[here + p] = tile.E[p] * correction, tile.E_dot[p] * correction
    for b in range(tile.size):
        if _last_row(problem, tile.first + b) == d:
            p = (_length(problem.n, tile.first + b, problem.N) - 1 - plan.lo[d]) * tile.size + b
            tile.E[p], tile.mass[here + p] = 1.0, _correction(tile, weights, p)


@inlined
def _pull_cells(problem, plan, tile, origin, d, p, n):
    """E and E_dot of n cells of row d, from the p-th on, from those of the two rows after it."""
    size, T, lo = tile.size, tile.T, plan.lo[d]
    here = (d % 3) * plan.stride + (lo + 1) * size + p
    right = ((d + 1) % 3) * plan.stride + (lo + 1) * size + p
    beyond = ((d + 2) % 3) * plan.stride + (lo + 2) * size + p
    next_weights = _shifted(_weights(plan, size, origin, d + 1), (lo - plan.lo[d + 1]) * size + p)
    left, _, up, dot_left, dot_up = next_weights
    later_weights = _shifted(_weights(plan, size, origin, d + 2), (lo + 1 - plan.lo[d + 2]) * size + p)
    _, diagonal, _, dot_left_diagonal, dot_up_diagonal = later_weights
    own_left, own_diagonal, own_up, _, _ = _shifted(_weights(plan, size, origin, d), p)
    at = (here, p, right, right + size, beyond, left, up + size, diagonal, own_left, own_diagonal, own_up)
    if problem.dual:
        at_dual = (*at, dot_left, dot_up + size, dot_left_diagonal, dot_up_diagonal)
        cells.pull_dual((T, tile.mass, tile.E, tile.mass_dot, tile.E_dot), at_dual, (), n)
    else:
        cells.pull((T, tile.mass, tile.E), at, (), n)


@inlined
def _add_to_series(problem, plan, tile, d, p, n):
    """What n cells of row d, from the p-th on, contribute to the derivatives by the series."""
    N, M, C, size, lo = problem.N, problem.M, problem.x.shape[2], tile.size, plan.lo[d]
    x, y, E, E_dot, dual = tile.x, tile.y, tile.E, tile.E_dot, problem.dual
    for c in range(C):
        at_x, at_y = (c * N + lo) * size + p, (c * M + M - 1 - d + lo) * size + p
        if problem.want_x and dual:
            cells.add_to_series_dual((x, y, E, tile.by_x, E_dot, tile.by_x_dot), (at_x, at_y, p, at_x), (), n)
        elif problem.want_x:
            cells.add_to_series((x, y, E, tile.by_x), (at_x, at_y, p, at_x), (), n)
        if problem.want_y and dual:
            cells.add_to_series_dual((x, y, E, tile.by_y, E_dot, tile.by_y_dot), (at_x, at_y, p, at_y), (), n)
        elif problem.want_y:
            cells.add_to_series((x, y, E, tile.by_y), (at_x, at_y, p, at_y), (), n)


@jit
def _blank_after(plan, tile, origin):
    """Weights of zero behind the last row, where the row before it looks for what comes back to it."""
    size, before = tile.size, max(tile.end - 1, 0)
    after, wide = _weights(plan, size, origin, tile.end + 1), plan.hi[before] - plan.lo[before] + 3
    cells.blank((tile.T,), _shifted(after, -size), (0.0,), wide * size)


@jit
def go_back(problem, plan, results, tile, origin, starts):
    """E and E_dot from the last row to the first, and what the caller wants of them.

    Paths start at the last cells of the pairs or, for one pair cut into halves, where ``starts`` says: (2, 2, N), E
    and E_dot of the last row and of the one before it.
    """
    size, end, of_dual = tile.size, tile.end, tile.size if problem.dual else 0
    _blank_after(plan, tile, origin)
    for d in range(end, -1, -1):
        if d < origin:
            origin = d // plan.rows * plan.rows
            _keep(problem, plan, tile, origin, False)
            advance(problem, plan, results, tile, origin, min(d + 2, end), origin, False)
            if d == end - 1:
                _blank_after(plan, tile, origin)

        n = (plan.hi[d] - plan.lo[d] + 1) * size
        here = (d % 3) * plan.stride + (plan.lo[d] + 1) * size
        weights = _weights(plan, size, origin, d)
        cells.fill((tile.mass,), (here - size,), (0.0,), size)
        cells.fill((tile.mass_dot,), (here - size,), (0.0,), of_dual)
        chunk = _CHUNK if d < tile.first_end else max(n, 1)
        for p in range(0, n, chunk):
            k = min(chunk, n - p)
            if d < end:
                _pull_cells(problem, plan, tile, origin, d, p, k)
            if d >= tile.first_end:
                _start_paths(problem, plan, tile, starts, weights, here, d)
            if p + k == n:  # loops run on beyond the row, and sums over series must not notice
                cells.fill((tile.E,), (n,), (0.0,), SLACK)
                cells.fill((tile.E_dot,), (n,), (0.0,), SLACK)
            _add_to_series(problem, plan, tile, d, p, k)
        cells.fill((tile.mass,), (here + n,), (0.0,), size)
        cells.fill((tile.mass_dot,), (here + n,), (0.0,), of_dual)
        if problem.want_D:
            _store_path(problem, plan, results, tile, d)
        if problem.want_gamma:
            _add_entropies(tile, problem.dual, results.d_gamma, weights, n)


@jit
def _store_by_series(problem, results, tile, by, by_dot, backwards, sign, out):
    """Derivatives by one of the two series, from the tile to the results."""
    first, size, value, factor = tile.first, tile.size, results.value, sign * 2.0 * problem.cost_scale
    if not problem.apart:
        weights = factor * problem.weight, factor * problem.weight_dot
        _store_series(by, by_dot, *weights, first, size, backwards, value, out[0])
        return
    _store_series(by, by, factor, 0.0, first, size, backwards, value, out[0])
    if problem.dual:
        _store_series(by_dot, by_dot, factor, 0.0, first, size, backwards, value, out[1])


@jit
def store_gradients(problem, results, tile):
    """From the tile to the results; NaN for the pairs whose value is NaN."""
    if problem.want_x:
        _store_by_series(problem, results, tile, tile.by_x, tile.by_x_dot, False, 1.0, results.d_x)
    if problem.want_y:
        _store_by_series(problem, results, tile, tile.by_y, tile.by_y_dot, True, -1.0, results.d_y)
    for b in range(tile.first, tile.first + tile.size):
        if problem.want_gamma and not problem.apart:
            terms = results.d_gamma[:, b]
            terms[0] = problem.weight * terms[0] + problem.weight_dot * terms[1]
        if np.isnan(results.value[b]):
            results.E[:, b : b + 1] = np.nan
            results.d_gamma[:, b : b + 1] = np.nan


@jit
def lay_out(plan, first, size, first_end, end, doubles, numbers):
    """The parts of a tile's memory."""
    at = plan.parts
    return Tile(
        first,
        size,
        first_end,
        end,
        pointer(numbers, at[0]),
        pointer(numbers, at[1]),
        pointer(numbers, at[2]),
        pointer(doubles, at[3]),
        pointer(doubles, at[4]),
        pointer(doubles, at[5]),
        pointer(doubles, at[6]),
        pointer(doubles, at[7]),
        pointer(doubles, at[8]),
        pointer(doubles, at[9]),
        pointer(doubles, at[10]),
        pointer(doubles, at[11]),
        pointer(doubles, at[12]),
        pointer(doubles, at[13]),
        pointer(doubles, at[14]),
        pointer(doubles, at[15]),
        pointer(doubles, at[16]),
        pointer(doubles, at[17]),
    )


@jit
def prepare(problem, plan, tile):
    """Load the series of a tile, and make everything else as it is before the first row."""
    _load_series(problem.x, problem.n, tile.first, tile.size, False, tile.x)
    _load_series(problem.y, problem.m, tile.first, tile.size, True, tile.y)
    _spread_toeplitz(problem, tile)
    cells.fill((tile.V,), (0,), (UNREACHABLE,), 3 * plan.stride)
    for b in range(tile.size):
        tile.V[plan.stride + b] = 0.0  # the path starts at (-1, -1), on row -2
    cells.fill((tile.V_dot,), (0,), (0.0,), plan.parts[15] - plan.parts[5])


@jit
def last_origin(problem, plan, end):
    """The first row of the last segment; without a way back nothing is kept, and each row is one."""
    return end // plan.rows * plan.rows if problem.backward else end


@jit
def _sweep_tile(problem, plan, results, first, size, doubles, numbers):
    """Both sweeps for the pairs ``first`` to ``first + size``; ``doubles`` and ``numbers`` are memory to work in."""
    end, first_end = 0, problem.N + problem.M - 2
    for b in range(first, first + size):
        end, first_end = max(end, _last_row(problem, b)), min(first_end, _last_row(problem, b))
    tile = lay_out(plan, first, size, first_end, end, doubles, numbers)
    prepare(problem, plan, tile)
    origin = last_origin(problem, plan, end)
    advance(problem, plan, results, tile, 0, end, origin, True)
    if problem.backward:
        go_back(problem, plan, results, tile, origin, np.zeros((0, 2, 0)))
        store_gradients(problem, results, tile)


@jit
def sweep_tiles(problem, plan, results, tickets, doubles, numbers):
    """Tile after tile, as long as there are any: threads that share the tickets share the batch."""
    # Far from the likely paths E falls below the smallest normal number, where a CPU is fifty times slower.
    state = flush_denormals()
    batch, next_ticket = results.value.size, pointer(tickets, 0)
    first = take_ticket(next_ticket) * plan.tile
    while first < batch:
        _sweep_tile(problem, plan, results, first, min(plan.tile, batch - first), doubles, numbers)
        first = take_ticket(next_ticket) * plan.tile
    restore_denormals(state)
