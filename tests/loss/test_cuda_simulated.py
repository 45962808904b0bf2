"""The CUDA kernels under numba's simulator: against the CPU's, the reference and long doubles; no race, no leak.

A process either simulates CUDA or not, so this is a run of its own, the second one of `make test`:
``NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/loss/test_cuda_simulated.py``. It proves nothing about speed, nor
about what only a GPU does: tests/loss/test_cuda.py is for that.
"""

import sys
import threading
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from loss import AsymmetricOmega, DilateLoss, SoftDTWLoss, TangledDilateLoss, kernels, soft_dtw, soft_path
from loss.kernels import cpu, reference
from tests.helpers import costs, series
from tests.oracles import longdouble
from tests.oracles.cases import CASES

if not config.ENABLE_CUDASIM:
    pytest.skip("needs NUMBA_ENABLE_CUDASIM=1 before numba is imported", allow_module_level=True)

from numba.cuda.simulator import kernel as simulator

from loss.kernels import cuda

# In float32 rows of unreachable cells become infinite, as they should, and numpy says so.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Three threads for a block and two blocks at a time, so that all have several turns."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # the simulator waits in a loop that would hold on to Python's lock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_WARP", 3)
        patch.setattr(cuda, "_MOST_THREADS", 3)
        patch.setattr(cuda, "_THREADS_PER_PROCESSOR", 3)
        patch.setattr(cuda, "_processors", lambda device: 2)
        yield
    sys.setswitchinterval(before)
    cuda._plan.cache_clear()


class Room(NamedTuple):
    """Memory that a launch may use."""

    scratch: int
    shared: int


ROOMS = [Room(scratch, shared) for scratch in (1, cuda._SCRATCH_BYTES) for shared in (0, 48 << 10)]


def simulated(name, room, *arguments):
    """An operator on the simulated device; little scratch memory makes segments, little shared memory is not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_SCRATCH_BYTES", room.scratch)
        patch.setattr(cuda, "_SHARED_BYTES", room.shared)
        cuda._plan.cache_clear()
        return getattr(cuda, name)(*arguments)


def assert_alike(ours, theirs, dtype, floor=0.0):
    """Equal to about the last digits of the input's precision, relative to the largest entry."""
    relative = 1e-5 if dtype == torch.float32 else 1e-10
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
        assert torch.equal(a.isnan(), b.isnan())
        largest = b.nan_to_num().abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=relative * max(largest, floor), equal_nan=True)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def generator(seed):
    return torch.Generator().manual_seed(seed)


class Lattice(NamedTuple):
    """Arguments that `series` and `matrix` share."""

    omega: torch.Tensor
    scale: torch.Tensor
    n: torch.Tensor
    m: torch.Tensor
    band: int


OMEGAS = ("none", "toeplitz", "shared", "of each pair")


def lattice(B, N, M, form, scaled, lengths, room, seed):
    """A random one; ``room`` is how much wider the band is than it must be, None for no band."""
    g = generator(seed)
    shapes = {"none": (0,), "toeplitz": (N + M - 1,), "shared": (1, N, M), "of each pair": (B, N, M)}
    omega = torch.randn(shapes[form], dtype=torch.float64, generator=g)
    scale = torch.rand(B if scaled else 0, dtype=torch.float64, generator=g)
    n, m = (torch.randint(1, k + 1, (B if lengths else 0,), generator=g) for k in (N, M))
    longer = (n - m).abs().max().item() if lengths else abs(N - M)
    return Lattice(omega, scale, n, m, -1 if room is None else longer + room)


sizes = {
    "B": st.integers(1, 5),
    "N": st.integers(1, 9),
    "M": st.integers(1, 9),
    "form": st.sampled_from(OMEGAS),
    "lengths": st.booleans(),
    "band": st.sampled_from([None, 0, 1, 3]),
    "gamma": st.sampled_from([0.01, 0.3, 10.0]),
    "dual": st.booleans(),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
    "room": st.sampled_from(ROOMS),
    "seed": st.integers(0, 999),
}


