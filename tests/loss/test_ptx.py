"""The executor of compiled CUDA kernels computes what the kernels say, and finds what they must not do.

Skipped where gcc, or numba-cuda and its compiler, are not installed.
"""

import functools
import importlib.util
import itertools
import math
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import boolean, config, float32, float64, int64

if config.ENABLE_CUDASIM or importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda (requirements-cuda.txt), not simulated", allow_module_level=True)
if shutil.which("gcc") is None:
    pytest.skip("needs gcc", allow_module_level=True)

from numba import cuda, types
from numba.cuda import libdevice

from tests.oracles.ptx import Program

if not cuda.nvvm.is_available():
    pytest.skip("needs the compiler of CUDA (requirements-cuda.txt)", allow_module_level=True)

ALL_LANES = 0xFFFFFFFF
FLOATS, DOUBLES, INTEGERS = (types.CPointer(number) for number in (float32, float64, int64))


@functools.cache
def program(kernel, *kinds, counted=False):
    ptx, _ = cuda.compile(kernel, types.void(*kinds), cc=(9, 0), device=False, abi="numba")
    return Program(ptx, counted)


def randoms(n, dtype=torch.float64, seed=0):
    return torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def empty(n, dtype=torch.float64):
    return torch.full((n,), math.nan, dtype=dtype)


# ------------------------------------------------------------------------------------ barriers and races


def sum_of_block(x, result):
    shared = cuda.shared.array(0, float64)
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    shared[t] = x[cuda.blockIdx.x * size + t]
    while size > 1:
        cuda.syncthreads()
        size //= 2
        if t < size:
            shared[t] += shared[t + size]
    if t == 0:
        result[cuda.blockIdx.x] = shared[0]


def sum_without_barriers(x, result):
    shared = cuda.shared.array(0, float64)
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    shared[t] = x[cuda.blockIdx.x * size + t]
    while size > 1:
        size //= 2
        if t < size:
            shared[t] += shared[t + size]
    if t == 0:
        result[cuda.blockIdx.x] = shared[0]


@pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (1, 2), (3, 32), (2, 256)])
def test_a_sum_with_barriers_is_right_and_clean(blocks, threads):
    x, result = randoms(blocks * threads), empty(blocks)
    found = program(sum_of_block, DOUBLES, DOUBLES).launch(blocks, threads, (x,), (result,), 8 * threads)
    assert found.clean, found.messages
    assert found.messages == []
    assert found.barriers == blocks * math.log2(threads)
    assert torch.allclose(result, x.view(blocks, threads).sum(1))


@pytest.mark.parametrize("threads", [2, 32, 256])
def test_a_sum_without_barriers_is_a_race(threads):
    x, result = randoms(threads), empty(1)
    found = program(sum_without_barriers, DOUBLES, DOUBLES).launch(1, threads, (x,), (result,), 8 * threads)
    assert found.races > 0
    assert not found.clean
    assert any(re.match(r"race at line \d+ \(st\.shared\.f64 ", message) for message in found.messages)


def exchange(x, result, partner, synchronised):
    shared = cuda.shared.array(64, float64)
    t = cuda.threadIdx.x
    shared[t] = x[t]
    if synchronised:
        cuda.syncwarp()
    result[t] = shared[t ^ partner]


@pytest.mark.parametrize("partner", [0, 1, 31, 32])
@pytest.mark.parametrize("synchronised", [True, False])
def test_a_barrier_of_a_warp_orders_its_lanes_only(partner, synchronised):
    x, result = randoms(64), empty(64)
    launched = program(exchange, DOUBLES, DOUBLES, int64, boolean)
    found = launched.launch(1, 64, (x,), (result, partner, synchronised))
    if partner == 0 or (partner < 32 and synchronised):
        assert found.clean, found.messages
        assert torch.equal(result, x[torch.arange(64) ^ partner])
    else:
        assert found.races > 0


def write_after_reading(x, result, reader, writer):
    i = 32 * cuda.blockIdx.x + cuda.threadIdx.x
    if i == reader:
        result[0] = x[7]
    if i == writer:
        x[7] = 1.0


