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
through it. A row goes through the loops of :mod:`.rows` in chunks, which stay in the fastest cache.

Precision. V, V_dot, E and E_dot are float64 whatever the input is: ``q`` depends on differences of V divided by
gamma, and with costs of 1e6 a float32 V leaves no digit of them. V is in units of ``gamma * log(2)``, so that the
softmin needs only powers and logarithms of two.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import carray, types

from . import rows
from .call import at, call_of, counters, entry, matrices, terms, vector
from .cells import formulas
from .jit import inlined, jit
from .simd import SLACK, flush_denormals, restore_denormals, take_ticket

UNREACHABLE = 1e300  # V of cells outside of the lattice: far above any cost, yet finite, so that it makes no NaN
_LN2 = math.log(2.0)
_CHUNK = 512  # cells of a row that go through one formula after the other while they are in the fastest cache

# ----------------------------------------------------------------------- one tile of the batch


class Tile(NamedTuple):
    """Pointers to the memory of one tile.

    Of V, V_dot and mass there are three rows, cell i at (i + 1) * size; of E there is one, from its first cell on.
    """

    first: int
    size: int
    first_end: int  # the row on which the shortest of the tile's pairs ends
    end: int  # and the longest
    lo: types.CPointer  # (N + M,) of the plan, see `Call`
    hi: types.CPointer
    start: types.CPointer
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
    return at(lengths, 0)[b] if lengths != 0 else longest


@jit
def _last_row(call, b):
    """The row on which the last cell of a pair lies."""
    return _length(call.n, b, call.N) + _length(call.m, b, call.M) - 2


@jit
def _scale_of_omega(call, b):
    return at(call.omega_scale, 0.0)[b] if call.omega_scale != 0 else 1.0