@settings(max_examples=80)
@given(
    **sizes,
    d=st.integers(1, 3),
    scaled=st.booleans(),
    in_cost=st.sampled_from([(1.0, 0.0), (0.3, 0.7), (0.8, 0.0)]),
    weights=st.sampled_from([None, (0.3, 0.7), (0.02, 0.0)]),
    wants=st.tuples(*[st.booleans()] * 3),
)
def test_series_equal_the_cpus(B, N, M, d, form, scaled, lengths, band, gamma, dual, dtype, room, seed, in_cost,
                               weights, wants):  # fmt: skip
    x, y = series(B, N, M, d, dtype, seed)
    at = lattice(B, N, M, form, scaled, lengths, band, seed)
    if form == "none":  # nobody asks for what takes an Omega then
        in_cost, dual = (in_cost[0], 0.0), False
    arguments = (x, y, double(gamma), *at, *in_cost, dual, weights, *wants)
    ours, theirs = simulated("series", room, *arguments), cpu.series(*arguments)
    if dual or weights is None:
        assert_alike(ours, theirs, dtype, floor=0.1)
    else:  # then the second row of the derivatives by gamma is of no use
        assert_alike((*ours[:4], ours[4][:1]), (*theirs[:4], theirs[4][:1]), dtype, floor=0.1)


@settings(max_examples=40)
@given(**sizes, want_path=st.booleans(), want_gamma=st.booleans())
def test_costs_equal_the_cpus(B, N, M, form, lengths, band, gamma, dual, dtype, room, seed, want_path, want_gamma):
    D = 3 * torch.rand(B, N, M, dtype=dtype, generator=generator(seed))
    at = lattice(B, N, M, form, False, lengths, band, seed)
    dual = dual and form != "none"
    arguments = (D, double(gamma), at.omega, at.n, at.m, at.band, dual, want_path, want_gamma)
    assert_alike(simulated("matrix", room, *arguments), cpu.matrix(*arguments), dtype, floor=0.1)


@settings(max_examples=30)
@given(
    B=st.integers(1, 3),
    N=st.integers(1, 8),
    M=st.integers(1, 8),
    d=st.integers(1, 2),
    gamma=st.sampled_from([0.05, 1.0]),
    lengths=st.booleans(),
    room=st.sampled_from(ROOMS),
    seed=st.integers(0, 99),
)
def test_series_equal_autograd_through_the_reference(B, N, M, d, gamma, lengths, room, seed):
    x, y = (s.requires_grad_() for s in series(B, N, M, d, seed=seed))
    at = lattice(B, N, M, "shared", False, lengths, None, seed)
    gamma = double(gamma).requires_grad_()
    settings = (-1, 1.0, 0.0, True, None, True, True, True)
    value, value_dot, *ours = simulated("series", room, x, y, gamma, at.omega, at.scale, at.n, at.m, *settings)
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    truth = reference.dilate(D, at.omega, gamma, -1, at.n, at.m)
    assert_alike((value, value_dot), truth, torch.float64, floor=0.1)
    for term, of_truth in enumerate(truth):
        theirs = torch.autograd.grad(of_truth.sum(), (x, y, gamma), retain_graph=True, materialize_grads=True)
        assert_alike((ours[0][term], ours[1][term]), theirs[:2], torch.float64, floor=0.1)
        # by gamma the reference differentiates terms as large as value / gamma
        assert_alike(ours[2][term : term + 1].sum(1), theirs[2:], torch.float64, floor=100.0)


# ------------------------------------------------------------------------------------ whole losses


@pytest.fixture
def device(monkeypatch):
    """Let the losses run on the simulated device from the call of this on."""

    def switch():
        for name in ("series", "matrix"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"loss::{name}", "CUDA")
            monkeypatch.setattr(kernels, name, kernels._on_cuda(name))  # what the operators call on a GPU

    return switch


@pytest.fixture
def on_the_device(device):
    """Let the losses run on the simulated device."""
    device()


