"""The sweeps on CUDA devices: one block of threads for a pair of series, one warp for a strip of 32 rows.

The recursions, their letters and their precision are those of :mod:`loss.soft_dtw` and :mod:`loss.path_soft_dtw`, and
the formulas of a cell those of :mod:`.cells`, compiled for a thread.

Each thread ("lane") of a warp has one row i, and at step s it is at column ``j = s - lane``: the cell on its left is
its own last one, and those above and diagonally above come from the next lane by a shuffle. On the way back E goes in
the opposite direction. What crosses from one strip to the next, V and V_dot down and E and E_dot up, is the *border*,
in memory. The warps of a block work on neighbouring strips, ``CHUNK`` steps between two barriers, each ``LAG`` chunks
behind the strip above it, which has then written all the border that it reads.

The softmin weights q are kept for a *segment*, as many strips as there are warps. All segments but the last one are
swept forward a second time on the way back, from the border above them. No two threads write to the same number
between two barriers, so nothing is atomic and the results are the same every time.

For many variables the costs are made before the sweep and its E is chained to the series after it, by kernels of
their own (:func:`.lattice.sweep_on_costs`).

Kernels read gamma where it is, so that the host never waits, and run on torch's current stream.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache, partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from cuda.pathfinder import load_nvidia_dynamic_lib
from llvmlite import ir
from numba import cuda, float32, float64, int32, int64, uint32
from numba.cuda import types
from numba.cuda.extending import intrinsic
from torch import Tensor

from . import cuda_launch
from .cells import LN2, formulas
from .lattice import MANY, UNREACHABLE, MaybeTensor, Wants, allocate, check_arguments, sweep_on_costs

WARP = 32
EVERY_LANE = 0xFFFFFFFF
CHUNK = 8  # steps
LAG = (
    5  # chunks; the last lane of a strip is at a column WARP - 1 steps after the first one, and a chunk is not split
)
MOST_WARPS = 16  # of a block
PAIR_THREADS = 256  # of a block of the kernels for many variables
PAIR_BLOCKS = 8  # of them for each processor
assert LAG * CHUNK >= WARP - 1 + CHUNK

# ----------------------------------------------------------------------- what a kernel is told


class Kind(NamedTuple):
    """What a kernel is compiled for."""

    precision: str  # of the inputs: "float32" or "float64"
    of_costs: bool  # given costs, or two series
    dual: bool  # is there an Omega, so that V_dot and E_dot are swept too?
    backward: bool  # is there anything to differentiate by
    by_gamma: bool
    keeps_E: bool  # for the derivatives by the costs, by y, or by several variables
    double_costs: bool = False  # are given costs float64 though the results are not?


class PairKind(NamedTuple):
    """What a kernel between series of many variables and costs is compiled for."""

    precision: str  # of the series
    chains: bool  # E to a series, or else two series to Delta?


class Numbers:
    """A pointer to numbers of the input's precision."""


class Doubles:
    """A pointer to float64."""


class Costs:
    """A pointer to numbers of the precision of given costs."""


class Integers:
    """A pointer to int64."""


class Problem(NamedTuple):
    """What to sweep over, and how; pointers that a call does not need are null."""

    x: Numbers  # (B, C, N) predictions, time last, so that neighbouring lanes read neighbouring numbers
    y: Numbers  # (B, C, M) targets
    D: Costs  # (B, N, M), if they are given instead
    gamma: Doubles  # ()
    omega: Doubles  # Omega of pair b at (i, j) is at first + b * by_pair + i * by_row + j * by_column
    omega_scale: Doubles  # (B,) its factor for each pair, if it has one
    n: Integers  # (B,) true lengths of x, if they differ from N
    m: Integers  # (B,) true lengths of y, if they differ from M
    batch: int
    N: int
    M: int
    C: int
    band: int  # N + M for none
    first: int
    by_pair: int
    by_row: int
    by_column: int
    want_x: bool
    want_y: bool
    has_scale: bool
    has_n: bool
    has_m: bool
    segments: int  # of the longest pair
    steps: int  # that the weights of a strip have room for


class Results(NamedTuple):
    """What a kernel writes: the results, as in :class:`.lattice.Results`, then the memory that all blocks work in."""

    value: Numbers
    value_dot: Numbers
    d_x: Numbers
    d_y: Numbers
    d_D: Numbers
    d_gamma: Doubles
    weights: Numbers  # (blocks, warps, steps, parts, WARP) q left, diagonal, up and, if dual, q_dot left, up
    border: Doubles  # (blocks, segments + warps, M + CHUNK, terms) V, V_dot above each segment, then above each strip
    by_x: Doubles  # (blocks, terms, C, N) sums for the derivatives by the series, if they are wanted
    by_y: Doubles  # (blocks, terms, C, M)
    sums: Doubles  # (blocks, 2, warps + 1) for the derivatives by gamma, and V of the last cell


class Pairs(NamedTuple):
    """What a kernel between series and costs reads; its threads share the ``size`` numbers that it writes."""

    E: Numbers  # (B, N, M); null for Delta
    x: Numbers  # (B, N, C); for Delta (B, C, N)
    y: Numbers  # (B, M, C); for Delta (B, C, M)
    size: int
    N: int
    M: int
    C: int


class Delta(NamedTuple):
    """What such a kernel writes before a sweep."""

    D: Doubles  # (B, N, M)


class Chained(NamedTuple):
    """What such a kernel writes after a sweep."""

    by_x: Numbers  # (B, N, C)


