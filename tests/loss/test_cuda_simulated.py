"""The CUDA kernels under numba's simulator: against the CPU's, the reference and long doubles; no race, no leak.

A process either simulates CUDA or not, so this is a run of its own, the second one of `make test`:
``NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/loss/test_cuda_simulated.py``. It proves nothing about speed, nor
about what only a GPU does: tests/loss/test_cuda.py is for that.
"""

import importlib
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from loss import AsymmetricOmega, DilateLoss, SoftDTWLoss, TangledDilateLoss, soft_dtw, soft_path
from loss.dilate_loss import dilate_sweep
from loss.kernels import reference
from loss.kernels.operators import sweep_on_cuda
from loss.soft_dtw import soft_dtw_sweep
from tests.helpers import costs, series
from tests.oracles import longdouble
from tests.oracles.cases import CASES

if not config.ENABLE_CUDASIM:
    pytest.skip("needs NUMBA_ENABLE_CUDASIM=1 before numba is imported", allow_module_level=True)

from numba.cuda.simulator import kernel as simulator

from loss.kernels import cuda

# In float32 rows of unreachable cells become infinite, as they should, and numpy says so.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


# Three threads for a block and two blocks at a time, so that all have several turns. Little scratch memory makes
# segments, and little shared memory is not used.
SMALL_BLOCKS = cuda.Limits(processors=2, warp=3, most_threads=3, threads_per_processor=3)
LIMITS = [
    SMALL_BLOCKS._replace(scratch_bytes=scratch, shared_bytes=shared)
    for scratch in (1, SMALL_BLOCKS.scratch_bytes)
    for shared in (0, SMALL_BLOCKS.shared_bytes)
]


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Let the losses run in small blocks, too."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # the simulator waits in a loop that would hold on to Python's lock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "limits_of", lambda device: SMALL_BLOCKS)
        yield
    sys.setswitchinterval(before)


def on_cpu(x, y, D, gamma, n, m, omega, omega_scale, band, wants):
    if omega is None:
        return soft_dtw_sweep(x, y, D, gamma, n, m, band, wants)
    return dilate_sweep(x, y, D, gamma, n, m, omega, omega_scale, band, wants)


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


OMEGAS = ("none", "by lag", "shared", "of each pair")


def lattice(B, N, M, form, scaled, lengths, band_slack, seed):
    """Random lengths and Omega, and a band ``band_slack`` wider than it must be, none for None."""
    g = generator(seed)
    omega = scale = n = m = None
    if form != "none":
        shapes = {"by lag": (N + M - 1,), "shared": (1, N, M), "of each pair": (B, N, M)}
        omega = torch.randn(shapes[form], dtype=torch.float64, generator=g)
        scale = torch.rand(B, dtype=torch.float64, generator=g) if scaled else None
    if lengths:
        n, m = (torch.randint(1, k + 1, (B,), generator=g) for k in (N, M))
    longer = (n - m).abs().max().item() if lengths else abs(N - M)
    return n, m, omega, scale, -1 if band_slack is None else longer + band_slack


sizes = {
    "B": st.integers(1, 5),
    "N": st.integers(1, 9),
    "M": st.integers(1, 9),
    "form": st.sampled_from(OMEGAS),
    "scaled": st.booleans(),
    "lengths": st.booleans(),
    "band_slack": st.sampled_from([None, 0, 1, 3]),
    "gamma": st.sampled_from([0.01, 0.3, 10.0]),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
    "limits": st.sampled_from(LIMITS),
    "seed": st.integers(0, 999),
    "wants": st.tuples(*[st.booleans()] * 3),
}


@settings(max_examples=80)
@given(**sizes, d=st.integers(1, 3))
def test_series_equal_the_cpus(B, N, M, d, form, scaled, lengths, band_slack, gamma, dtype, limits, seed, wants):
    x, y = series(B, N, M, d, dtype, seed)
    at = lattice(B, N, M, form, scaled, lengths, band_slack, seed)
    arguments = (x, y, None, double(gamma), *at, (*wants[:2], False, wants[2]))
    assert_alike(cuda.sweep(*arguments, limits), on_cpu(*arguments), dtype, floor=0.1)


@settings(max_examples=40)
@given(**sizes)
def test_costs_equal_the_cpus(B, N, M, form, scaled, lengths, band_slack, gamma, dtype, limits, seed, wants):
    D = 3 * torch.rand(B, N, M, dtype=dtype, generator=generator(seed))
    at = lattice(B, N, M, form, scaled, lengths, band_slack, seed)
    arguments = (None, None, D, double(gamma), *at, (False, False, *wants[1:]))
    assert_alike(cuda.sweep(*arguments, limits), on_cpu(*arguments), dtype, floor=0.1)


@settings(max_examples=30)
@given(
    B=st.integers(1, 3),
    N=st.integers(1, 8),
    M=st.integers(1, 8),
    d=st.integers(1, 2),
    gamma=st.sampled_from([0.05, 1.0]),
    lengths=st.booleans(),
    limits=st.sampled_from(LIMITS),
    seed=st.integers(0, 99),
)
def test_series_equal_autograd_through_the_reference(B, N, M, d, gamma, lengths, limits, seed):
    x, y = (s.requires_grad_() for s in series(B, N, M, d, seed=seed))
    n, m, omega, _, _ = lattice(B, N, M, "shared", False, lengths, None, seed)
    gamma = double(gamma).requires_grad_()
    wants = (True, True, False, True)
    value, value_dot, *ours = cuda.sweep(x, y, None, gamma.detach(), n, m, omega, None, -1, wants, limits)
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    truth = reference.dilate(D, omega, gamma, -1, n, m)
    assert_alike((value, value_dot), truth, torch.float64, floor=0.1)
    for term, of_truth in enumerate(truth):
        theirs = torch.autograd.grad(of_truth.sum(), (x, y, gamma), retain_graph=True, materialize_grads=True)
        assert_alike((ours[0][term], ours[1][term]), theirs[:2], torch.float64, floor=0.1)
        # by gamma the reference differentiates terms as large as value / gamma
        assert_alike(ours[3][term : term + 1].sum(1), theirs[2:], torch.float64, floor=100.0)