@pytest.mark.parametrize(("reader", "writer"), [(0, 1), (1, 0), (0, 40), (40, 0)])
def test_two_threads_that_share_a_word_of_global_memory_race(reader, writer):
    launched = program(write_after_reading, DOUBLES, DOUBLES, int64, int64)
    assert launched.launch(2, 32, (randoms(8),), (empty(1), reader, writer)).races == 1
    assert launched.launch(2, 32, (randoms(8),), (empty(1), reader, reader)).clean


def number_of_thread(result, first_of_block):
    result[first_of_block * cuda.blockIdx.x + cuda.threadIdx.x] = cuda.threadIdx.x


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_two_blocks_that_write_the_same_word_race(blocks):
    launched = program(number_of_thread, DOUBLES, int64)
    assert launched.launch(blocks, 8, (), (empty(8 * blocks), 8)).clean
    assert launched.launch(blocks, 8, (), (empty(8), 0)).races == 8 * (blocks - 1)
    found = launched.launch(blocks, 8, (), (empty(8 * blocks), 7))
    assert found.races == blocks - 1  # the last of one block is the first of the next
    assert all("of another block" in message for message in found.messages)


READ, WRITE, BARRIER_OF_WARP, BARRIER_OF_BLOCK = range(4)
STEPS = st.one_of(
    st.tuples(st.sampled_from([READ, WRITE]), st.sampled_from([0, 1, 33, 64, 65, 97])),
    st.tuples(st.sampled_from([BARRIER_OF_WARP, BARRIER_OF_BLOCK]), st.just(0)),
)


def scripted(kinds, by, memory, n):
    """One word of memory, and steps that are each of one thread or a barrier."""
    i = 64 * cuda.blockIdx.x + cuda.threadIdx.x
    for k in range(n):
        if kinds[k] == BARRIER_OF_BLOCK:
            cuda.syncthreads()
        elif kinds[k] == BARRIER_OF_WARP:
            cuda.syncwarp()
        elif by[k] == i:
            if kinds[k] == WRITE:
                memory[0] = k
            else:
                memory[i + 1] = memory[0]


def race(steps):
    """Whether two steps of two threads, one of them a write, have no barrier between that orders them."""
    for (k, (kind, i)), (m, (other, j)) in itertools.combinations(enumerate(steps), 2):
        if {kind, other} in ({READ, WRITE}, {WRITE}) and i != j:
            between = [barrier for barrier, _ in steps[k:m]]
            by_block = i // 64 == j // 64 and BARRIER_OF_BLOCK in between
            by_warp = i // 32 == j // 32 and BARRIER_OF_WARP in between
            if not (by_block or by_warp):
                return True
    return False


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=10))
@example([(READ, 0), (READ, 1), (WRITE, 1)])  # the second reader alone would be free to write
@example([(READ, 0), (READ, 33), (BARRIER_OF_WARP, 0), (WRITE, 33)])
def test_races_are_the_unordered_accesses_of_which_one_writes(steps):
    kinds, by = torch.tensor(steps, dtype=torch.int64).view(-1, 2).t().contiguous()
    launched = program(scripted, INTEGERS, INTEGERS, INTEGERS, int64)
    found = launched.launch(2, 64, (kinds, by, torch.zeros(129, dtype=torch.int64), len(steps)), ())
    assert (found.races > 0) == race(steps)
    assert found.out_of_bounds == found.divergent == 0


# ------------------------------------------------------------------------------------ bounds and unwritten memory


def move(x, result, read_at, write_at):
    t = cuda.threadIdx.x
    result[t + write_at] = x[t + read_at]


@pytest.mark.parametrize(("kind", "dtype"), [(FLOATS, torch.float32), (DOUBLES, torch.float64)])
@pytest.mark.parametrize(
    ("read_at", "write_at", "outside"),
    [(0, 0, 0), (3, 0, 0), (4, 0, 1), (0, 1, 1), (-1, 0, 1), (0, -2, 2), (100, 0, 32), (-1, 1, 2)],
)
def test_an_index_past_an_end_is_out_of_bounds(kind, dtype, read_at, write_at, outside):
    x, around = randoms(35, dtype), randoms(40, dtype)
    result = around[4:36]
    before = around.clone()
    found = program(move, kind, kind, int64, int64).launch(1, 32, (x,), (result, read_at, write_at))
    assert found.out_of_bounds == outside
    assert found.clean == (outside == 0)
    assert torch.equal(around[:4], before[:4])
    assert torch.equal(around[36:], before[36:])
    if outside == 0:
        assert torch.equal(result, x[read_at : read_at + 32])