class Pair(NamedTuple):
    """One pair of series, and which thread this is."""

    b: int
    n: int
    m: int
    warps: int
    warp: int
    lane: int
    strips: int
    last_lane: int  # of the last strip: that of row n - 1
    offset: int  # steps of the first chunk that are left out, so that the last strip ends with a whole chunk
    chunks: int  # of a strip
    last_chunks: int  # of the last strip


class Strip(NamedTuple):
    """The strip of this warp in a segment; its positions are in arrays of :class:`Results`."""

    k: int  # from the top
    row: int  # of this lane
    i: int  # the same, or the last row for those below it, which nobody looks at
    is_last: bool
    chunks: int  # none beyond the last strip
    above: int  # cells of the border above
    below: int
    weights: int  # of this lane at the first step


class Front(NamedTuple):
    """What a lane carries forward from step to step."""

    V: float
    V_dot: float
    V_diagonal: float  # of the cell above the last one, which is diagonally above the next one
    dot_diagonal: float
    V_border: float  # above the next cell of the first lane
    dot_border: float


class Flow(NamedTuple):
    """What a lane carries back from step to step: E and E_dot times the weights of its cells, and sums of them."""

    left: float
    left_dot: float
    up: float  # goes to the lane above
    up_dot: float
    across: float  # goes diagonally, which is up with the next step
    across_dot: float
    E_border: float  # comes up to the next cell of the last lane
    dot_border: float
    by_x: float
    by_x_dot: float
    by_gamma: float
    by_gamma_dot: float


def signature(kind: Kind | PairKind) -> tuple:
    """The types of a kernel's arguments."""
    number, sweeps = float32 if kind.precision == "float32" else float64, isinstance(kind, Kind)
    known = {
        Numbers: types.CPointer(number),
        Costs: types.CPointer(float64 if sweeps and kind.double_costs else number),
        Doubles: types.CPointer(float64),
        Integers: types.CPointer(int64),
        int: int64,
        bool: types.boolean,
    }
    return tuple(
        types.NamedTuple([known[annotation] for annotation in arguments.__annotations__.values()], arguments)
        for arguments in ((Problem, Results) if sweeps else (Pairs, Chained if kind.chains else Delta))
    )


# ----------------------------------------------------------------------- a cell


def _device(function: Callable) -> Callable:
    return cuda.jit(device=True, forceinline=True)(function)


@_device
def _smaller(a, b):
    return a if a < b else b  # the built-in min of two numbers does not compile for CUDA (numba, issue 10753)


@_device
def _larger(a, b):
    return a if a > b else b


@_device
def _where_positive(condition, then, otherwise):
    return then if condition > 0 else otherwise


@_device
def _exp2_minus_abs(x):
    return math.exp2(-abs(x))


@_device
def _log2_1p(u):
    return math.log1p(u) * (1.0 / LN2)


@_device
def _log2_inverse(q, rest):
    if q > 0.5:
        return -math.log1p(-rest) * (1.0 / LN2)
    return -math.log(q) * (1.0 / LN2) if q > 0.0 else 0.0


@_device
def _inverse(x):
    return 1.0 / x