# ------------------------------------------------------------------------------------ whole losses


def shape_on_cuda(x, y, D, gamma, n, m, band, wants):
    return sweep_on_cuda(x, y, D, gamma, n, m, None, None, band, wants)


@pytest.fixture
def device(monkeypatch):
    """Let the losses run on the simulated device from the call of this on."""

    def switch():
        for name, sweep in (("soft_dtw_sweep", shape_on_cuda), ("dilate_sweep", sweep_on_cuda)):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"loss::{name}", "CUDA")
            for module in ("soft_dtw", "path_soft_dtw", "dilate_loss"):  # what the operators call on a GPU
                monkeypatch.setattr(importlib.import_module(f"loss.{module}"), name, sweep, raising=False)

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


@pytest.mark.parametrize("limits", LIMITS)
def test_an_invalid_pair_is_nan_and_padding_may_hold_anything(limits):
    x, y = series(4, 6, 5)
    n, m = torch.tensor([6, 3, 6, 2]), torch.tensor([5, 4, 5, 3])
    x[1, 3:], y[3, 3:] = torch.nan, torch.inf
    x[2, 4] = torch.nan
    arguments = (x, y, None, double(0.2), n, m, None, None, -1, (True, True, False, True))
    ours = cuda.sweep(*arguments, limits)
    assert_alike(ours, on_cpu(*arguments), torch.float64)
    for result in (ours[0], ours[2][0], ours[3][0]):
        assert result[2].isnan().all()
        assert result[[0, 1, 3]].isfinite().all()
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    wants = (False, False, True, False)
    value, *_, E, _ = cuda.sweep(None, None, D, double(0.2), n, m, None, None, -1, wants, limits)
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
    x, y = (torch.from_numpy(s).unsqueeze(0) for s in (case.x, case.y))
    arguments = (x, y, None, double(case.gamma), None, None, lag.square() / (N * M), None, -1)
    value, value_dot, d_x, d_y, *_ = cuda.sweep(*arguments, (True, True, False, False), LIMITS[1])
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
    **{**sizes, "limits": st.sampled_from([limits for limits in LIMITS if not limits.shared_bytes])},
    d=st.integers(1, 3),
)
def test_threads_stay_in_their_memory_and_out_of_each_others_way(
    checked, B, N, M, d, form, scaled, lengths, band_slack, gamma, dtype, limits, seed, wants
):
    x, y = series(B, N, M, d, dtype, seed)
    D = torch.rand(B, N, M, dtype=dtype, generator=generator(seed))
    at = lattice(B, N, M, form, scaled, lengths, band_slack, seed)
    for inputs, wanted in (
        ((x, y, None), (*wants[:2], False, wants[2])),
        ((None, None, D), (False, False, *wants[1:])),
    ):
        checked.clear()
        results = cuda.sweep(*inputs, double(gamma), *at, wanted, limits)
        assert len(checked) >= 4
        assert all(result.isfinite().all() for result in results)


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


def test_results_do_not_depend_on_blocks_threads_and_memory():
    x, y = series(5, 9, 7, d=2)
    arguments = (
        x,
        y,
        None,
        double(0.1),
        *lattice(5, 9, 7, "by lag", True, False, None, 0),
        (True, True, False, True),
    )
    whole = cuda.sweep(*arguments, LIMITS[-1])
    for limits in LIMITS:
        assert_alike(cuda.sweep(*arguments, limits), whole, torch.float64)
    for other in ({"most_threads": 1}, {"most_threads": 9}, {"processors": 99}):
        results = cuda.sweep(*arguments, LIMITS[-1]._replace(**other))
        assert all(torch.equal(a, b) for a, b in zip(results[:5], whole[:5], strict=True))
        torch.testing.assert_close(results[5], whole[5], rtol=1e-13, atol=1e-13)


# ------------------------------------------------------------------------------------ how a batch is cut up


def h200(batch, horizon, variables, want_y=False):
    """The bytes that a training step takes on an H200 beyond its inputs."""
    sizes = cuda.Sizes(batch, horizon, horizon, variables, 2 * horizon, 4, True, True, want_y, True)
    plan, blocks, threads, shared = cuda.make_plan(sizes, cuda.Limits(processors=132))
    assert threads % 32 == 0
    assert shared <= 48 << 10
    one_series = 4 * batch * horizon * variables
    copies = 2 * one_series if variables > 1 else 0
    gradients = 3 * one_series * (2 if want_y else 1)  # the kernel's of both terms, and what autograd makes of them
    return blocks * (8 * plan.doubles_per_block + 4 * plan.numbers_per_block) + copies + gradients


def test_memory_is_what_was_promised():
    assert h200(32, 512, 64) <= 100e6
    assert h200(32, 512, 64, want_y=True) <= 115e6
    assert h200(32, 512, 1) <= 100e6
    assert h200(1, 10_000, 1) <= 150e6
    assert h200(256, 720, 1) <= 400e6
    assert h200(100_000, 20, 1) <= 100e6
