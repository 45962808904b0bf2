"""The CUDA kernels without a GPU: their PTX is executed on the CPU, and every access to memory is checked.

Skipped where numba-cuda (requirements-cuda.txt) or gcc is missing. tests/loss/test_cuda.py is for a GPU.
"""

import importlib
import importlib.util
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

if importlib.util.find_spec("numba_cuda") is None or shutil.which("gcc") is None:
    pytest.skip("needs numba-cuda (requirements-cuda.txt) and gcc", allow_module_level=True)

import numba.cuda

from loss import DilateLoss, SoftDTWLoss, soft_dtw, soft_path
from loss.dilate_loss import dilate_sweep
from loss.kernels import cuda, cuda_launch
from loss.kernels.lattice import MANY
from loss.soft_dtw import soft_dtw_sweep
from tests.helpers import EVERY_LOSS, costs, drawn_sweep, series
from tests.oracles import longdouble
from tests.oracles.cases import CASES
from tests.oracles.ptx import Program, pretended_h100

if not numba.cuda.nvvm.is_available():
    pytest.skip("needs the compiler of CUDA (requirements-cuda.txt)", allow_module_level=True)

ONE_SEGMENT = cuda.Limits(processors=3)
ONE_STRIP_A_SEGMENT = cuda.Limits(processors=1, warps_per_processor=1)  # in one block, pair after pair
LITTLE_MEMORY = cuda.Limits(processors=2, most_warps=2, scratch_bytes=1)
LIMITS = [ONE_SEGMENT, ONE_STRIP_A_SEGMENT, LITTLE_MEMORY, cuda.Limits(processors=1, warps_per_processor=3)]


@pytest.fixture(autouse=True, scope="module")
def an_h100():
    with pretended_h100():
        yield


@cache
def ptx_of(kind):
    return cuda.compile_ptx(kind)


class Executed:
    """Launches kernels on the CPU, where all that they write is NaN before; ``change`` spoils a kernel."""

    def __init__(self, approximation=0, change=lambda ptx: ptx):
        self.approximation, self.change, self.findings = approximation, change, []

    def __call__(self, kind, blocks, threads, problem, results):
        for memory in results:
            if memory is not None and memory.any():  # what is zero may have been set by the host
                memory.fill_(torch.nan)
        program = Program(self.change(ptx_of(kind)))
        self.findings.append(program.launch(blocks, threads, problem, results, approximation=self.approximation))


def swept(args, limits, **options):
    """The results of a kernel that is executed, whose accesses to memory were right."""
    launch = Executed(**options)
    results = cuda.sweep(*args, limits, launch)
    assert all(findings.clean for findings in launch.findings), launch.findings
    return results


def on_cpu(x, y, D, gamma, n, m, omega, omega_scale, band, wants):
    if omega is None:
        return soft_dtw_sweep(x, y, D, gamma, n, m, band, wants)
    return dilate_sweep(x, y, D, gamma, n, m, omega, omega_scale, band, wants)


def assert_alike(ours, theirs, dtype, floor=0.0, relative=None):
    """Equal to about the last digits of the input's precision, relative to the largest entry."""
    relative = relative or (1e-5 if dtype == torch.float32 else 1e-10)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
        assert torch.equal(a.isnan(), b.isnan())
        largest = b.nan_to_num().abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=relative * max(largest, floor), equal_nan=True)


# ------------------------------------------------------------------------------------ the operators

KINDS = [  # of_costs, dual, wanted, by_gamma: every feature in either precision
    (torch.float32, False, True, True, False),
    (torch.float32, True, True, True, True),
    (torch.float32, False, False, True, True),
    (torch.float64, False, True, True, True),
    (torch.float64, True, False, True, False),
    (torch.float64, False, True, False, False),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), limits=st.sampled_from(LIMITS))
def test_drawn_problems_equal_the_cpus(kind, seed, limits):
    args = drawn_sweep(seed, *kind)
    assert_alike(swept(args, limits), on_cpu(*args), kind[0], floor=0.1)