def test_an_access_that_is_not_aligned_is_out_of_bounds():
    launched = program(move, DOUBLES, DOUBLES, int64, int64)
    x = randoms(19, torch.float32)
    assert launched.launch(1, 8, (x[:16],), (empty(8), 0, 0)).clean
    assert launched.launch(1, 8, (x[1:17],), (empty(8), 0, 0)).out_of_bounds == 8
    assert launched.launch(1, 1, (x[:1],), (empty(1), 0, 0)).out_of_bounds == 1  # 4 of 8 bytes


def test_a_null_pointer_is_out_of_bounds():
    assert program(move, DOUBLES, DOUBLES, int64, int64).launch(1, 4, (None,), (empty(4), 0, 0)).out_of_bounds == 4


@pytest.mark.parametrize(("threads", "outside"), [(16, 0), (17, 1), (20, 4)])
def test_an_index_past_the_end_of_shared_memory_is_out_of_bounds(threads, outside):
    launched = program(sum_without_barriers, DOUBLES, DOUBLES)
    found = launched.launch(1, threads, (randoms(threads),), (empty(1),), shared_bytes=128)
    assert (found.out_of_bounds > 0) == (outside > 0)


def test_a_read_of_an_output_before_a_write_is_found():
    launched = program(move, DOUBLES, DOUBLES, int64, int64)
    x, result = randoms(32), empty(32)
    assert launched.launch(1, 32, (x,), (result, 0, 0)).unwritten_reads == 0
    assert launched.launch(1, 32, (), (x, result, 0, 0)).unwritten_reads == 32
    assert launched.launch(1, 8, (), (x, x, 0, 0)).unwritten_reads == 8
    assert launched.launch(3, 8, (), (x, x, 0, 0)).unwritten_reads == 8  # the other blocks read what the first wrote


def three_shared_arrays(x, result):
    dynamic = cuda.shared.array(0, float64)
    doubles, singles = cuda.shared.array(32, float64), cuda.shared.array(33, float32)
    t = cuda.threadIdx.x
    dynamic[t], doubles[t], singles[t] = x[t], 2 * x[t], 4 * x[t]
    cuda.syncthreads()
    result[t] = dynamic[31 - t] + doubles[31 - t] + singles[31 - t]


def test_arrays_in_shared_memory_do_not_overlap():
    x, result = torch.arange(32.0, dtype=torch.float64), empty(32)
    found = program(three_shared_arrays, DOUBLES, DOUBLES).launch(1, 32, (x,), (result,), shared_bytes=8 * 32)
    assert found.clean, found.messages
    assert torch.equal(result, 7 * x.flip(0))


def local_window(x, result, shift):
    local = cuda.local.array(8, float64)
    t = cuda.threadIdx.x
    for k in range(8):
        local[k] = x[8 * t + k]
    result[t] = local[(t & 7) + shift]


@pytest.mark.parametrize("shift", [0, 1, 7])
def test_a_local_array_is_of_its_thread_and_has_bounds(shift):
    x, result = randoms(64 * 8), empty(64)
    found = program(local_window, DOUBLES, DOUBLES, int64).launch(1, 64, (x,), (result, shift))
    at = torch.arange(64) % 8 + shift
    inside = at < 8
    assert found.out_of_bounds == (~inside).sum()
    assert found.races == found.unwritten_reads == 0
    assert torch.equal(result[inside], x.view(64, 8)[torch.arange(64), at.clamp_max(7)][inside])


# ------------------------------------------------------------------------------------ divergence


def two_barriers(result, first, leaves):
    t = cuda.threadIdx.x
    if t < first:
        cuda.syncthreads()
    elif leaves:
        return
    cuda.syncthreads()
    result[t] = 1.0


@pytest.mark.parametrize(
    ("first", "leaves", "divergent"),
    [(64, False, 0), (0, False, 0), (32, False, 1), (1, False, 1), (63, False, 1), (32, True, 0), (40, True, 0)],
)
def test_a_barrier_that_a_part_of_the_threads_reaches_is_divergent(first, leaves, divergent):
    found = program(two_barriers, DOUBLES, int64, boolean).launch(1, 64, (), (empty(64), first, leaves))
    assert found.divergent == divergent  # threads that have left are not waited for
    assert found.clean == (not divergent)


