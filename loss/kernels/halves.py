"""One long pair of series on two threads: from both ends to the middle, and back.

The cost of a path is the sum over its two halves, and either half may be swept from its own end: the second one is
the first one of both series turned round. Where they meet, a path takes one of the steps that lead from the rows of
one half to those of the other; its softmin over these steps is the value, and the weights of the steps are the E
with which either half begins its way back.
"""

import math

import numpy as np

from .jit import jit
from .simd import flush_denormals, restore_denormals
from .tile import UNREACHABLE, advance, go_back, last_origin, lay_out, prepare, store_gradients
from .workers import on_threads

_LN2 = math.log(2.0)


@jit
def _go_to_the_middle(problem, plan, results, end, doubles, numbers):
    """V and V_dot of the rows up to ``end``, of one pair."""
    state = flush_denormals()
    tile = lay_out(plan, 0, 1, end - 1, end, doubles, numbers)
    prepare(problem, plan, tile)
    advance(problem, plan, results, tile, 0, end, last_origin(problem, plan, end), True)
    restore_denormals(state)


@jit
def _go_back(problem, plan, results, end, doubles, numbers, starts):
    """The derivatives by the cells of the rows up to ``end``, which :func:`_go_to_the_middle` left."""
    state = flush_denormals()
    tile = lay_out(plan, 0, 1, end - 1, end, doubles, numbers)
    go_back(problem, plan, results, tile, last_origin(problem, plan, end), starts)
    store_gradients(problem, results, tile)
    restore_denormals(state)


def can_be_halved(problem, band):
    """Whether :func:`sweep_halves` serves: one pair of whole series, with nothing wanted but their derivatives."""
    alike_turned_round = band < 0 or problem.N == problem.M
    whole = problem.n.size == 0 and problem.m.size == 0
    return problem.of_series and whole and alike_turned_round and not problem.want_gamma and problem.N + problem.M > 8


def ends(problem):
    """The last row of either half, counted from its own end of the lattice."""
    last = problem.N + problem.M - 2
    return last // 2, last - last // 2 - 1


def _turned_round(problem):
    """The same problem with time running backwards."""
    return problem._replace(
        x=np.ascontiguousarray(problem.x[:, ::-1]),
        y=np.ascontiguousarray(problem.y[:, ::-1]),
        toeplitz=np.ascontiguousarray(problem.toeplitz[::-1]),
        Omega=np.ascontiguousarray(problem.Omega[:, ::-1, ::-1]),
    )


def _row(problem, plan, doubles, part, d, outside):
    """Row d of V (part 4) or V_dot (part 5) of a half, for all i."""
    row = np.full(problem.N, outside)
    lo, hi = plan.lo[d], plan.hi[d]
    first = plan.parts[part] + d % 3 * plan.stride + lo + 1
    row[lo : hi + 1] = doubles[first : first + hi - lo + 1]
    return row


def _sums_over_steps(problem, plan, memories, part, outside):
    """V or V_dot of both halves together, for each step from one to the other: (4, N), by the cell it starts from.

    Steps left, up and diagonal from the last row of the first half, and diagonal ones from the row before it.
    """
    last, before = (_row(problem, plan, memories[0], part, ends(problem)[0] - k, outside) for k in (0, 1))
    first, second = (_row(problem, plan, memories[1], part, ends(problem)[1] - k, outside)[::-1] for k in (0, 1))
    below, below_second = (np.append(row[1:], outside) for row in (first, second))
    return np.stack([last + first, last + below, last + below_second, before + below])


def _meet(problem, plan, memories):
    """The value and V_dot of the pair, and the E and E_dot with which either half begins: (2, 2, N) each."""
    V = _sums_over_steps(problem, plan, memories, 4, UNREACHABLE)
    best = V.min()
    valid = best < 0.5 * UNREACHABLE
    weights = np.exp2(best - V) if valid else np.full(V.shape, np.nan)
    total = weights.sum()
    weights /= total
    value, value_dot, weights_dot = (best - math.log2(total)) * problem.gamma * _LN2, 0.0, np.zeros(V.shape)
    if problem.dual:
        V_dot = _sums_over_steps(problem, plan, memories, 5, 0.0)
        likeliest = V_dot.flat[V.argmin()]
        from_likeliest = V_dot - likeliest  # where one step has nearly all the weight, this keeps the rest
        mean = (weights * from_likeliest).sum()
        value_dot, weights_dot = likeliest + mean, -weights * (from_likeliest - mean) / problem.gamma
    of_first, of_second = np.zeros((2, 2, problem.N)), np.zeros((2, 2, problem.N))
    for k, (left, up, diagonal, earlier) in enumerate((weights, weights_dot)):
        of_first[:, k] = left + up + diagonal, earlier
        of_second[0, k] = left
        of_second[0, k, 1:] += (up + earlier)[:-1]
        of_second[1, k, 1:] = diagonal[:-1]
    return value, value_dot, (of_first, np.ascontiguousarray(of_second[:, :, ::-1]))


def sweep_halves(problem, plan, results, memory):
    """The results of one pair, on two threads; ``memory`` has arrays for the doubles and the numbers of each half."""
    problems = problem, _turned_round(problem)
    of_halves = results, results._replace(d_x=np.empty_like(results.d_x), d_y=np.empty_like(results.d_y))

    def for_both(function, *arguments):
        halves = iter((0, 1))

        def work():
            for k in halves:
                function(problems[k], plan, of_halves[k], ends(problem)[k], *memory[k], *(a[k] for a in arguments))

        on_threads(2, work)

    for_both(_go_to_the_middle)
    value, value_dot, starts = _meet(problem, plan, [doubles for doubles, _ in memory])
    if problem.apart:
        results.value[0], results.value_dot[0] = value, value_dot
    else:
        results.value[0] = problem.weight * value + problem.weight_dot * value_dot
    if problem.backward:
        for_both(_go_back, starts)
        for ours, others in zip(of_halves[0][2:4], of_halves[1][2:4], strict=True):
            ours += others[:, :, ::-1]