@pytest.mark.parametrize("approximation", [1, 2])
@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_the_hardwares_approximations_leave_five_digits(approximation, seed):
    args = drawn_sweep(seed, *KINDS[0])
    assert_alike(swept(args, ONE_SEGMENT, approximation=approximation), on_cpu(*args), torch.float32, floor=0.1)


def test_a_kernel_without_its_barriers_is_found_out():
    x, y = series(1, 70, 40, dtype=torch.float32)
    lag = torch.arange(-39.0, 70.0, dtype=torch.float64).square()
    args = (x, y, None, torch.tensor(0.1).double(), None, None, lag, None, -1, (True, False, False, False))
    assert swept(args, ONE_SEGMENT)[0].isfinite().all()
    launch = Executed(change=lambda ptx: ptx.replace("bar.sync", "// bar.sync"))
    cuda.sweep(*args, ONE_SEGMENT, launch)
    assert launch.findings[0].races > 0


def test_results_do_not_depend_on_blocks_warps_and_memory():
    gamma, lag = torch.tensor(0.1).double(), torch.arange(-49.0, 90.0, dtype=torch.float64).square()
    args = (*series(3, 90, 50, 2), None, gamma, None, None, lag, None, -1, (True, True, False, True))
    whole = swept(args, LIMITS[0])
    for limits in LIMITS[1:]:
        results = swept(args, limits)
        assert all(torch.equal(a, b) for a, b in zip(results[:3], whole[:3], strict=True))
        for a, b in zip(results[3:], whole[3:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("limits", LIMITS[:3])
def test_many_variables_have_all_derivatives_at_once(limits):
    """By series, by gamma, and by a learned Omega, of pairs that are swept together or one after the other."""
    x, y = series(3, 40, 33, MANY, torch.float32)
    n, m = torch.tensor([40, 17, 40]), torch.tensor([33, 20, 33])
    x[1, 17:], x[2, 3] = torch.nan, torch.nan
    omega = costs(1, 40, 33)
    args = (x, y, None, torch.tensor(5.0).double(), n, m, omega, None, -1, (True, True, True, True))
    assert_alike(swept(args, limits), on_cpu(*args), torch.float32)


@pytest.mark.parametrize("limits", LIMITS)
def test_an_invalid_pair_is_nan_and_padding_may_hold_anything(limits):
    x, y = series(4, 6, 5)
    n, m = torch.tensor([6, 3, 6, 2]), torch.tensor([5, 4, 5, 3])
    x[1, 3:], y[3, 3:] = torch.nan, torch.inf
    x[2, 4] = torch.nan
    gamma, omega = torch.tensor(0.2).double(), torch.rand(10).double()
    args = (x, y, None, gamma, n, m, omega, None, -1, (True, True, False, True))
    ours = swept(args, limits)
    assert_alike(ours, on_cpu(*args), torch.float64)
    for result in (ours[0], ours[2][0], ours[3][0]):
        assert result[2].isnan().all()
        assert result[[0, 1, 3]].isfinite().all()
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    value, *_, E, _ = swept((None, None, D, gamma, n, m, None, None, -1, (False, False, True, False)), limits)
    assert value.isnan().tolist() == [False, False, True, False]
    assert E[0, 2].isnan().all()
    assert (E[0, 1, 3:] == 0).all()


SMALL = [case for case in CASES if len(case.x) < 50 or (case.name, case.gamma) == ("around 10000", 0.01)]


@pytest.mark.skipif(not longdouble.PRECISE, reason="a long double is only a float64 here")
@pytest.mark.parametrize("case", SMALL, ids=[f"{c.name}, gamma {c.gamma:g}" for c in SMALL])
def test_float32_keeps_its_digits(case):
    truth = longdouble.dilate(case.x, case.y, case.gamma)
    N, M = len(case.x), len(case.y)
    lag = torch.arange(1 - M, N, dtype=torch.float64)
    x, y = (torch.from_numpy(s).unsqueeze(0) for s in (case.x, case.y))
    gamma = torch.tensor(case.gamma, dtype=torch.float64)
    args = (x, y, None, gamma, None, None, lag.square() / (N * M), None, -1, (True, True, False, False))
    value, value_dot, d_x, d_y, *_ = swept(args, ONE_SEGMENT)
    ours = [np.stack([value[0], value_dot[0]]), d_x[:, 0].numpy(), d_y[:, 0].numpy()]
    for mine, its, parts in zip(ours, truth[:3], (truth.values, *truth[3:]), strict=True):
        for term in (0, 1):
            assert abs(mine[term] - its[term]).max() <= 1e-5 * max(abs(parts[term]).max(), longdouble.NEGLIGIBLE)


# ------------------------------------------------------------------------------------ whole losses


@pytest.fixture
def device(monkeypatch):
    """Let the losses run by executed kernels from the call of this on."""

    def sweep(*args):
        return swept(args if len(args) == 10 else (*args[:6], None, None, *args[6:]), ONE_SEGMENT)

    def switch():
        for name in ("soft_dtw_sweep", "dilate_sweep"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"loss::{name}", "CUDA")
            for module in ("soft_dtw", "path_soft_dtw", "dilate_loss"):  # what the operators call on a GPU
                monkeypatch.setattr(importlib.import_module(f"loss.{module}"), name, sweep, raising=False)

    return switch


@pytest.fixture
def on_the_device(device):
    """Let the losses run by executed kernels."""
    device()


@pytest.mark.parametrize("criterion", EVERY_LOSS, ids=repr)
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
    gamma = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    learned = nn.Parameter(torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
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


@pytest.mark.usefixtures("on_the_device")
@pytest.mark.parametrize("gamma", [0.0, -1.0, torch.inf, torch.nan])
def test_a_gamma_out_of_range_gives_nan(gamma):
    x, y = (s.requires_grad_() for s in series(2, 4, 3))
    criterion = DilateLoss(0.5, nn.Parameter(torch.tensor(0.1).double()), "none")
    assert all(term.isfinite().all() for term in criterion.components(x, y))
    criterion.gamma.data.fill_(gamma)
    assert all(term.isnan().all() for term in criterion.components(x, y))


# ------------------------------------------------------------------------------------ memory, machine code


def h200(batch, horizon, variables):
    """The bytes that a training step takes on an H200 beyond its inputs."""
    limits, many = cuda.Limits(processors=132), variables >= MANY
    kind = cuda.Kind("float32", many, dual=True, backward=True, by_gamma=False, keeps_E=variables > 1)
    together = min(batch, limits.scratch_bytes // (16 * horizon**2)) if many else batch
    plan = cuda.make_plan((together, horizon, horizon, 1 if many else variables), kind, not many, False, limits)
    assert plan.warps * 32 <= cuda_launch.THREADS
    one_series = 4 * batch * horizon * variables
    copies = 2 * one_series if variables > 1 else 0
    gradients = 3 * one_series  # the kernel's of both terms, and what autograd makes of them
    matrices = 16 * together * horizon**2 if many else 0  # costs, and E of both terms
    return plan.bytes(4) + copies + gradients + matrices


def test_memory_is_what_was_promised():
    assert h200(32, 512, 64) <= 350e6
    assert h200(32, 512, 1) <= 190e6
    assert h200(1, 10_000, 1) <= 150e6
    assert h200(256, 720, 1) <= 1.1e9
    assert h200(100_000, 20, 1) <= 200e6
    assert h200(5_000, 720, 1) <= 1.2e9
    assert h200(512, 96, 321) <= 1.5e9


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_kernel_states_its_threads_and_needs_no_shared_memory(precision):
    ptx = ptx_of(cuda.Kind(precision, of_costs=False, dual=True, backward=True, by_gamma=True, keeps_E=True))
    assert f".maxntid {cuda_launch.THREADS}, 1, 1\n.minnctapersm 1" in ptx
    assert ".shared" not in ptx


def test_machine_code_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    cuda_launch.cache_folder.cache_clear()
    kind = cuda.Kind("float32", of_costs=True, dual=False, backward=False, by_gamma=False, keeps_E=False)
    try:
        code = cuda_launch.machine_code("kernel", lambda: ptx_of(kind), (9, 0))
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [code]
        assert cuda_launch.machine_code("kernel", lambda: pytest.fail("compiled again"), (9, 0)) == code
    finally:
        cuda_launch.cache_folder.cache_clear()