def shuffle_without(x, result, missing):
    t = cuda.threadIdx.x
    value = x[t]
    if t != missing:
        value = cuda.shfl_sync(ALL_LANES, value, 0)
    result[t] = value


@pytest.mark.parametrize(("kind", "dtype"), [(FLOATS, torch.float32), (DOUBLES, torch.float64)])
@pytest.mark.parametrize("missing", [-1, 0, 31, 40])
def test_a_shuffle_that_a_lane_misses_is_divergent(kind, dtype, missing):
    x, result = randoms(64, dtype), empty(64, dtype)
    found = program(shuffle_without, kind, kind, int64).launch(1, 64, (x,), (result, missing))
    assert found.divergent == (missing != -1)
    if missing == -1:
        assert found.clean, found.messages
        assert torch.equal(result, x[[0, 32]].repeat_interleave(32))


def two_shuffles(x, result, first):
    t = cuda.threadIdx.x
    if t < first:
        result[t] = cuda.shfl_up_sync(ALL_LANES, x[t], 1)
    else:
        result[t] = cuda.shfl_down_sync(ALL_LANES, x[t], 1)


@pytest.mark.parametrize(("first", "divergent"), [(0, 0), (16, 1), (31, 1), (32, 0), (40, 1), (64, 0)])
def test_lanes_at_different_shuffles_are_divergent(first, divergent):
    launched = program(two_shuffles, DOUBLES, DOUBLES, int64)
    assert launched.launch(1, 64, (randoms(64),), (empty(64), first)).divergent == divergent


def masked_shuffle(x, result, mask):
    result[cuda.threadIdx.x] = cuda.shfl_sync(mask, x[cuda.threadIdx.x], 0)


@pytest.mark.parametrize(("threads", "mask", "divergent"), [(32, ALL_LANES, 0), (32, 0xFFFF, 1), (16, 0xFFFF, 0)])
def test_a_shuffle_of_a_part_of_a_warp_is_refused(threads, mask, divergent):
    launched = program(masked_shuffle, DOUBLES, DOUBLES, int64)
    assert launched.launch(1, threads, (randoms(threads),), (empty(threads), mask)).divergent == divergent


# ------------------------------------------------------------------------------------ values


def shuffles(x, result, by):
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    result[t] = cuda.shfl_up_sync(ALL_LANES, x[t], by)
    result[t + size] = cuda.shfl_down_sync(ALL_LANES, x[t], by)
    result[t + 2 * size] = cuda.shfl_xor_sync(ALL_LANES, x[t], by)
    result[t + 3 * size] = cuda.shfl_sync(ALL_LANES, x[t], by)


@pytest.mark.parametrize(("kind", "dtype"), [(FLOATS, "float32"), (DOUBLES, "float64"), (INTEGERS, "int64")])
@pytest.mark.parametrize("by", [0, 1, 5, 16, 31])
def test_shuffles_exchange_the_values_of_a_warp(kind, dtype, by):
    x = np.random.default_rng(by).integers(-(2**62), 2**62, 64).astype(dtype)
    result = torch.empty(4 * 64, dtype=getattr(torch, dtype))
    found = program(shuffles, kind, kind, int64).launch(1, 64, (torch.from_numpy(x),), (result, by))
    assert found.clean, found.messages
    lane, warp = np.arange(64) % 32, np.arange(64) // 32 * 32
    up, down = np.where(lane < by, lane, lane - by), np.where(lane + by > 31, lane, lane + by)
    for row, source in zip(result.view(4, 64).numpy(), (up, down, lane ^ by, by), strict=True):
        np.testing.assert_array_equal(row, x[warp + source])


def functions(x, result):
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    result[t] = math.exp(x[t])
    result[t + size] = math.log1p(abs(x[t]))
    result[t + 2 * size] = abs(x[t]) ** x[t]
    result[t + 3 * size] = math.sqrt(abs(x[t]))
    result[t + 4 * size] = math.floor(x[t]) + max(x[t], x[0]) - min(x[t], 1 / x[1])