@jit
def _load_series(series, lengths, first, size, backwards, out):
    """(B, N, C) -> flat (C, N, size), with zeros beyond a series' true length: padding may hold anything."""
    _, N, C = series.shape
    rows.fill((out,), (0,), (0.0,), C * N * size + SLACK)
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
def _spread_toeplitz(call, tile):
    """Entry k of half r is Omega at index 2 * k + r: along a row, h - j grows in steps of two."""
    toeplitz = vector(call.toeplitz, 0.0, call.N + call.M - 1)
    half = toeplitz.size // 2 + 1
    for t in range(toeplitz.size):
        o = ((t % 2) * half + t // 2) * tile.size
        for b in range(tile.size):
            tile.spread[o + b] = toeplitz[t] * _scale_of_omega(call, tile.first + b)


@inlined
def _weights(call, tile, origin, d):
    """Offsets of row d's weights (left, diagonal, up) and their derivatives (left, up) in the table.

    The table holds the rows from ``origin`` on; rows before it, which will be swept again, share its first place.
    """
    o, table = (tile.start[max(d, origin)] - tile.start[origin] + 1) * tile.size, call.table
    return o, table + o, 2 * table + o, 3 * table + o, 4 * table + o


@inlined
def _shifted(offsets, by):
    a, b, c, d, e = offsets
    return a + by, b + by, c + by, d + by, e + by


@jit
def _keep(call, tile, d, into):
    """Copy V and V_dot to the memory of the segment that begins with row d, or back from there."""
    n = 3 * call.stride
    saved = d // call.rows * 2 * n
    for k in range(n):
        if into:
            tile.saved[saved + k] = tile.V[k]
        else:
            tile.V[k] = tile.saved[saved + k]
    if call.dual:
        for k in range(n):
            if into:
                tile.saved[saved + n + k] = tile.V_dot[k]
            else:
                tile.V_dot[k] = tile.saved[saved + n + k]


@inlined
def _series_costs(call, tile, d, lo, p, n):
    """The costs of n cells of row d from the p-th on, in units of gamma * log(2)."""
    N, M, C, size = call.N, call.M, call.C, tile.size
    scale, others = call.cost_scale / (call.gamma * _LN2), tile.nothing
    for c in range(C):
        at = ((c * N + lo) * size + p, (c * M + M - 1 - d + lo) * size + p, 0)
        rows.square_differences((tile.x, tile.y, others, tile.cost), at, (scale,), n)
        others = tile.cost


@inlined
def _find_omega(call, tile, d):
    """Where Omega of row d is, for the whole tile."""
    if call.toeplitz != 0:
        t, half = 2 * tile.lo[d] - d + call.M - 1, (call.N + call.M - 1) // 2 + 1
        return tile.spread, ((t % 2) * half + t // 2) * tile.size
    if call.Omega != 0:
        _gather(call, matrices(call.Omega, 0.0, call.omegas, call.N, call.M), 1.0, tile, d, tile.omega)
        for p in range((tile.hi[d] - tile.lo[d] + 1) * tile.size if call.omega_scale != 0 else 0):
            tile.omega[p] *= _scale_of_omega(call, tile.first + p % tile.size)
    return tile.omega, 0


@jit
def _gather(call, matrix, scale, tile, d, out):
    """Row d of given costs or of a given Omega, zero beyond a pair's true lengths."""
    last, lo = matrix.shape[0] - 1, tile.lo[d]
    for i in range(lo, tile.hi[d] + 1):
        for k in range(tile.size):
            b = tile.first + k
            inside = i < _length(call.n, b, call.N) and d - i < _length(call.m, b, call.M)
            out[(i - lo) * tile.size + k] = scale * matrix[min(b, last), i, d - i] if inside else 0.0


@jit
def advance(call, tile, begin, end, origin, first_time):
    """V, q and, if asked for, V_dot and the derivatives of q, on the rows from ``begin`` to ``end``.

    The first time through, keep at the start of each segment what a second sweep needs, and read off the values.
    """
    size, V, V_dot, T, dual = tile.size, tile.V, tile.V_dot, tile.T, call.dual
    unit, at_cost = 1.0 / (call.gamma * _LN2), 0
    for d in range(begin, end + 1):
        if call.backward and d < origin and d % call.rows == 0:
            _keep(call, tile, d, True)
        lo = tile.lo[d]
        n = (tile.hi[d] - lo + 1) * size
        here = (d % 3) * call.stride + (lo + 1) * size
        left = ((d + 2) % 3) * call.stride + (lo + 1) * size
        diagonal = ((d + 1) % 3) * call.stride + lo * size
        weights = _weights(call, tile, origin, d)
        omega, at_omega = _find_omega(call, tile, d)
        if not call.of_series:
            D = matrices(call.D, call.unit, call.batch, call.N, call.M)
            _gather(call, D, call.cost_scale * unit, tile, d, tile.cost)

        # Each loop writes a little beyond its end, so what lies before a row is written before it, and so on.
        rows.fill((V,), (here - size,), (UNREACHABLE,), size)
        rows.fill((V_dot,), (here - size,), (0.0,), size if dual else 0)
        rows.blank((T,), _shifted(weights, -size), (0.0,), size)
        for p in range(0, n, _CHUNK):
            k = min(_CHUNK, n - p)
            if call.of_series:
                _series_costs(call, tile, d, lo, p, k)
            else:
                at_cost = p
            if call.omega_in_cost != 0.0:
                rows.add_omega((omega, tile.cost), (at_omega + p, at_cost), (call.omega_in_cost * unit,), k)
            q_left, q_diagonal, q_up, q_dot_left, q_dot_up = _shifted(weights, p)
            q = (q_left, q_diagonal, q_up)
            cells_of_V = (here + p, left + p, diagonal + p, left - size + p)
            rows.soft_minimum((V, tile.cost, T), (*cells_of_V, at_cost, *q), (), k)
            if dual:
                at = (*cells_of_V, at_omega + p, *q, q_dot_left, q_dot_up)
                rows.dual_part((V_dot, omega, T), at, (1.0 / call.gamma,), k)
        rows.fill((V,), (here + n,), (UNREACHABLE,), size)
        rows.fill((V_dot,), (here + n,), (0.0,), size if dual else 0)
        rows.blank((T,), _shifted(weights, n), (0.0,), size)
        if first_time and d >= tile.first_end:
            _store_values(call, tile, d)


@jit
def _store_values(call, tile, d):
    """Read off the values of the pairs whose last cell lies on row d."""
    values, values_dot = vector(call.value, call.unit, call.batch), vector(call.value_dot, call.unit, call.batch)
    for b in range(tile.first, tile.first + tile.size):
        if _last_row(call, b) == d:
            p = (d % 3) * call.stride + _length(call.n, b, call.N) * tile.size + b - tile.first
            valid = abs(tile.V[p]) < 0.5 * UNREACHABLE
            value = tile.V[p] * call.gamma * _LN2 if valid else np.nan
            value_dot = (tile.V_dot[p] if valid else np.nan) if call.dual else 0.0
            if call.apart:
                values[b], values_dot[b] = value, value_dot
            else:
                values[b] = call.weight * value + call.weight_dot * value_dot


@jit
def _by_gamma(call):
    return carray(at(call.d_gamma, 0.0), (2 if call.d_gamma != 0 else 0, call.batch))


class _OneCell:
    """The operations that the formulas of a single cell's numbers take here."""

    double = np.float64
    function = staticmethod(lambda formula: formula)
    least = where_positive = exp2_minus_abs = log2_1p = None


_entropies, _cell_correction = inlined(formulas(_OneCell).entropies), inlined(formulas(_OneCell).correction)


@jit
def _add_entropies(tile, dual, d_gamma, weights, n):
    """Derivatives of V and V_dot by gamma: minus the entropy of the steps, weighted by how often each is taken."""
    left, diagonal, up, left_dot, up_dot = weights
    for p in range(n):
        q_left, q_up = np.float64(tile.T[left + p]), np.float64(tile.T[up + p])
        q_diagonal = np.float64(tile.T[diagonal + p])
        a_dot, c_dot = (np.float64(tile.T[left_dot + p]), np.float64(tile.T[up_dot + p])) if dual else (0.0, 0.0)
        entropy, entropy_dot = _entropies(q_left, q_up, q_diagonal, a_dot, c_dot)
        b = tile.first + p % tile.size
        d_gamma[0, b] -= tile.E[p] * entropy
        d_gamma[1, b] -= tile.E_dot[p] * entropy + tile.E[p] * entropy_dot


@jit
def _store_path(call, tile, d):
    """Row d of E and E_dot."""
    E, lo, hi = terms(call.E, call, call.N, call.M), tile.lo[d], tile.hi[d]
    for i in range(lo, hi + 1):
        for b in range(tile.size):
            p = (i - lo) * tile.size + b
            E[0, tile.first + b, i, d - i] = tile.E[p]
            if call.dual:
                E[1, tile.first + b, i, d - i] = tile.E_dot[p]


@jit
def _correction(tile, weights, p):
    left, diagonal, up, _, _ = weights
    return _cell_correction(tile.T[left + p], tile.T[up + p], tile.T[diagonal + p])


@jit
def _start_paths(call, tile, starts, weights, here, d):
    """E is one at the last cells, where these lie on row d; ``starts`` has more for the last two rows."""
    for p in range((tile.hi[d] - tile.lo[d] + 1) if starts.size > 0 and d >= tile.end - 1 else 0):
        tile.E[p] += starts[tile.end - d, 0, tile.lo[d] + p]
        tile.E_dot[p] += starts[tile.end - d, 1, tile.lo[d] + p]
        correction = _correction(tile, weights, p)
        tile.mass[here + p], tile.mass_dot[here + p] = tile.E[p] * correction, tile.E_dot[p] * correction
    for b in range(tile.size):
        if _last_row(call, tile.first + b) == d:
            p = (_length(call.n, tile.first + b, call.N) - 1 - tile.lo[d]) * tile.size + b
            tile.E[p], tile.mass[here + p] = 1.0, _correction(tile, weights, p)


@inlined
def _pull_cells(call, tile, origin, d, p, n):
    """E and E_dot of n cells of row d, from the p-th on, from those of the two rows after it."""
    size, T, lo = tile.size, tile.T, tile.lo[d]
    here = (d % 3) * call.stride + (lo + 1) * size + p
    right = ((d + 1) % 3) * call.stride + (lo + 1) * size + p
    beyond = ((d + 2) % 3) * call.stride + (lo + 2) * size + p
    next_weights = _shifted(_weights(call, tile, origin, d + 1), (lo - tile.lo[d + 1]) * size + p)
    left, _, up, dot_left, dot_up = next_weights
    later_weights = _shifted(_weights(call, tile, origin, d + 2), (lo + 1 - tile.lo[d + 2]) * size + p)
    _, diagonal, _, dot_left_diagonal, dot_up_diagonal = later_weights
    own_left, own_diagonal, own_up, _, _ = _shifted(_weights(call, tile, origin, d), p)
    at = (here, p, right, right + size, beyond, left, up + size, diagonal, own_left, own_diagonal, own_up)
    if call.dual:
        at_dual = (*at, dot_left, dot_up + size, dot_left_diagonal, dot_up_diagonal)
        rows.pull_dual((T, tile.mass, tile.E, tile.mass_dot, tile.E_dot), at_dual, (), n)
    else:
        rows.pull((T, tile.mass, tile.E), at, (), n)


@inlined
def _add_to_series(call, tile, d, p, n):
    """What n cells of row d, from the p-th on, contribute to the derivatives by the series."""
    N, M, C, size, lo = call.N, call.M, call.C, tile.size, tile.lo[d]
    x, y, E, E_dot, dual = tile.x, tile.y, tile.E, tile.E_dot, call.dual
    for c in range(C):
        at_x, at_y = (c * N + lo) * size + p, (c * M + M - 1 - d + lo) * size + p
        if call.want_x and dual:
            rows.add_to_series((x, y, E, tile.by_x, E_dot, tile.by_x_dot), (at_x, at_y, p, at_x), (), n)
        elif call.want_x:
            rows.add_to_series((x, y, E, tile.by_x), (at_x, at_y, p, at_x), (), n)
        if call.want_y and dual:
            rows.add_to_series((x, y, E, tile.by_y, E_dot, tile.by_y_dot), (at_x, at_y, p, at_y), (), n)
        elif call.want_y:
            rows.add_to_series((x, y, E, tile.by_y), (at_x, at_y, p, at_y), (), n)


@jit
def _blank_after(call, tile, origin):
    """Weights of zero behind the last row, where the row before it looks for what comes back to it."""
    size, before = tile.size, max(tile.end - 1, 0)
    after, wide = _weights(call, tile, origin, tile.end + 1), tile.hi[before] - tile.lo[before] + 3
    rows.blank((tile.T,), _shifted(after, -size), (0.0,), wide * size)


@jit
def go_back(call, tile, origin, starts):
    """E and E_dot from the last row to the first, and what the caller wants of them.

    Paths start at the last cells of the pairs or, for one pair cut into halves, where ``starts`` says: (2, 2, N), E
    and E_dot of the last row and of the one before it.
    """
    size, end, of_dual = tile.size, tile.end, tile.size if call.dual else 0
    _blank_after(call, tile, origin)
    for d in range(end, -1, -1):
        if d < origin:
            origin = d // call.rows * call.rows
            _keep(call, tile, origin, False)
            advance(call, tile, origin, min(d + 2, end), origin, False)
            if d == end - 1:
                _blank_after(call, tile, origin)

        n = (tile.hi[d] - tile.lo[d] + 1) * size
        here = (d % 3) * call.stride + (tile.lo[d] + 1) * size
        weights = _weights(call, tile, origin, d)
        rows.fill((tile.mass,), (here - size,), (0.0,), size)
        rows.fill((tile.mass_dot,), (here - size,), (0.0,), of_dual)
        chunk = _CHUNK if d < tile.first_end else max(n, 1)
        for p in range(0, n, chunk):
            k = min(chunk, n - p)
            if d < end:
                _pull_cells(call, tile, origin, d, p, k)
            if d >= tile.first_end:
                _start_paths(call, tile, starts, weights, here, d)
            if p + k == n:  # loops run on beyond the row, and sums over series must not notice
                rows.fill((tile.E,), (n,), (0.0,), SLACK)
                rows.fill((tile.E_dot,), (n,), (0.0,), SLACK)
            _add_to_series(call, tile, d, p, k)
        rows.fill((tile.mass,), (here + n,), (0.0,), size)
        rows.fill((tile.mass_dot,), (here + n,), (0.0,), of_dual)
        if call.want_D:
            _store_path(call, tile, d)
        if call.want_gamma:
            _add_entropies(tile, call.dual, _by_gamma(call), weights, n)


@jit
def _store_by_series(call, tile, by, by_dot, backwards, sign, out):
    """Derivatives by one of the two series, from the tile to the results."""
    first, size, factor = tile.first, tile.size, sign * 2.0 * call.cost_scale
    value = vector(call.value, call.unit, call.batch)
    if not call.apart:
        weights = factor * call.weight, factor * call.weight_dot
        _store_series(by, by_dot, *weights, first, size, backwards, value, out[0])
        return
    _store_series(by, by, factor, 0.0, first, size, backwards, value, out[0])
    if call.dual:
        _store_series(by_dot, by_dot, factor, 0.0, first, size, backwards, value, out[1])


@jit
def store_gradients(call, tile):
    """From the tile to the results; NaN for the pairs whose value is NaN."""
    value, E, d_gamma = (
        vector(call.value, call.unit, call.batch),
        terms(call.E, call, call.N, call.M),
        _by_gamma(call),
    )
    if call.want_x:
        d_x = terms(call.d_x, call, call.N, call.C)
        _store_by_series(call, tile, tile.by_x, tile.by_x_dot, False, 1.0, d_x)
    if call.want_y:
        d_y = terms(call.d_y, call, call.M, call.C)
        _store_by_series(call, tile, tile.by_y, tile.by_y_dot, True, -1.0, d_y)
    for b in range(tile.first, tile.first + tile.size):
        if call.want_gamma and not call.apart:
            d_gamma[0, b] = call.weight * d_gamma[0, b] + call.weight_dot * d_gamma[1, b]
        if np.isnan(value[b]):
            E[:, b : b + 1] = np.nan
            d_gamma[:, b : b + 1] = np.nan


@jit
def lay_out(call, thread, first, size, first_end, end):
    """The parts of a tile's memory, which is that of one of the threads."""
    parts, bytes_of_a_number = at(call.parts, 0), call.bytes_of_a_number
    doubles = call.doubles + 8 * thread * call.room_for_doubles
    numbers = call.numbers + bytes_of_a_number * thread * call.room_for_numbers
    return Tile(
        first,
        size,
        first_end,
        end,
        at(call.lo, 0),
        at(call.hi, 0),
        at(call.start, 0),
        at(numbers + bytes_of_a_number * parts[0], call.unit),
        at(numbers + bytes_of_a_number * parts[1], call.unit),
        at(numbers + bytes_of_a_number * parts[2], call.unit),
        at(doubles + 8 * parts[3], 0.0),
        at(doubles + 8 * parts[4], 0.0),
        at(doubles + 8 * parts[5], 0.0),
        at(doubles + 8 * parts[6], 0.0),
        at(doubles + 8 * parts[7], 0.0),
        at(doubles + 8 * parts[8], 0.0),
        at(doubles + 8 * parts[9], 0.0),
        at(doubles + 8 * parts[10], 0.0),
        at(doubles + 8 * parts[11], 0.0),
        at(doubles + 8 * parts[12], 0.0),
        at(doubles + 8 * parts[13], 0.0),
        at(doubles + 8 * parts[14], 0.0),
        at(doubles + 8 * parts[15], 0.0),
        at(doubles + 8 * parts[16], 0.0),
        at(doubles + 8 * parts[17], 0.0),
    )


@jit
def prepare(call, tile):
    """Load the series of a tile, and make everything else as it is before the first row."""
    x = matrices(call.x, call.unit, call.batch, call.N, call.C)
    y = matrices(call.y, call.unit, call.batch, call.M, call.C)
    _load_series(x, call.n, tile.first, tile.size, False, tile.x)
    _load_series(y, call.m, tile.first, tile.size, True, tile.y)
    _spread_toeplitz(call, tile)
    rows.fill((tile.V,), (0,), (UNREACHABLE,), 3 * call.stride)
    for b in range(tile.size):
        tile.V[call.stride + b] = 0.0  # the path starts at (-1, -1), on row -2
    parts = at(call.parts, 0)
    rows.fill((tile.V_dot,), (0,), (0.0,), parts[15] - parts[5])


@jit
def last_origin(call, end):
    """The first row of the last segment; without a way back nothing is kept, and each row is one."""
    return end // call.rows * call.rows if call.backward else end


@jit
def _sweep_tile(call, thread, first, size):
    """Both sweeps for the pairs ``first`` to ``first + size``."""
    end, first_end = 0, call.N + call.M - 2
    for b in range(first, first + size):
        end, first_end = max(end, _last_row(call, b)), min(first_end, _last_row(call, b))
    tile = lay_out(call, thread, first, size, first_end, end)
    prepare(call, tile)
    origin = last_origin(call, end)
    advance(call, tile, 0, end, origin, True)
    if call.backward:
        go_back(call, tile, origin, np.zeros((0, 2, 0)))
        store_gradients(call, tile)


@entry
def sweep_tiles(block):
    """Tile after tile, as long as there are any: threads that are given the same block share the batch."""
    # Far from the likely paths E falls below the smallest normal number, where a CPU is fifty times slower.
    state = flush_denormals()
    call, (next_ticket, next_thread) = call_of(block, 0), counters(block)
    thread, first = take_ticket(next_thread), take_ticket(next_ticket) * call.tile
    while first < call.batch:
        _sweep_tile(call, thread, first, min(call.tile, call.batch - first))
        first = take_ticket(next_ticket) * call.tile
    restore_denormals(state)