def _instruction(name: str) -> Callable:
    """An approximation that the hardware has, of one float32; tiny numbers are zero."""

    @intrinsic
    def instruction(typing_context, x):
        def code(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
            return builder.call(ir.InlineAsm(kind, f"{name}.approx.ftz.f32 $0, $1;", "=f,f"), arguments)

        return float32(float32), code

    return instruction


_ex2, _lg2, _rcp = map(_instruction, ("ex2", "lg2", "rcp"))


@_device
def _exp2_minus_abs_fast(x):
    return _ex2(-abs(x))


@_device
def _inverse_fast(x):
    return _rcp(x)


@_device
def _log2_1p_fast(u):
    """What u loses in 1 + u is added to first order; the hardware's logarithm errs by 2^-22."""
    total = float32(1.0) + u
    lost = u - (total - float32(1.0))
    return _lg2(total) + lost * (_rcp(total) * float32(1.0 / LN2))


def _operations(exp2_minus_abs: Callable, log2_1p: Callable, inverse: Callable) -> SimpleNamespace:
    """What the formulas of a cell are made of on a GPU: functions on the numbers of one thread."""
    return SimpleNamespace(
        function=_device,
        least=_smaller,
        where_positive=_where_positive,
        exp2_minus_abs=exp2_minus_abs,
        log2_1p=log2_1p,
        log2_inverse=_log2_inverse,
        inverse=inverse,
        double=float64,
    )


_FORMULAS = {
    "float32": formulas(_operations(_exp2_minus_abs_fast, _log2_1p_fast, _inverse_fast)),
    "float64": formulas(_operations(_exp2_minus_abs, _log2_1p, _inverse)),
}


# ----------------------------------------------------------------------- the walk of a block


@_device
def _pair(problem, b):
    """Pair b: the block takes one after the other."""
    n = int32(problem.n[b]) if problem.has_n else int32(problem.N)
    m = int32(problem.m[b]) if problem.has_m else int32(problem.M)
    thread, threads = int32(cuda.threadIdx.x), int32(cuda.blockDim.x)
    last_lane = int32((n - 1) & 31)
    offset = int32(-(m + last_lane) & 7)
    return Pair(
        b, n, m, int32(threads >> 5), int32(thread >> 5), int32(thread & 31), int32((n + 31) >> 5), last_lane, offset,
        int32((m + offset + 38) >> 3), int32((m + offset + last_lane) >> 3),
    )  # fmt: skip


def make_kernel(kind: Kind) -> Callable:
    """The kernel of a kind."""
    number = float32 if kind.precision == "float32" else float64
    cell = _FORMULAS[kind.precision]
    softmin, tangent, correction_of = cell.softmin, cell.tangent, cell.correction
    surprisals, entropy_of = cell.surprisals, cell.entropy
    _, of_costs, dual, backward, by_gamma, keeps_E, _ = kind  # numba leaves out what they exclude
    parts, terms = (5, 2) if dual else (3, 1)
    step = parts * WARP  # of the weights

    @_device
    def column_of(pair, s):
        """The column of this lane at step s; outside of the lattice, the nearest one."""
        return _smaller(_larger(int32(s - pair.lane), int32(0)), int32(pair.m - 1))

    @_device
    def strip_of(problem, pair, segment):
        """The strip of this warp in a segment."""
        k = int32(segment * pair.warps + pair.warp)
        row = int32(k * WARP + pair.lane)
        is_last = k == pair.strips - 1
        chunks = pair.last_chunks if is_last else pair.chunks if k < pair.strips else int32(0)
        block, width = int64(cuda.blockIdx.x), problem.M + CHUNK
        above = segment if pair.warp == 0 else problem.segments + pair.warp
        below = segment + 1 if pair.warp == pair.warps - 1 else problem.segments + pair.warp + 1
        borders = block * (problem.segments + pair.warps)
        weights = (block * pair.warps + pair.warp) * problem.steps * step + pair.lane
        i = _smaller(row, int32(pair.n - 1))
        return Strip(k, row, i, is_last, chunks, (borders + above) * width, (borders + below) * width, weights)

    @_device
    def border_at(results, cell):
        """V and V_dot, or E and E_dot, at a cell of a border."""
        if dual:
            return results.border[2 * cell], results.border[2 * cell + 1]
        return results.border[cell], 0.0

    @_device
    def write_border(results, cell, of_shape, of_time):
        """Write what :func:`border_at` reads."""
        results.border[terms * cell] = of_shape
        if dual:
            results.border[terms * cell + 1] = of_time

    # ------------------------------------------------------------------- forward

    @_device
    def fill_costs(problem, pair, strip, s, costs):
        """Delta of this lane at the steps of a chunk, in units of gamma * log(2).

        Outside of the lattice it is that of the nearest cell, which nobody looks at. float64 differences keep the
        digits of series far from zero.
        """
        for u in range(CHUNK):
            costs[u] = 0.0
        if of_costs:
            at = (pair.b * problem.N + strip.i) * problem.M
            for u in range(CHUNK):
                costs[u] = float64(problem.D[at + column_of(pair, s + u)])
        else:
            x, y = pair.b * problem.C * problem.N + strip.i, pair.b * problem.C * problem.M
            for _ in range(problem.C):
                value = float64(problem.x[x])
                for u in range(CHUNK):
                    difference = value - float64(problem.y[y + column_of(pair, s + u)])
                    costs[u] += difference * difference
                x, y = x + problem.N, y + problem.M
        unit = 1.0 / (problem.gamma[0] * LN2)
        for u in range(CHUNK):
            costs[u] *= unit
        if problem.band < problem.N + problem.M:
            for u in range(CHUNK):
                if abs(int32(strip.row + pair.lane - s - u)) > problem.band:
                    costs[u] = UNREACHABLE

    @_device
    def forward_step(problem, results, pair, strip, s, cost, omega, omega_scale, inverse_gamma, front, keep, weights):
        """Eq. 2 and Eq. 4: V and V_dot of this lane's cell at step s, and its weights."""
        up, dot_up = cuda.shfl_up_sync(EVERY_LANE, front.V, 1), 0.0
        up = front.V_border if pair.lane == 0 else up
        V_dot, V_border, dot_border = 0.0, UNREACHABLE, 0.0
        if dual:
            dot_up = cuda.shfl_up_sync(EVERY_LANE, front.V_dot, 1)
            dot_up = front.dot_border if pair.lane == 0 else dot_up
        if strip.k > 0:
            V_border, dot_border = border_at(results, strip.above + _smaller(int32(s + 1), int32(pair.m - 1)))
        value, q_left, q_up, q_diagonal = softmin(front.V, up, front.V_diagonal, number)
        if keep:
            results.weights[weights] = q_left
            results.weights[weights + WARP] = q_diagonal
            results.weights[weights + 2 * WARP] = q_up
        if dual:
            own = problem.omega[omega + column_of(pair, s) * int32(problem.by_column)] * omega_scale
            V_dot, q_dot_left, q_dot_up = tangent(
                own, front.V_dot, dot_up, front.dot_diagonal, q_left, q_up, q_diagonal, inverse_gamma, number
            )
            if keep:
                results.weights[weights + 3 * WARP] = q_dot_left
                results.weights[weights + 4 * WARP] = q_dot_up
        return Front(cost + value, V_dot, up, dot_up, V_border, dot_border)

    @_device
    def forward_segment(problem, results, pair, segment, keep, again):
        """Sweep a segment, and keep its weights if asked to; V and V_dot of this lane's last cell."""
        strip = strip_of(problem, pair, segment)
        # the row below a segment has been written the first time, and then E is in its place
        writes = pair.lane == WARP - 1 and strip.k < pair.strips - 1
        writes = writes and not (again and pair.warp == pair.warps - 1)
        weights = strip.weights
        omega = problem.first + pair.b * problem.by_pair + strip.i * problem.by_row
        omega_scale = problem.omega_scale[pair.b] if problem.has_scale else 1.0
        inverse_gamma = number(1.0 / problem.gamma[0])
        costs = cuda.local.array(CHUNK, float64)
        V_diagonal = 0.0 if strip.row == 0 else UNREACHABLE  # the path starts at (-1, -1)
        front = Front(UNREACHABLE, 0.0, V_diagonal, 0.0, UNREACHABLE, 0.0)
        t, rounds = int32(0), int32(pair.chunks + (pair.warps - 1) * LAG)
        while t < rounds:
            chunk = int32(t - pair.warp * LAG)
            if chunk >= 0 and chunk < strip.chunks:
                s, u = int32(chunk * CHUNK - pair.offset), int32(0)
                fill_costs(problem, pair, strip, s, costs)
                if chunk == 0 and strip.k > 0:
                    V_border, dot_border = border_at(results, strip.above)
                    front = Front(front.V, front.V_dot, front.V_diagonal, front.dot_diagonal, V_border, dot_border)
                while s < 0:  # nothing comes back over steps that are left out
                    if keep:
                        for part in range(parts):
                            results.weights[weights + part * WARP] = number(0.0)
                    weights, s, u = weights + step, int32(s + 1), int32(u + 1)
                while u < CHUNK:
                    front = forward_step(
                        problem, results, pair, strip, s, costs[uint32(u)], omega, omega_scale, inverse_gamma, front,
                        keep, weights,
                    )  # fmt: skip
                    if writes and s >= WARP - 1:
                        write_border(results, strip.below + s - (WARP - 1), front.V, front.V_dot)
                    weights, s, u = weights + step, int32(s + 1), int32(u + 1)
            cuda.syncthreads()
            t = int32(t + 1)
        return front.V, front.V_dot

    # ------------------------------------------------------------------- backward

    @_device
    def weights_at(results, at):
        """The weights of a step: left, diagonal, up and the derivatives of left and up."""
        W = results.weights
        if dual:
            return W[at], W[at + WARP], W[at + 2 * WARP], W[at + 3 * WARP], W[at + 4 * WARP]
        return W[at], W[at + WARP], W[at + 2 * WARP], number(0.0), number(0.0)

    @_device
    def border_below(results, pair, strip, s):
        """E and E_dot that come up to the last lane at step s."""
        j = int32(s - (WARP - 1))
        if strip.is_last or j < 0 or j >= pair.m:
            return 0.0, 0.0
        return border_at(results, strip.below + j)

    @_device
    def backward_step(problem, results, pair, strip, s, weights, x, flow):
        """Algorithm 2: E and E_dot of this lane's cell at step s, and their shares for its predecessors: times q."""
        q_left, q_diagonal, q_up, q_dot_left, q_dot_up = weights
        is_lowest = pair.lane == WARP - 1
        from_below = cuda.shfl_down_sync(EVERY_LANE, flow.up, 1)
        E, E_dot = flow.left + (flow.E_border if is_lowest else from_below), 0.0
        correction = correction_of(q_left, q_up, q_diagonal)
        share = E * correction
        left, up = float64(q_left) * share, float64(q_up) * share + flow.across
        across, left_dot, up_dot, across_dot = float64(q_diagonal) * share, 0.0, 0.0, 0.0
        if dual:
            from_below = cuda.shfl_down_sync(EVERY_LANE, flow.up_dot, 1)
            E_dot = flow.left_dot + (flow.dot_border if is_lowest else from_below)
            share_dot = E_dot * correction
            left_dot = float64(q_left) * share_dot + float64(q_dot_left) * share
            up_dot = float64(q_up) * share_dot + float64(q_dot_up) * share + flow.across_dot
            across_dot = float64(q_diagonal) * share_dot - (float64(q_dot_left) + float64(q_dot_up)) * share
        E_border, dot_border = border_below(results, pair, strip, int32(s - 1))
        if pair.lane == 0 and strip.k > 0 and s >= 0 and s < pair.m:
            write_border(results, strip.above + s, up, up_dot)
        by_x, by_x_dot, total, total_dot = flow.by_x, flow.by_x_dot, flow.by_gamma, flow.by_gamma_dot
        if not of_costs:
            difference = x - float64(problem.y[pair.b * problem.C * problem.M + column_of(pair, s)])
            by_x, by_x_dot = by_x + E * difference, by_x_dot + E_dot * difference
        if by_gamma:
            q = float64(q_left), float64(q_up), float64(q_diagonal)
            of_q = surprisals(q[0], q[1], q[2])
            entropy = entropy_of(q[0], q[1], q[2], of_q[0], of_q[1], of_q[2])
            q_dot_diagonal = -(float64(q_dot_left) + float64(q_dot_up))
            entropy_dot = entropy_of(q_dot_left, q_dot_up, q_dot_diagonal, of_q[0], of_q[1], of_q[2])
            total, total_dot = total - E * entropy, total_dot - E_dot * entropy - E * entropy_dot
        handed_on = left, left_dot, up, up_dot, across, across_dot, E_border, dot_border
        return E, E_dot, Flow(*handed_on, by_x, by_x_dot, total, total_dot)

    @_device
    def backward_segment(problem, results, pair, segment, by_gamma_sums):
        """E and E_dot of a segment, and the derivatives that are wanted; weights are fetched four steps ahead."""
        strip = strip_of(problem, pair, segment)
        weights = strip.weights + int64(strip.chunks * CHUNK - 1) * step
        E, E_dot = cuda.local.array(CHUNK, float64), cuda.local.array(CHUNK, float64)
        x = 0.0
        if not of_costs:
            x = float64(problem.x[pair.b * problem.C * problem.N + strip.i])
        starts = 1.0 if strip.is_last and pair.lane == pair.last_lane else 0.0  # E of the last cell is one
        flow = Flow(starts, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, by_gamma_sums[0], by_gamma_sums[1])
        none = (number(0.0), number(0.0), number(0.0), number(0.0), number(0.0))
        q0, q1, q2, q3 = none, none, none, none
        t = int32(pair.chunks + (pair.warps - 1) * LAG - 1)
        while t >= 0:
            chunk = int32(t - pair.warp * LAG)
            if chunk >= 0 and chunk < strip.chunks:
                s, u = int32(chunk * CHUNK + CHUNK - 1 - pair.offset), int32(CHUNK - 1)
                if chunk == strip.chunks - 1:
                    q0, q1 = weights_at(results, weights), weights_at(results, weights - step)
                    q2, q3 = weights_at(results, weights - 2 * step), weights_at(results, weights - 3 * step)
                    E_border, dot_border = border_below(results, pair, strip, s)
                    start = starts, 0.0, 0.0, 0.0, 0.0, 0.0, E_border, dot_border
                    flow = Flow(*start, 0.0, 0.0, by_gamma_sums[0], by_gamma_sums[1])
                while u >= 0:
                    more = u > 3 or chunk > 0  # are there four more steps?
                    E3, D3, flow = backward_step(problem, results, pair, strip, s, q0, x, flow)
                    if more:
                        q0 = weights_at(results, weights - 4 * step)
                    E2, D2, flow = backward_step(problem, results, pair, strip, int32(s - 1), q1, x, flow)
                    if more:
                        q1 = weights_at(results, weights - 5 * step)
                    E1, D1, flow = backward_step(problem, results, pair, strip, int32(s - 2), q2, x, flow)
                    if more:
                        q2 = weights_at(results, weights - 6 * step)
                    E0, D0, flow = backward_step(problem, results, pair, strip, int32(s - 3), q3, x, flow)
                    if more:
                        q3 = weights_at(results, weights - 7 * step)
                    if keeps_E:
                        E[uint32(u)], E[uint32(u - 1)], E[uint32(u - 2)], E[uint32(u - 3)] = E3, E2, E1, E0
                        E_dot[uint32(u)], E_dot[uint32(u - 1)] = D3, D2
                        E_dot[uint32(u - 2)], E_dot[uint32(u - 3)] = D1, D0
                    weights, s, u = weights - 4 * step, int32(s - 4), int32(u - 4)
                if of_costs and keeps_E:
                    store_by_costs(problem, results, pair, strip.row, int32(s + 1), E, E_dot)
                if not of_costs and keeps_E:
                    add_to_series(problem, results, pair, strip, int32(s + 1), E, E_dot, chunk)
                if not of_costs and problem.want_x and chunk == 0:
                    store_by_x(problem, results, pair, strip.row, 0, flow.by_x, flow.by_x_dot)
            cuda.syncthreads()
            t = int32(t - 1)
        return flow.by_gamma, flow.by_gamma_dot

    @_device
    def store_by_costs(problem, results, pair, i, s, E, E_dot):
        """Derivatives by the costs of a chunk, which begins at step s."""
        row = (pair.b * problem.N + i) * problem.M
        for u in range(CHUNK):
            j = int32(s + u - pair.lane)
            if i < pair.n and j >= 0 and j < pair.m:
                results.d_D[row + j] = number(E[u])
                if dual:
                    results.d_D[problem.batch * problem.N * problem.M + row + j] = number(E_dot[u])

    @_device
    def add_to_series(problem, results, pair, strip, s, E, E_dot, chunk):
        """Chain E of a chunk, which begins at step s, through Delta = (x - y)**2.

        Sums by x stay in their lane. Those by y go up with their column from lane to lane, and from the first one to
        memory; what is on its way when the chunk is over goes to memory, too.
        """
        block, C, N, M = int64(cuda.blockIdx.x), problem.C, problem.N, problem.M
        c = int64(0) if problem.want_y else int64(1)  # the first variable of x is added up on the way
        while c < C:
            value = float64(problem.x[(pair.b * C + c) * N + strip.i])
            y = (pair.b * C + c) * M
            by_x, by_x_dot, by_y, by_y_dot = 0.0, 0.0, 0.0, 0.0
            to_x, to_y = (block * terms * C + c) * N + strip.i, (block * terms * C + c) * M
            u = int32(CHUNK - 1)
            while u >= 0:
                difference = value - float64(problem.y[y + column_of(pair, s + u)])
                by_x += E[uint32(u)] * difference
                if dual:
                    by_x_dot += E_dot[uint32(u)] * difference
                if problem.want_y:
                    by_y = cuda.shfl_down_sync(EVERY_LANE, by_y, 1)
                    by_y = E[uint32(u)] * difference + (0.0 if pair.lane == WARP - 1 else by_y)
                    if dual:
                        by_y_dot = cuda.shfl_down_sync(EVERY_LANE, by_y_dot, 1)
                        by_y_dot = E_dot[uint32(u)] * difference + (0.0 if pair.lane == WARP - 1 else by_y_dot)
                    j = int32(s + u - pair.lane)
                    if (pair.lane == 0 or u == 0) and j >= 0 and j < pair.m:
                        results.by_y[to_y + j] += by_y
                        if dual:
                            results.by_y[to_y + C * M + j] += by_y_dot
                u = int32(u - 1)
            if problem.want_x and c > 0 and strip.row < pair.n:
                if chunk < strip.chunks - 1:
                    by_x += results.by_x[to_x]
                    if dual:
                        by_x_dot += results.by_x[to_x + C * N]
                results.by_x[to_x] = by_x
                if dual:
                    results.by_x[to_x + C * N] = by_x_dot
                if chunk == 0:
                    store_by_x(problem, results, pair, strip.row, c, by_x, by_x_dot)
            c += 1

    @_device
    def store_by_x(problem, results, pair, i, c, by_x, by_x_dot):
        """Derivatives by variable c of this lane's step of x, from sums."""
        if i < pair.n:
            at = (pair.b * problem.N + i) * problem.C + c
            results.d_x[at] = number(2.0 * by_x)
            if dual:
                results.d_x[problem.batch * problem.N * problem.C + at] = number(2.0 * by_x_dot)

    @_device
    def clear_by_y(problem, results):
        """Zeros for the sums by y."""
        size = terms * problem.C * problem.M
        at = int64(cuda.blockIdx.x) * size
        k = int64(cuda.threadIdx.x)
        while k < size:
            results.by_y[at + k] = 0.0
            k += cuda.blockDim.x

    @_device
    def store_by_y(problem, results, pair):
        """From sums (C, M), one term after the other, to the results (terms, B, M, C)."""
        C, M = problem.C, problem.M
        at = int64(cuda.blockIdx.x) * terms * C * M
        for term in range(terms):
            for c in range(C):
                j = int64(cuda.threadIdx.x)
                while j < pair.m:
                    total = -2.0 * results.by_y[at + (term * C + c) * M + j]
                    results.d_y[((term * problem.batch + pair.b) * M + j) * C + c] = number(total)
                    j += cuda.blockDim.x

    @_device
    def store_by_gamma(problem, results, pair, by_gamma_sums):
        """Add up what the lanes have, then the warps, always in the same order."""
        total, total_dot = by_gamma_sums
        for k in (16, 8, 4, 2, 1):
            total += cuda.shfl_down_sync(EVERY_LANE, total, k)
            total_dot += cuda.shfl_down_sync(EVERY_LANE, total_dot, k)
        sums = int64(cuda.blockIdx.x) * 2 * (pair.warps + 1)
        if pair.lane == 0:
            results.sums[sums + pair.warp] = total
            results.sums[sums + pair.warps + 1 + pair.warp] = total_dot
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            total, total_dot = 0.0, 0.0
            for w in range(pair.warps):
                total += results.sums[sums + w]
                total_dot += results.sums[sums + pair.warps + 1 + w]
            results.d_gamma[pair.b] = total
            if dual:
                results.d_gamma[problem.batch + pair.b] = total_dot

    @_device
    def spoil(out, at, size):
        """NaN for all the derivatives of a pair by one of its inputs."""
        k = int64(cuda.threadIdx.x)
        while k < size:
            out[at + k] = math.nan
            k += cuda.blockDim.x

    @_device
    def spoil_pair(problem, results, b):
        """NaN for all the derivatives of a pair whose value is NaN."""
        for term in range(terms):
            pair = term * problem.batch + b
            if of_costs and keeps_E:
                spoil(results.d_D, pair * problem.N * problem.M, problem.N * problem.M)
            if problem.want_x:
                spoil(results.d_x, pair * problem.N * problem.C, problem.N * problem.C)
            if problem.want_y:
                spoil(results.d_y, pair * problem.M * problem.C, problem.M * problem.C)
            if by_gamma:
                spoil(results.d_gamma, pair, 1)

    @_device
    def sweep_pair(problem, results, pair):
        """All segments forward, then back; each but the last one is swept forward again on the way back."""
        segments = int32((pair.strips + pair.warps - 1) // pair.warps)
        sums = int64(cuda.blockIdx.x) * 2 * (pair.warps + 1) + pair.warps
        by_gamma_sums = (0.0, 0.0)
        if backward and problem.want_y:
            clear_by_y(problem, results)
        k = int32(0)
        while k < (2 * segments - 1 if backward else segments):
            segment = _smaller(k, int32(2 * (segments - 1) - k))
            V, V_dot = forward_segment(
                problem, results, pair, segment, backward and k >= int32(segments - 1), k >= segments
            )
            if k == segments - 1:
                strip = segment * pair.warps + pair.warp
                if strip == pair.strips - 1 and pair.lane == pair.last_lane:
                    results.sums[sums] = V
                    longer = abs(pair.n - pair.m)
                    nan_if_invalid = 0.0 if abs(V) < 0.5 * UNREACHABLE and longer <= problem.band else math.nan
                    results.value[pair.b] = number(V * problem.gamma[0] * LN2 + nan_if_invalid)
                    if dual:
                        results.value_dot[pair.b] = number(V_dot + nan_if_invalid)
                cuda.syncthreads()
            if backward and k >= segments - 1:
                by_gamma_sums = backward_segment(problem, results, pair, segment, by_gamma_sums)
            k = int32(k + 1)
        if backward:
            if problem.want_y:
                store_by_y(problem, results, pair)
            if by_gamma:
                store_by_gamma(problem, results, pair, by_gamma_sums)
            V = results.sums[sums]
            cuda.syncthreads()
            if not abs(V) < 0.5 * UNREACHABLE or abs(pair.n - pair.m) > problem.band:
                spoil_pair(problem, results, pair.b)

    def sweep(problem, results):
        b = int64(cuda.blockIdx.x)
        while b < problem.batch:
            sweep_pair(problem, results, _pair(problem, b))
            cuda.syncthreads()
            b += cuda.gridDim.x

    return sweep


# ----------------------------------------------------------------------- many variables


def distances_kernel(pairs, out):
    """Delta in float64, whose differences keep the digits of series far from zero; neighbours have one step of x."""
    at = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    while at < pairs.size:
        step, b = at // pairs.M, at // (pairs.M * pairs.N)
        x, y = b * pairs.C * pairs.N + step - b * pairs.N, b * pairs.C * pairs.M + at - step * pairs.M
        total = 0.0
        for _ in range(pairs.C):
            difference = float64(pairs.x[x]) - float64(pairs.y[y])
            total += difference * difference
            x, y = x + pairs.N, y + pairs.M
        out.D[at] = total
        at += int64(cuda.gridDim.x) * cuda.blockDim.x


def chain_kernel(pairs, out):
    """``2 sum_j E (x - y_j)``; neighbours have one step, so that all of them leave out the cells without a path."""
    at = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    while at < pairs.size:
        step, b = at // pairs.C, at // (pairs.C * pairs.N)
        E, y = step * pairs.M, b * pairs.M * pairs.C + at - step * pairs.C
        x, total = float64(pairs.x[at]), 0.0
        for _ in range(pairs.M):
            weight = float64(pairs.E[E])
            if weight != 0.0:
                total += weight * (x - float64(pairs.y[y]))
            E, y = E + 1, y + pairs.C
        out.by_x[at] = 2.0 * total
        at += int64(cuda.gridDim.x) * cuda.blockDim.x


# ----------------------------------------------------------------------- compiling and launching


def compile_ptx(kind: Kind | PairKind, capability: tuple[int, int] = (9, 0)) -> str:
    """The PTX of the kernel of a kind for a compute capability; needs no GPU."""
    kernel = make_kernel(kind) if isinstance(kind, Kind) else chain_kernel if kind.chains else distances_kernel
    return cuda_launch.compile_ptx(kernel, signature(kind), capability)


@cache
def load(kind: Kind | PairKind, device: torch.device) -> object:
    """The kernel of a kind, ready to be launched on a device."""
    capability = torch.cuda.get_device_capability(device)
    make_ptx = partial(compile_ptx, kind, capability)
    return cuda_launch.load(cuda_launch.machine_code("-".join(map(str, kind)), make_ptx, capability))


@cache
def tensors_of(arguments: type[NamedTuple]) -> int:
    """How many of a kernel's arguments are tensors, which come first."""
    return sum(annotation not in (int, bool) for annotation in arguments.__annotations__.values())


def launch(
    kind: Kind | PairKind, blocks: int, threads: int, problem: Problem | Pairs, results: Results | Delta | Chained
) -> None:
    """Run the kernel of a kind on torch's current stream of the tensors' device."""
    device, tensors = results[0].device, tensors_of(type(problem))
    with torch.cuda.device(device):
        cuda_launch.launch(load(kind, device), blocks, threads, problem[:tensors], problem[tensors:], results)


# ----------------------------------------------------------------------- how a batch is cut up


class Limits(NamedTuple):
    """What a launch may use of a device."""

    processors: int
    warps_per_processor: int = 16  # registers allow no more
    most_warps: int = MOST_WARPS  # of a block
    scratch_bytes: int = 1 << 30  # for the memory that blocks work in, unless a single strip takes more


class Plan(NamedTuple):
    """How many blocks and warps sweep a batch, and how many numbers a block has in each array of :class:`Results`."""

    blocks: int
    warps: int  # of a block
    segments: int  # of the longest pair
    steps: int  # of a strip
    weights: int
    border: int
    by_x: int
    by_y: int
    sums: int

    def bytes(self, itemsize: int) -> int:
        """Of all blocks."""
        return self.blocks * (itemsize * self.weights + 8 * (self.border + self.by_x + self.by_y + self.sums))


@cache
def limits_of(device: torch.device) -> Limits:
    """The limits of a device; at most a 32nd of its memory is taken."""
    properties = torch.cuda.get_device_properties(device)
    return Limits(properties.multi_processor_count, scratch_bytes=min(1 << 30, properties.total_memory >> 5))


@lru_cache(maxsize=128)
def make_plan(shape: tuple[int, int, int, int], kind: Kind, want_x: bool, want_y: bool, limits: Limits) -> Plan:
    """A block for each pair, then more warps, as long as they find a place and memory; shape is (B, N, M, C)."""
    batch, N, M, C = shape
    strips, terms, itemsize = -(-N // WARP), 2 if kind.dual else 1, 4 if kind.precision == "float32" else 8
    steps = -(-(M + WARP - 1 + CHUNK - 1) // CHUNK) * CHUNK  # with the steps that a first chunk leaves out
    of_strip = steps * WARP * (5 if kind.dual else 3) if kind.backward else 0
    by_x, by_y = terms * C * N if want_x and C > 1 else 0, terms * C * M if want_y else 0
    places = min(batch * strips, limits.processors * limits.warps_per_processor)
    blocks = min(batch, places)
    for warps in range(min(strips, limits.most_warps, places // blocks), 0, -1):
        segments = -(-strips // warps)
        border = (segments + warps) * (M + CHUNK) * terms
        plan = Plan(blocks, warps, segments, steps, warps * of_strip, border, by_x, by_y, 2 * (warps + 1))
        if plan.bytes(itemsize) <= limits.scratch_bytes:
            return plan
    return plan._replace(blocks=max(1, blocks * limits.scratch_bytes // plan.bytes(itemsize)))


# ----------------------------------------------------------------------- what the operators call


def _omega_steps(omega: Tensor | None, N: int, M: int) -> tuple[int, int, int, int]:
    """Where Omega begins, and how far apart those of two pairs, two rows and two columns are."""
    if omega is None:
        return 0, 0, 0, 0
    if omega.dim() == 1:
        return M - 1, 0, 1, -1
    return 0, N * M if omega.shape[0] > 1 else 0, M, 1


def _precision(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _launch_on_pairs(limits, launch, E, x, y, results, N, M, C) -> None:
    kind, (out,) = PairKind(_precision(x.dtype), E is not None), results
    blocks = min(-(-out.numel() // PAIR_THREADS), PAIR_BLOCKS * limits.processors)
    launch(kind, blocks, PAIR_THREADS, Pairs(E, x, y, out.numel(), N, M, C), results)


def _square_distances(limits, launch, x, y, n, m, band, D) -> None:
    """(output) Delta of all cells."""
    _launch_on_pairs(limits, launch, None, x.mT.contiguous(), y.mT.contiguous(), Delta(D), *D.shape[1:], x.shape[2])


def _chain_to_series(limits, launch, E, x, y, by_x) -> None:
    """(output) ``2 sum_j E (x - y_j)``."""
    _launch_on_pairs(limits, launch, E, x, y, Chained(by_x), *E.shape[1:], x.shape[2])


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
    launch: Callable[[Kind, int, int, Problem, Results], None] = launch,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    """Either operator: pack the arguments, allocate the results, launch; without Omega there is no temporal term.

    ``dtype`` is for :func:`.lattice.allocate`.
    """
    check_arguments(x, y, D, gamma, n, m, omega, omega_scale, band)
    of_series, dual = D is None, omega is not None
    B, N, M, C = (*x.shape[:2], *y.shape[1:]) if of_series else (*D.shape, 1)
    like, band = x if of_series else D, N + M if band < 0 else min(band, N + M)
    terms = 2 if dual else 1
    outputs = allocate(x, y, D, gamma, terms, wants, dtype)
    want_x, want_y, want_D, want_gamma = wants
    if B == 0:
        return outputs
    limits, dtype = limits or limits_of(like.device), dtype or like.dtype
    if of_series and C >= MANY:
        on_costs = partial(sweep, None, None, limits=limits, launch=launch)
        kernels = (partial(kernel, limits, launch) for kernel in (_square_distances, _chain_to_series))
        bytes_of_cell = 8 + dtype.itemsize * (terms + want_y)  # costs, E, and one E transposed
        group = max(1, limits.scratch_bytes // (bytes_of_cell * N * M))
        sweep_on_costs(outputs, on_costs, *kernels, group, x, y, gamma, n, m, omega, omega_scale, band, wants)
        return outputs
    keeps_E = want_y or (want_D and not of_series) or (want_x and C > 1)
    kind = Kind(_precision(dtype), not of_series, dual, any(wants), want_gamma, keeps_E, like.dtype != dtype)
    for lengths, by_series in zip((n, m), outputs[2:4], strict=True):
        if lengths is not None:
            by_series.zero_()  # the kernel leaves padding alone
    plan = make_plan((B, N, M, C), kind, *wants[:2], limits)

    # copies must live until the kernel is launched; torch gives their memory to what comes after it on the stream
    series = (s.detach().transpose(1, 2).contiguous() for s in (x, y)) if of_series else (None, None)
    arrays = (*series, *(t if t is None else t.detach().contiguous() for t in (D, gamma, omega, omega_scale, n, m)))
    problem = Problem(
        *arrays, B, N, M, C, band, *_omega_steps(omega, N, M), *wants[:2],
        *(t is not None for t in (omega_scale, n, m)), plan.segments, plan.steps,
    )  # fmt: skip
    scratch = [like.new_empty(plan.blocks * plan.weights, dtype=dtype)]
    scratch += (like.new_empty(plan.blocks * size, dtype=torch.float64) for size in plan[5:])
    results = Results(*(t if t.numel() else None for t in (*outputs, *scratch)))
    launch(kind, plan.blocks, plan.warps * WARP, problem, results)
    if of_series and want_D:  # the kernel of series keeps no E; that of costs does
        costs = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
        by_costs = False, False, True, False
        outputs[4].copy_(sweep(None, None, costs, gamma, n, m, None, None, band, by_costs, limits, launch)[4])
    return outputs


def try_out() -> None:
    """Compile, or find on disk, and load the smallest kernel: whatever is missing raises."""
    if "numba_cuda" not in cuda.__file__:
        raise ImportError("numba imports its own old numba.cuda, so the installation of numba-cuda is not complete")
    for compiler in ("nvvm", "nvrtc"):  # which other kernels need, though the smallest one may be on disk
        load_nvidia_dynamic_lib(compiler)
    smallest = Kind("float32", of_costs=True, dual=False, backward=False, by_gamma=False, keeps_E=False)
    load(smallest, torch.device("cuda", torch.cuda.current_device()))