@pytest.mark.parametrize(("kind", "dtype", "tolerance"), [(FLOATS, "float32", 1e-6), (DOUBLES, "float64", 1e-14)])
def test_functions_are_those_of_numpy(kind, dtype, tolerance):
    x = 3 * randoms(96, getattr(torch, dtype))
    result = empty(5 * 96, x.dtype)
    found = program(functions, kind, kind).launch(1, 96, (x,), (result,))
    assert found.clean, found.messages
    x = x.numpy()
    mixed = np.floor(x) + np.maximum(x, x[0]) - np.minimum(x, 1 / x[1])
    truths = np.exp(x), np.log1p(abs(x)), abs(x) ** x, np.sqrt(abs(x)), mixed
    for row, truth in zip(result.view(5, 96).numpy(), truths, strict=True):
        np.testing.assert_allclose(row, truth, rtol=tolerance)


def integers(x, y, result):
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    a, b = x[t], y[t]
    result[t] = a // b
    result[t + size] = a % b
    result[t + 2 * size] = a * b - (a >> (b & 63)) + (a << (b & 31))
    result[t + 3 * size] = (a & b) ^ (a | ~b)
    result[t + 4 * size] = int(float64(a) * 0.37) + abs(b)
    result[t + 5 * size] = min(a, b) - max(a, 3) + (7 if a < b else -7)


@pytest.mark.parametrize("largest", [20, 2**31, 2**62])
def test_integers_are_those_of_numpy(largest):
    a, b = np.random.default_rng(largest).integers(-largest, largest, (2, 64))
    b[b == 0] = 1
    result = torch.empty(6 * 64, dtype=torch.int64)
    given = torch.from_numpy(a), torch.from_numpy(b)
    found = program(integers, INTEGERS, INTEGERS, INTEGERS).launch(1, 64, given, (result,))
    assert found.clean, found.messages
    truths = (
        a // b,
        a % b,
        a * b - (a >> (b & 63)) + (a << (b & 31)),
        (a & b) ^ (a | ~b),
        (a * 0.37).astype(int) + abs(b),
        np.minimum(a, b) - np.maximum(a, 3) + np.where(a < b, 7, -7),
    )
    for row, truth in zip(result.view(6, 64).numpy(), truths, strict=True):
        np.testing.assert_array_equal(row, truth)


def approximations(x, result):
    t, size = cuda.threadIdx.x, cuda.blockDim.x
    result[t] = libdevice.fast_log2f(x[t])
    result[t + size] = libdevice.fast_expf(x[t])
    result[t + 2 * size] = libdevice.fast_fdividef(x[0], x[t])


def test_approximations_can_have_errors():
    x = torch.linspace(1.5, 3.5, 32)
    launched, results = program(approximations, FLOATS, FLOATS), []
    for approximation in (0, 1, 2, 2):
        results.append(empty(3 * 32, torch.float32).view(3, 32))
        found = launched.launch(1, 32, (x,), (results[-1],), approximation=approximation)
        assert found.clean, found.messages
    exact, random, large, again = results
    truths = torch.stack([x.double().log2(), x.double().exp(), x[0].double() / x.double()])
    torch.testing.assert_close(exact.double(), truths, rtol=3e-7, atol=0)
    errors = (random - exact) / exact
    assert (errors.abs().amax(1) > 2**-24).all()
    assert (errors.abs().amax(1) < 2**-21).all()
    assert (errors.amin(1) < 0).all()
    assert (errors.amax(1) > 0).all()
    assert (large[0] > exact[0]).all()  # the logarithm
    assert torch.equal(large, again)


def value_of(instructions, to, *operands):
    """What the instructions leave in the register %to; their operands are %a0, %a1 ..., a predicate is %p."""
    parameters = "".join(f".param .{kind} given{k}, " for k, (kind, _) in enumerate(operands))
    loads = "".join(
        f".reg .{kind} %a{k}; ld.param.{kind} %a{k}, [given{k}];\n" for k, (kind, _) in enumerate(operands)
    )
    ptx = f"""
.visible .entry instruction({parameters}.param .u64 result)
{{
.reg .pred %p; .reg .u64 %at; .reg .{to} %to;
{loads}{instructions}
ld.param.u64 %at, [result];
st.global.{to} [%at], %to;
ret;
}}
"""
    dtypes = {"f32": torch.float32, "f64": torch.float64, "s32": torch.int32, "s64": torch.int64}
    result = torch.zeros(1, dtype=dtypes[to])
    found = Program(ptx).launch(1, 1, [value for _, value in operands], (result,))
    assert found.clean, found.messages
    return result.item()