LOSSES = [
    SoftDTWLoss(0.2, "none"),
    DilateLoss(0.3, 0.2, "none"),
    DilateLoss(0.3, 0.2, "mean", omega=AsymmetricOmega(1, 3, 1.5)),
    DilateLoss(0.3, 0.2, "sum", omega=torch.rand(6, 5, dtype=torch.float64, generator=generator(0))),
    TangledDilateLoss(0.3, 0.2, "none"),
    DilateLoss(0.3, 0.2, "mean", band=3, per_channel=True),
    DilateLoss(0.3, 0.2, "none", divergence=True),
    TangledDilateLoss(0.3, 0.2, "none", omega=None, band=3, divergence=True),
]


@pytest.mark.parametrize("criterion", LOSSES, ids=repr)
@pytest.mark.parametrize("lengths", [(), ([6, 3, 1, 5], [5, 4, 2, 2])], ids=["whole", "padded"])
def test_losses_equal_the_cpus(device, criterion, lengths):
    def results():
        x, y = (s.requires_grad_() for s in series(4, 6, 5, d=2))
        values = criterion(x, y, *lengths)
        return values.detach(), *torch.autograd.grad(values.sum(), (x, y))

    theirs = results()
    device()
    assert_alike(results(), theirs, torch.float64)


@pytest.mark.usefixtures("on_the_device")
def test_derivatives_of_all_orders_and_by_gamma_and_omega():
    x, y = (s.requires_grad_() for s in series(2, 3, 2))
    gamma = double(0.4).requires_grad_()
    learned = nn.Parameter(torch.rand(3, 2, dtype=torch.float64, generator=generator(1)))
    lengths = {"prediction_lengths": [3, 2], "target_lengths": [2, 1]}

    def terms(x, y, gamma):
        return tuple(DilateLoss(0.3, gamma, "none").components(x, y, **lengths))

    assert gradcheck(terms, (x, y, gamma))
    assert gradcheck(lambda x, omega: DilateLoss(0.3, 0.4, "none", omega=omega)(x, y), (x, learned))
    assert gradgradcheck(lambda x, y: SoftDTWLoss(0.4, "none")(x, y, **lengths), (x, y))
    D = costs(2, 3, 2).requires_grad_()
    assert gradgradcheck(lambda D: soft_dtw(D, 0.4, **lengths), D)
    assert gradcheck(lambda D, gamma: soft_path(D, gamma, **lengths), (D, gamma))


@pytest.mark.usefixtures("on_the_device")
def test_half_precision_and_views_that_are_not_contiguous():
    x, y = series(3, 12, 8, d=4, dtype=torch.float32)
    views = x[:, ::2, 1:3], y.transpose(0, 2)[1:3].transpose(0, 2)
    assert torch.equal(DilateLoss()(*views), DilateLoss()(*(v.contiguous() for v in views)))
    for half in (torch.float16, torch.bfloat16):
        pair = [v.to(half) for v in views]
        assert torch.equal(DilateLoss()(*pair), DilateLoss()(*(v.float() for v in pair)))


# ------------------------------------------------------------------------------------ NaN, digits


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("weights", [None, (0.3, 0.7)])
def test_a_spoilt_pair_is_nan_and_padding_may_hold_anything(room, weights):
    x, y = series(4, 6, 5)
    n, m = torch.tensor([6, 3, 6, 2]), torch.tensor([5, 4, 5, 3])
    x[1, 3:], y[3, 3:] = torch.nan, torch.inf
    x[2, 4] = torch.nan
    none = torch.empty(0, dtype=torch.float64)
    arguments = (x, y, double(0.2), none, none, n, m, -1, 1.0, 0.0, False, weights, True, True, True)
    ours, theirs = simulated("series", room, *arguments), cpu.series(*arguments)
    assert_alike((ours[0], *ours[2:4], ours[4][:1]), (theirs[0], *theirs[2:4], theirs[4][:1]), torch.float64)
    for result in (ours[0], ours[2][0], ours[3][0]):
        assert result[2].isnan().all()
        assert result[[0, 1, 3]].isfinite().all()
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    value, _, E, _ = simulated("matrix", room, D, double(0.2), none, n, m, -1, False, True, False)
    assert value.isnan().tolist() == [False, False, True, False]
    assert E[0, 2].isnan().all()
    assert (E[0, 1, 3:] == 0).all()


