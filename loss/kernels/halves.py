"""One long pair of series on two threads: from both ends to the middle, and back.

The cost of a path is the sum over its two halves, and either half may be swept from its own end: the second one is
the first one of both series turned round. Where they meet, a path takes one of the steps that lead from the rows of
one half to those of the other; its softmin over these steps is the value, and the weights of the steps are the E
with which either half begins its way back.
"""

import ctypes
import math

import numpy as np
import torch
from numba import carray

from . import workers
from .call import addresses, at, call_of, counters, entry, pack
from .simd import flush_denormals, restore_denormals, take_ticket
from .tile import UNREACHABLE, advance, go_back, last_origin, lay_out, prepare, store_gradients

_LN2 = math.log(2.0)


@entry
def _go_to_the_middle(block):
    """V and V_dot of the rows of a half, for the two calls of a block; each half has the memory of one thread."""
    state = flush_denormals()
    next_ticket, _ = counters(block)
    half = take_ticket(next_ticket)
    while half < 2:
        call = call_of(block, half)
        tile = lay_out(call, half, 0, 1, call.end - 1, call.end)
        prepare(call, tile)
        advance(call, tile, 0, call.end, last_origin(call, call.end), True)
        half = take_ticket(next_ticket)
    restore_denormals(state)


@entry
def _go_back(block):
    """The derivatives by the cells of these rows, from what :func:`_go_to_the_middle` left."""
    state = flush_denormals()
    next_ticket, _ = counters(block)
    half = take_ticket(next_ticket)
    while half < 2:
        call = call_of(block, half)
        tile = lay_out(call, half, 0, 1, call.end - 1, call.end)
        go_back(call, tile, last_origin(call, call.end), carray(at(call.starts, 0.0), (2, 2, call.N)))
        store_gradients(call, tile)
        half = take_ticket(next_ticket)
    restore_denormals(state)


def can_be_halved(inputs, band):
    """Whether :func:`sweep_halves` serves: one pair of whole series."""
    x, y = inputs.x, inputs.y
    if x is None or len(x) > 1 or inputs.n.numel() or inputs.m.numel():
        return False
    alike_turned_round = band < 0 or x.shape[1] == y.shape[1]
    return alike_turned_round and x.shape[1] + y.shape[1] > 8


def ends(N, M):
    """The last row of either half, counted from its own end of the lattice."""
    last = N + M - 2
    return last // 2, last - last // 2 - 1


def _turned_round(inputs):
    """The same series and Omega with time running backwards."""
    turned = {"x": (1,), "y": (1,), "toeplitz": (0,), "Omega": (1, 2)}
    arrays = ((name, getattr(inputs, name), axes) for name, axes in turned.items())
    return inputs._replace(**{name: array.flip(axes) for name, array, axes in arrays if array is not None})


def _like(results):
    """Room for the same derivatives."""
    derivatives = {name: getattr(results, name) for name in ("d_x", "d_y")}
    return results._replace(**{name: torch.empty_like(d) for name, d in derivatives.items() if d is not None})


def _with_arrays(call, *arrays):
    """A call with other arrays."""
    return call._replace(**{name: at for a in arrays for name, at in zip(a._fields, addresses(a), strict=True)})


def _row(call, plan, memory, part, d, outside):
    """Row d of V (part 4) or V_dot (part 5) of a half, for all i."""
    row = np.full(call.N, outside)
    lo, hi = plan.lo[d], plan.hi[d]
    first = plan.parts[part] + d % 3 * call.stride + lo + 1
    row[lo : hi + 1] = memory[first : first + hi - lo + 1]
    return row


def _sums_over_steps(calls, plan, memories, part, outside):
    """V or V_dot of both halves together, for each step from one to the other: (4, N), by the cell it starts from.

    Steps left, up and diagonal from the last row of the first half, and diagonal ones from the row before it.
    """
    (last, before), (first, second) = (
        [_row(call, plan, memory, part, call.end - k, outside) for k in (0, 1)]
        for call, memory in zip(calls, memories, strict=True)
    )
    first, second = first[::-1], second[::-1]
    below, below_second = (np.append(row[1:], outside) for row in (first, second))
    return np.stack([last + first, last + below, last + below_second, before + below])


def _meet(calls, plan, memories):
    """The value and V_dot of the pair, and the E and E_dot with which either half begins: (2, 2, N) each."""
    N, gamma = calls[0].N, calls[0].gamma
    V = _sums_over_steps(calls, plan, memories, 4, UNREACHABLE)
    best = V.min()
    valid = best < 0.5 * UNREACHABLE
    weights = np.exp2(best - V) if valid else np.full(V.shape, np.nan)
    total = weights.sum()
    weights /= total
    value, value_dot, weights_dot = (best - math.log2(total)) * gamma * _LN2, 0.0, np.zeros(V.shape)
    if calls[0].dual:
        V_dot = _sums_over_steps(calls, plan, memories, 5, 0.0)
        likeliest = V_dot.flat[V.argmin()]
        from_likeliest = V_dot - likeliest  # where one step has nearly all the weight, this keeps the rest
        mean = (weights * from_likeliest).sum()
        value_dot, weights_dot = likeliest + mean, -weights * (from_likeliest - mean) / gamma
    of_first, of_second = np.zeros((2, 2, N)), np.zeros((2, 2, N))
    for k, (left, up, diagonal, earlier) in enumerate((weights, weights_dot)):
        of_first[:, k] = left + up + diagonal, earlier
        of_second[0, k] = left
        of_second[0, k, 1:] += (up + earlier)[:-1]
        of_second[1, k, 1:] = diagonal[:-1]
    return value, value_dot, (of_first, np.ascontiguousarray(of_second[:, :, ::-1]))


def _run_both(function, calls, dtype):
    block = pack(*calls)
    workers.run(2, function(dtype), ctypes.addressof(block))


def sweep_halves(call, plan, inputs, results, memory):
    """The results of one pair, on two threads.

    Args:
        call: The call for the pair as a whole.
        plan: How the rows of a half are cut up, see `cpu`.
        inputs: The arrays of the pair.
        results: The arrays to write.
        memory: The float64 memory of the call, that of one half after that of the other.
    """
    turned, of_second, dtype = _turned_round(inputs), _like(results), results.value.dtype
    end, end_of_second = ends(call.N, call.M)
    calls = call._replace(end=end), _with_arrays(call, turned, of_second)._replace(end=end_of_second)

    _run_both(_go_to_the_middle, calls, dtype)
    value, value_dot, starts = _meet(calls, plan, memory.numpy()[: 2 * call.room_for_doubles].reshape(2, -1))
    if call.apart:
        results.value[0], results.value_dot[0] = value, value_dot
    else:
        results.value[0] = call.weight * value + call.weight_dot * value_dot
    if call.backward:
        calls = [half._replace(starts=start.ctypes.data) for half, start in zip(calls, starts, strict=True)]
        _run_both(_go_back, calls, dtype)
        for ours, others in zip(results[2:4], of_second[2:4], strict=True):
            if ours is not None:
                ours += others.flip(2)