@pytest.mark.parametrize(("comparison", "of_one_and_two", "of_nan"), [
    ("eq", 0, 0), ("ne", 1, 0), ("lt", 1, 0), ("le", 1, 0), ("gt", 0, 0), ("ge", 0, 0),
    ("equ", 0, 1), ("neu", 1, 1), ("ltu", 1, 1), ("leu", 1, 1), ("gtu", 0, 1), ("geu", 0, 1),
])  # fmt: skip
def test_a_comparison_with_nan_is_that_of_its_name(comparison, of_one_and_two, of_nan):
    for kind in ("f32", "f64"):
        instructions = f"setp.{comparison}.{kind} %p, %a0, %a1; selp.s32 %to, 1, 0, %p;"
        assert value_of(instructions, "s32", (kind, 1.0), (kind, 2.0)) == of_one_and_two
        assert value_of(instructions, "s32", (kind, math.nan), (kind, 2.0)) == of_nan


@pytest.mark.parametrize(("instruction", "to", "operands", "expected"), [
    ("shl.b32", "s32", (("s32", 5), ("u32", 32)), 0),
    ("shl.b64", "s64", (("s64", 5), ("u32", 62)), 1 << 62),
    ("shr.s32", "s32", (("s32", -5), ("u32", 40)), -1),
    ("shr.u32", "s32", (("s32", -5), ("u32", 40)), 0),
    ("shr.s64", "s64", (("s64", -5), ("u32", 1)), -3),
    ("mul.hi.s64", "s64", (("s64", -(2**62)), ("s64", 6)), -2),
    ("mul.hi.u64", "s64", (("s64", -1), ("s64", -1)), -2),
    ("mul.wide.s32", "s64", (("s32", -(2**31)), ("s32", 2**30)), -(2**61)),
    ("mul.wide.u32", "s64", (("s32", -1), ("s32", 2)), 2**33 - 2),
    ("div.s64", "s64", (("s64", -7), ("s64", 2)), -3),
    ("rem.s64", "s64", (("s64", -7), ("s64", 2)), -1),
    ("bfe.u32", "s32", (("s32", 0b110100), ("u32", 2), ("u32", 3)), 0b101),
    ("bfe.s64", "s64", (("s64", 0b110100), ("u32", 2), ("u32", 3)), -3),
    ("bfi.b32", "s32", (("s32", 0b1101), ("s32", -1), ("u32", 4), ("u32", 3)), -1 - (0b010 << 4)),
    ("bfi.b64", "s64", (("s64", 3), ("s64", 9), ("u32", 32), ("u32", 32)), (3 << 32) + 9),
    ("cvt.s64.s32", "s64", (("s32", -3),), -3),
    ("cvt.u64.u32", "s64", (("s32", -3),), 2**32 - 3),
    ("cvt.rzi.s32.f32", "s32", (("f32", 1e30),), 2**31 - 1),
    ("cvt.rzi.s32.f64", "s32", (("f64", -1e30),), -(2**31)),
    ("cvt.rzi.u32.f64", "s32", (("f64", -1.0),), 0),
    ("cvt.rzi.s32.f32", "s32", (("f32", math.nan),), 0),
    ("cvt.rzi.s32.f64", "s32", (("f64", math.nan),), -(2**31)),
    ("cvt.rzi.s64.f64", "s64", (("f64", math.nan),), -(2**63)),
    ("cvt.rni.s64.f64", "s64", (("f64", 2.5),), 2),
    ("cvt.rpi.f32.f32", "f32", (("f32", -2.5),), -2.0),
    ("cvt.rn.f32.u64", "f32", (("s64", -1),), 2.0**64),
    ("cvt.sat.f32.f32", "f32", (("f32", 1.5),), 1.0),
    ("cvt.sat.f32.f32", "f32", (("f32", math.nan),), 0.0),
    ("fma.rm.f32", "f32", (("f32", 1.0), ("f32", 1.0), ("f32", 2.0**-30)), 1.0),
    ("fma.rm.f32", "f32", (("f32", 1.0), ("f32", -1.0), ("f32", -(2.0**-30))), -1.0 - 2.0**-23),
    ("add.rz.f32", "f32", (("f32", 1.0), ("f32", 0.75 * 2.0**-23)), 1.0),
    ("add.rz.f32", "f32", (("f32", -1.0), ("f32", -0.75 * 2.0**-23)), -1.0),
    ("add.rn.f32", "f32", (("f32", -1.0), ("f32", -0.75 * 2.0**-23)), -1.0 - 2.0**-23),
    ("mul.f32", "f32", (("f32", 2.0**-100), ("f32", 2.0**-40)), 2.0**-140),
    ("mul.ftz.f32", "f32", (("f32", 2.0**-100), ("f32", 2.0**-40)), 0.0),
    ("mul.ftz.f32", "f32", (("f32", 2.0**-140), ("f32", 2.0**40)), 0.0),
    ("max.f64", "f64", (("f64", math.nan), ("f64", 2.0)), 2.0),
])  # fmt: skip
def test_an_instruction_does_what_the_manual_of_ptx_says(instruction, to, operands, expected):
    names = ", ".join(f"%a{k}" for k in range(len(operands)))
    assert value_of(f"{instruction} %to, {names};", to, *operands) == expected