@pytest.mark.usefixtures("on_the_device")
@pytest.mark.parametrize("gamma", [0.0, -1.0, torch.inf, torch.nan])
def test_a_gamma_out_of_range_gives_nan(gamma):
    x, y = (s.requires_grad_() for s in series(2, 4, 3))
    criterion = DilateLoss(0.5, nn.Parameter(double(0.1)), "none")
    assert all(term.isfinite().all() for term in criterion.components(x, y))
    criterion.gamma.data.fill_(gamma)
    assert all(term.isnan().all() for term in criterion.components(x, y))


SMALL = [case for case in CASES if len(case.x) < 50 or (case.name, case.gamma) == ("around 10000", 0.01)]


@pytest.mark.skipif(not longdouble.PRECISE, reason="a long double is only a float64 here")
@pytest.mark.parametrize("case", SMALL, ids=[f"{c.name}, gamma {c.gamma:g}" for c in SMALL])
def test_float32_keeps_its_digits(case):
    truth = longdouble.dilate(case.x, case.y, case.gamma)
    N, M = len(case.x), len(case.y)
    lag = torch.arange(1 - M, N, dtype=torch.float64)
    none, whole = torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    arguments = (double(case.gamma), lag.square() / (N * M), none, whole, whole, -1, 1.0, 0.0, True, None)
    x, y = (torch.from_numpy(s).unsqueeze(0) for s in (case.x, case.y))
    value, value_dot, d_x, d_y, _ = simulated("series", ROOMS[1], x, y, *arguments, True, True, False)
    ours = [np.stack([value[0], value_dot[0]]), d_x[:, 0].numpy(), d_y[:, 0].numpy()]
    for mine, its, parts in zip(ours, truth[:3], (truth.values, *truth[3:]), strict=True):
        for term in (0, 1):
            assert abs(mine[term] - its[term]).max() <= 1e-5 * max(abs(parts[term]).max(), longdouble.NEGLIGIBLE)


# ------------------------------------------------------------------------------------ memory


class Checked:
    """A pointer into numbers of one kind that bears no index outside of them, and no race.

    Between two barriers a thread may not touch what another one of its block writes, and no block what another one
    writes at any time.
    """

    def __init__(self, tensor):
        self.view, self.last = memoryview(tensor.detach().numpy().reshape(-1)), {}

    def _note(self, k, writes):
        assert 0 <= k < len(self.view)
        thread = threading.current_thread()
        me = thread.threadIdx.x
        place = (tuple(getattr(thread.blockIdx, axis) for axis in "xyz"), getattr(thread, "barriers", 0))
        seen, writers, readers, ever = self.last.get(k, (place, frozenset(), frozenset(), False))
        assert seen[0] == place[0] or not (ever or writes), "two blocks share what one of them writes"
        if seen != place:
            writers = readers = frozenset()
        assert writers <= {me}, "a thread touches what another one has just written"
        assert not writes or readers <= {me}, "a thread writes what another one has just read"
        writers, readers = (writers | {me}, readers) if writes else (writers, readers | {me})
        self.last[k] = place, writers, readers, ever or writes

    def __getitem__(self, k):
        self._note(k, False)
        return self.view[k]

    def __setitem__(self, k, number):
        self._note(k, True)
        self.view[k] = number


@pytest.fixture(scope="module")
def checked(small_blocks):
    """Check all that kernels do with memory, which is full of NaN at first; counts the pointers."""
    made = []

    def pointer(tensor):
        if tensor is None or not tensor.numel():
            return 0
        made.append(Checked(tensor))
        return made[-1]

    def count_barriers(thread, wait=simulator.BlockThread.syncthreads):
        wait(thread)
        thread.barriers = getattr(thread, "barriers", 0) + 1

    torch.use_deterministic_algorithms(True)  # which fills new memory with NaN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_pointer", pointer)
        patch.setattr(simulator.BlockThread, "syncthreads", count_barriers)
        yield made
    torch.use_deterministic_algorithms(False)