def repeat(result, times, factor, doubles):
    t = cuda.threadIdx.x
    value = 1.0
    for _ in range(times * t):
        value = value * factor
    result[t] = 2 * value if doubles else value


def test_parameters_arrive_and_instructions_are_counted():
    launched = program(repeat, DOUBLES, int64, float64, boolean, counted=True)
    counts = []
    for times in (0, 1, 2, 4):
        result = empty(5)
        found = launched.launch(1, 5, (), (result, times, 1.5, times > 1))
        assert torch.equal(result, (1 + (times > 1)) * 1.5 ** (times * torch.arange(5.0).double()))
        counts.append(found.instructions_of_busiest_thread)
    assert 0 < counts[0] < counts[1] < counts[2] < counts[3]
    assert program(repeat, DOUBLES, int64, float64, boolean).launch(1, 5, (), (result, 1, 1.5, True)).clean


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("values", [
    (1.0, 1, 1.0, True), (None, 1.0, 1.0, True), (None, True, 1.0, True), (None, 1, 1, True), (None, 1, None, True),
    (None, 1, 1.0, 1), (None, 1, torch.zeros(1), True)
])  # fmt: skip
def test_a_value_must_fit_its_parameter(values):
    with pytest.raises(TypeError, match=r"parameter [0-3] of the kernel is of type [ufs]\d+, got "):
        program(repeat, DOUBLES, int64, float64, boolean).launch(1, 5, (), values)


def test_a_launch_takes_a_value_for_each_parameter():
    for values in ((), (empty(1), 1, 1.0), (empty(1), 1, 1.0, True, 1)):
        with pytest.raises(ValueError, match=f"has 4 parameters, got {len(values)} values"):
            program(repeat, DOUBLES, int64, float64, boolean).launch(1, 5, (), values)


def test_a_tensor_must_be_contiguous():
    with pytest.raises(ValueError, match="parameter 0 must be contiguous"):
        program(move, DOUBLES, DOUBLES, int64, int64).launch(1, 4, (randoms(8)[::2],), (empty(4), 0, 0))


def sleep(result):
    cuda.nanosleep(1)
    result[0] = 1.0


def test_an_unknown_instruction_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"line \d+ of the PTX has no translation: nanosleep\.u32"):
        program(sleep, DOUBLES)


@pytest.mark.parametrize(("known", "unknown"), [
    ("bar.sync ", "bar.arrive "), ("add.f64", "add.ftz.f64"), ("ld.shared.f64", "ld.shared.weak.f64"),
    ("%tid.x", "%tid.y"), ("setp.lt.s32", "setp.lt.and.s32"), ("ret", "exit"), ("cvta.to.global", "mapa")
])  # fmt: skip
def test_an_unknown_modifier_or_operand_is_an_error(known, unknown):
    ptx, _ = cuda.compile(sum_of_block, types.void(DOUBLES, DOUBLES), cc=(9, 0), device=False, abi="numba")
    assert known in ptx
    with pytest.raises(ValueError, match=re.escape(unknown)):
        Program(ptx.replace(known, unknown))