@settings(max_examples=40)
@given(
    **{**sizes, "room": st.sampled_from([room for room in ROOMS if not room.shared])},
    d=st.integers(1, 3),
    weights=st.sampled_from([None, (0.3, 0.7)]),
    wants=st.tuples(*[st.booleans()] * 3),
)
def test_threads_stay_in_their_memory_and_out_of_each_others_way(
    checked, B, N, M, d, form, lengths, band, gamma, dual, dtype, room, seed, weights, wants
):
    checked.clear()
    x, y = series(B, N, M, d, dtype, seed)
    at = lattice(B, N, M, form, True, lengths, band, seed)
    of_series = simulated("series", room, x, y, double(gamma), *at, 1.0, 0.0, dual, weights, *wants)
    D = torch.rand(B, N, M, dtype=dtype, generator=generator(seed))
    of_costs = simulated("matrix", room, D, double(gamma), at.omega, *at[2:], dual, *wants[:2])
    assert len(checked) > 8
    assert all(r.isfinite().all() for r in (of_series[0], *of_series[2:], of_costs[0], *of_costs[2:]))


def test_the_check_finds_races_and_bad_indices(checked):
    @cuda.cuda.jit
    def race(a):
        k = simulator._get_kernel_context().threadIdx.x
        a[k] = 1.0
        a[0] = a[k]

    @cuda.cuda.jit
    def leak(a):
        a[-1] = 1.0

    for wrong in (race, leak):
        with pytest.raises(AssertionError):
            wrong[1, 2](Checked(torch.zeros(4)))


def test_results_do_not_depend_on_blocks_threads_and_rooms(monkeypatch):
    x, y = series(5, 9, 7, d=2)
    at = lattice(5, 9, 7, "toeplitz", True, False, None, 0)
    arguments = (x, y, double(0.1), *at, 1.0, 0.0, True, None, True, True, True)
    whole = simulated("series", ROOMS[-1], *arguments)
    for room in ROOMS:
        assert_alike(simulated("series", room, *arguments), whole, torch.float64)
    for name, value in (("_MOST_THREADS", 1), ("_MOST_THREADS", 9), ("_processors", lambda device: 99)):
        monkeypatch.setattr(cuda, name, value)
        results = simulated("series", ROOMS[-1], *arguments)
        assert all(torch.equal(a, b) for a, b in zip(results[:4], whole[:4], strict=True))
        torch.testing.assert_close(results[4], whole[4], rtol=1e-13, atol=1e-13)


# ------------------------------------------------------------------------------------ how a batch is cut up


@pytest.fixture
def h200(monkeypatch):
    """Plans for a real device; returns the bytes that a training step takes beyond its inputs."""
    for name, value in (("_WARP", 32), ("_MOST_THREADS", 512), ("_THREADS_PER_PROCESSOR", 512)):
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setattr(cuda, "_processors", lambda device: 132)

    def taken(batch, horizon, variables, want_y=False):
        cuda._plan.cache_clear()
        sizes = cuda._Sizes(batch, horizon, horizon, variables, 2 * horizon, 4, True, 1, True, want_y, True)
        plan, blocks, threads, shared = cuda._plan(sizes, torch.device("cuda"))
        assert threads % 32 == 0
        assert shared <= 48 << 10
        one_series = 4 * batch * horizon * variables
        copies = 2 * one_series if variables > 1 else 0
        gradients = 2 * one_series * (2 if want_y else 1)  # the kernel's, and what autograd makes of it
        return blocks * (8 * plan.doubles_per_block + 4 * plan.numbers_per_block) + copies + gradients

    return taken


def test_memory_is_what_was_promised(h200):
    assert h200(32, 512, 64) <= 100e6
    assert h200(32, 512, 64, want_y=True) <= 100e6
    assert h200(32, 512, 1) <= 100e6
    assert h200(1, 10_000, 1) <= 150e6
    assert h200(256, 720, 1) <= 400e6
    assert h200(100_000, 20, 1) <= 100e6
