"""The numba sweeps against the plain PyTorch reference, however the work is cut up."""

import importlib
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from loss import DilateLoss, kernels
from loss.dilate_loss import dilate_sweep
from loss.kernels import reference, simd
from loss.kernels.lattice import make_plan
from loss.soft_dtw import soft_dtw_sweep
from tests.helpers import ROOT, arguments, series
from tests.oracles.paths import all_paths, shape_term, square_omega, squared_distances, temporal_term

# The package has functions of the names of these modules.
soft_dtw, dilate_loss = (importlib.import_module(f"loss.{name}") for name in ("soft_dtw", "dilate_loss"))


def sweep(*args):
    """Both values, then their derivatives by x, by y and by gamma, each of the shape term first."""
    return by_term(dilate_sweep(*args))


def by_term(results):
    value, value_dot, d_x, d_y, _, d_gamma = results
    return value, value_dot, *d_x, *d_y, *d_gamma


def reference_results(x, y, gamma=0.1, band=-1):
    x, y = (s.detach().double().requires_grad_() for s in (x, y))
    gamma = torch.tensor(gamma, dtype=torch.float64, requires_grad=True)
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    values = reference.dilate(D, square_omega(x.shape[1], y.shape[1]), gamma, band)
    by_x, by_y, by_gamma = zip(
        *(torch.autograd.grad(v.sum(), (x, y, gamma), retain_graph=True) for v in values), strict=True
    )
    return (*(v.detach() for v in values), *by_x, *by_y, *by_gamma)


def assert_matches_reference(x, y, tolerance, **options):
    results = list(sweep(*arguments(x, y, **options)))
    results[6:] = [r.sum() for r in results[6:]]
    truth = reference_results(x, y, **options)
    # where the input's own rounding moves the truth by more than the tolerance, nothing can be held against it
    moved = reference_results(x.nextafter(torch.tensor(torch.inf)), y, **options)
    # the reference rounds differences of values, divided by gamma; by gamma, of terms as large as value / gamma
    floors = (1e-2,) * 6 + (10.0,) * 2
    for ours, theirs, nearby, floor in zip(results, truth, moved, floors, strict=True):
        allowed = tolerance * max(theirs.abs().max().item(), floor) + (nearby - theirs).abs().max().item()
        assert (ours.double() - theirs).abs().max().item() <= allowed


@pytest.mark.parametrize(("N", "M"), [(5, 6), (6, 5), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("gamma", [0.05, 1.0])
def test_reference_equals_enumeration(N, M, gamma):
    x, y = series(3, N, M)
    D, Omega = squared_distances(x, y), square_omega(N, M)
    values = reference.dilate(D, Omega, gamma)
    for ours, theirs in zip(values, (shape_term(D, gamma), temporal_term(D, gamma, Omega)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("band", [0, 1, 2, 5])
def test_band_leaves_out_the_paths_that_leave_it(band):
    x, y = series(3, 6, 6)
    D, Omega = squared_distances(x, y), square_omega(6, 6)
    outside = torch.tensor([[abs(h - j) > band for j in range(6)] for h in range(6)])
    paths = all_paths(6, 6)
    paths = paths[(paths * outside).sum((1, 2)) == 0]
    truth = shape_term(D, 0.1, paths), temporal_term(D, 0.1, Omega, paths)
    for values in (sweep(*arguments(x, y, band=band)), reference.dilate(D, Omega, 0.1, band)):
        for ours, theirs in zip(values, truth, strict=False):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    B=st.integers(1, 20),
    N=st.integers(2, 40),
    M=st.integers(2, 40),
    d=st.integers(1, 3),
    gamma=st.sampled_from([0.01, 0.1, 1.0, 10.0]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_sweeps_equal_reference(B, N, M, d, gamma, seed, dtype):
    x, y = series(B, N, M, d, dtype, seed)
    assert_matches_reference(x, y, 1e-5 if dtype == torch.float32 else 1e-6, gamma=gamma)


@pytest.mark.parametrize("segment_bytes", [1 << 9, 1 << 13, 1 << 16])
@pytest.mark.parametrize(("B", "N", "M"), [(1, 70, 50), (7, 33, 33)])
def test_results_do_not_depend_on_tiles_and_segments(B, N, M, segment_bytes):
    x, y = series(B, N, M)
    small = partial(make_plan, table_bytes=2 * segment_bytes, segment_bytes=segment_bytes)
    cut_up = dilate_loss.sweep_on_cpu(*arguments(x, y), make_plan=small)
    for a, b in zip(by_term(cut_up), sweep(*arguments(x, y)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    _, _, _, gamma, n, m, _, _, band, wants = arguments(x, y)
    given = x, y, None, gamma, n, m, band, wants
    for a, b in zip(soft_dtw.sweep_on_cpu(*given, make_plan=small), soft_dtw_sweep(*given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 20),
    N=st.integers(1, 50),
    M=st.integers(1, 50),
    lengths=st.booleans(),
    slack=st.sampled_from([None, 0, 3, 17]),
    omegas=st.sampled_from(["one", "each"]),
    segment_bytes=st.sampled_from([1 << 9, 1 << 13, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_matrices_are_read_and_written_in_their_places(B, N, M, lengths, slack, omegas, segment_bytes, seed):
    """Given costs and an Omega, and the derivatives by costs, which series have as well; NaN in the padding."""
    random = torch.Generator().manual_seed(seed)
    x, y = series(B, N, M, seed=seed)
    D = squared_distances(x, y)
    omega = torch.rand(B if omegas == "each" else 1, N, M, dtype=torch.float64, generator=random)
    scale = 0.5 + torch.rand(B, dtype=torch.float64, generator=random)
    n, m = (torch.randint(1, k + 1, (B,), generator=random) if lengths else torch.full((B,), k) for k in (N, M))
    band = -1 if slack is None else int((n - m).abs().max()) + slack
    gamma = torch.tensor(0.3, dtype=torch.float64)
    variables = D.clone().requires_grad_(), gamma.clone().requires_grad_()
    truth = reference.dilate(variables[0], omega * scale.reshape(-1, 1, 1), variables[1], band, n, m)
    by_D, by_gamma = zip(
        *(torch.autograd.grad(v.sum(), variables, retain_graph=True, materialize_grads=True) for v in truth),
        strict=True,
    )
    inside = (torch.arange(N)[:, None] < n[:, None, None]) & (torch.arange(M) < m[:, None, None])
    D = torch.where(inside, D, torch.nan)
    small = partial(make_plan, table_bytes=2 * segment_bytes, segment_bytes=segment_bytes)
    others = n, m, omega, scale, band
    of_costs = dilate_loss.sweep_on_cpu(None, None, D, gamma, *others, (False, False, True, True), make_plan=small)
    of_series = dilate_loss.sweep_on_cpu(x, y, None, gamma, *others, (False, False, True, True), make_plan=small)
    for found, terms in ((of_costs, 2), (of_series, 1)):
        value, value_dot, _, _, E, d_gamma = found
        torch.testing.assert_close(torch.stack([value, value_dot]), torch.stack(truth), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(E, torch.stack(by_D[:terms]), rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(d_gamma.sum(1), torch.stack(by_gamma), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("N", "M", "band"), [(5, 5, -1), (9, 4, -1), (12, 12, 2), (30, 31, 1)])
def test_the_shape_term_alone_is_that_of_both_sweeps(N, M, band):
    x, y = series(6, N, M, d=2)
    x, y, _, gamma, n, m, *_, wants = arguments(x, y)
    alone = soft_dtw_sweep(x, y, None, gamma, n, m, band, wants)
    both = dilate_sweep(*arguments(x, y, band=band))
    assert alone[1].numel() == 0
    assert torch.equal(alone[0], both[0])
    for a, b in zip(alone[2:], both[2:], strict=True):
        assert torch.equal(a[0], b[0]) if a.numel() else not b.numel()


@pytest.mark.parametrize(("N", "band"), [(6, 0), (31, 0), (80, 0), (40, 3), (80, 2)])
@pytest.mark.parametrize("B", [1, 3, 40])
def test_gradients_inside_of_a_narrow_band(B, N, band):
    x, y = series(B, N, N)
    ours = sweep(*arguments(x, y, band=band))
    for a, b in zip(ours[:6], reference_results(x, y, band=band)[:6], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    x, y = series(30, 50, 50)  # enough for several threads
    whole = sweep(*arguments(x, y))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for a, b in zip(sweep(*arguments(x, y)), whole, strict=True):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_a_batch_equals_its_samples_one_by_one():
    x, y = series(9, 21, 17, dtype=torch.float32)
    whole = sweep(*arguments(x, y))
    for b in range(9):
        for a, c in zip(sweep(*arguments(x[b : b + 1], y[b : b + 1])), whole, strict=True):
            torch.testing.assert_close(a[0], c[b], rtol=2e-6, atol=2e-6)


def test_padding_has_no_influence():
    x, y = series(4, 12, 10)
    n, m = [12, 7, 3, 1], [10, 4, 10, 1]
    for b in range(4):
        x[b, n[b] :], y[b, m[b] :] = float("nan"), float("inf")
    padded = sweep(*arguments(x, y, n=n, m=m))
    for b in range(4):
        alone = sweep(*arguments(x[b : b + 1, : n[b]], y[b : b + 1, : m[b]]))
        lengths = [None, None, n[b], n[b], m[b], m[b], None, None]
        for ours, theirs, length in zip(padded, alone, lengths, strict=True):
            real = ours[b] if length is None else ours[b][:length]
            torch.testing.assert_close(real, theirs[0], rtol=1e-11, atol=1e-12)
            if length is not None:
                assert (ours[b][length:] == 0).all()


def test_calls_from_several_python_threads_do_not_disturb_each_other():
    inputs = [series(30, 50, 50, seed=k) for k in range(8)]
    expected = [sweep(*arguments(*pair)) for pair in inputs]
    barrier = threading.Barrier(4)

    def work(k):
        barrier.wait()
        return [sweep(*arguments(*inputs[k])) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        for k, calls in zip(range(8), pool.map(work, range(8)), strict=True):
            for results in calls:
                assert all(torch.equal(a, b) for a, b in zip(results, expected[k], strict=True))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system cannot fork")
def test_works_in_a_forked_process():
    code = (
        "import os, torch; from loss import DilateLoss\n"
        "torch.set_num_threads(2)\n"
        "x = torch.randn(64, 40, 1); value = DilateLoss()(x, x * 2).item()\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(0 if DilateLoss()(x, x * 2).item() == value else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT, timeout=300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wants", [(True, True, False, True), (True, False, False, False), (False,) * 4])
def test_opcheck(dtype, wants):
    x, y = series(2, 6, 5, dtype=dtype)
    of_series = arguments(x, y, wants=wants)
    torch.library.opcheck(dilate_sweep, of_series)
    torch.library.opcheck(soft_dtw_sweep, (*of_series[:6], -1, wants))
    D, Z, gamma = torch.rand(2, 6, 5, dtype=dtype), torch.rand(2, 6, 5, dtype=torch.float64), of_series[3]
    wants = False, False, wants[0], wants[3]
    torch.library.opcheck(dilate_sweep, (None, None, D, gamma, None, None, Z, None, -1, wants))
    torch.library.opcheck(soft_dtw_sweep, (None, None, D, gamma, None, None, -1, wants))


GAMMA = torch.tensor(0.1).double()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"omega": torch.zeros(9).double()}, r"omega must have shape \(10,\), .*, but its shape is \(9,\)"),
        ({"omega": torch.zeros(11).double()}, "omega must have shape"),
        ({"omega": torch.zeros(1, 5, 5).double()}, "omega must have shape"),
        ({"omega": torch.zeros(2, 5, 6).double()}, "omega must have shape"),
        ({"omega": torch.zeros(0).double()}, "omega must have shape"),
        ({"omega": torch.zeros(10)}, "float64"),
        ({"omega_scale": torch.ones(2).double()}, r"omega_scale must be .* of shape \(3,\)"),
        ({"n": torch.ones(2).long()}, r"n must be .* of shape \(3,\)"),
        ({"m": torch.ones(3, dtype=torch.int32)}, "m must be torch.int64"),
        ({"n": torch.tensor([5, 6, 1])}, "n must lie between 1 and 5"),
        ({"m": torch.tensor([0, 6, 1])}, "m must lie between 1 and 6"),
        ({"gamma": torch.ones(2).double()}, "gamma must be one number"),
        ({"band": 2**63 - 1}, "band"),
        ({"y": torch.zeros(2, 6, 2)}, "x and y"),
        ({"y": torch.zeros(3, 6, 1)}, "x and y"),
        ({"y": torch.zeros(3, 6, 2).double()}, "x and y"),
    ],
)
def test_an_operator_refuses_arrays_that_its_kernel_would_read_beyond(changes, match):
    x, y, D = torch.zeros(3, 5, 2), torch.zeros(3, 6, 2), torch.zeros(3, 5, 6)
    lattice = {"gamma": GAMMA, "n": None, "m": None, "band": -1}
    of_series = {"x": x, "y": y, "D": None, **lattice, "wants": (True, True, False, True)}
    of_costs = {"x": None, "y": None, "D": D, **lattice, "wants": (False, False, True, True)}
    of_omega = {"omega": torch.zeros(10).double(), "omega_scale": None}
    for problem in (of_series,) if "y" in changes else (of_series, of_costs):
        with pytest.raises((ValueError, RuntimeError), match=match):
            dilate_sweep(**(problem | of_omega | changes))
        if not changes.keys() & of_omega.keys():
            with pytest.raises((ValueError, RuntimeError), match=match):
                soft_dtw_sweep(**(problem | changes))


def test_a_device_without_kernels_is_announced_once_and_served_by_the_reference(monkeypatch):
    x, y = series(3, 8, 8)
    expected = DilateLoss()(x, y)
    monkeypatch.setattr(kernels, "has_kernels", lambda device: False)
    torch.testing.assert_close(DilateLoss()(x, y), expected)
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "_warned", set())
    with pytest.warns(UserWarning, match="no kernels for device 'xpu'"):
        assert not kernels.has_kernels(torch.device("xpu"))
    assert not kernels.has_kernels(torch.device("xpu"))


@pytest.fixture
def without_numba_cuda(monkeypatch):
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(kernels, "_warned", set())
    kernels._missing_for_cuda.cache_clear()
    yield
    kernels._missing_for_cuda.cache_clear()


@pytest.mark.usefixtures("without_numba_cuda")
def test_a_gpu_without_numba_cuda_is_announced_once_with_what_to_install():
    with pytest.warns(UserWarning, match=r"numba-cuda is not installed \(pip install -r requirements-cuda.txt\)"):
        assert not kernels.has_kernels(torch.device("cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels.has_kernels(torch.device("cuda", 1))
    assert (ROOT / "requirements-cuda.txt").is_file()


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'cuda.core'"),
        AttributeError("module 'numpy' has no attribute 'row_stack'"),
        RuntimeError("libnvvm.so:\n  not found"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_gpu_whose_compiler_or_driver_fails_is_announced_once_with_the_reason(monkeypatch, error):
    def try_out():
        raise error

    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setitem(sys.modules, f"{kernels.__name__}.cuda", SimpleNamespace(try_out=try_out))
    monkeypatch.setattr(kernels, "_warned", set())
    kernels._missing_for_cuda.cache_clear()
    try:
        with pytest.warns(
            UserWarning, match=f"compiled and loaded .{type(error).__name__}: .*plain PyTorch"
        ) as warned:
            assert not kernels.has_kernels(torch.device("cuda"))
        assert "\n" not in str(warned[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not kernels.has_kernels(torch.device("cuda"))
    finally:
        kernels._missing_for_cuda.cache_clear()


@pytest.mark.parametrize("missing", ["", "numba-cuda is not installed"])
def test_whether_there_are_kernels_is_a_constant_to_the_compiler(monkeypatch, missing):
    torch._dynamo.reset()
    monkeypatch.setattr(kernels, "_missing_for_cuda", lambda: missing)
    monkeypatch.setattr(kernels, "_warned", set())

    @torch.compile(fullgraph=True, backend="eager")
    def count(x):
        return x + kernels.has_kernels(torch.device("cuda"))

    with warnings.catch_warnings(record=True) as announced:
        warnings.simplefilter("always")
        assert count(torch.zeros(1)) == (missing == "")
    assert sum("no kernels for device 'cuda'" in str(w.message) for w in announced) == (missing != "")


def test_importing_the_loss_leaves_cuda_and_the_compiler_alone():
    code = "import sys, loss; sys.exit(bool({'numba.cuda', 'torch._dynamo'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT, timeout=300)


@simd.row_loop
def _exp2_row(rows, at, numbers):
    rows[0].store(at[0], simd.exp2(rows[0].load(at[0])))


@simd.row_loop
def _log2_1p_row(rows, at, numbers):
    rows[0].store(at[0], simd.log2_1p(rows[0].load(at[0])))


@njit
def _apply_exp2(a):
    _exp2_row((simd.pointer(a, 0),), (0,), (), a.size)


@njit
def _apply_log2_1p(a):
    _log2_1p_row((simd.pointer(a, 0),), (0,), (), a.size)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-7), (np.float64, 4e-16)])
def test_vector_powers_and_logarithms_of_two(dtype, tolerance):
    x = np.linspace(-126, 0, 4096, dtype=dtype)
    ours = x.copy()
    _apply_exp2(ours)
    np.testing.assert_allclose(ours, np.exp2(x.astype(np.longdouble)), rtol=tolerance)
    far = np.full(simd.LANES, -1e30, dtype)
    _apply_exp2(far)
    assert (far == 0).all()
    u = np.concatenate([np.linspace(0, 2, 4096, dtype=dtype), np.geomspace(1e-30, 1, 4096, dtype=dtype)])
    ours = u.copy()
    _apply_log2_1p(ours)
    truth = np.log1p(u.astype(np.longdouble)) / np.log(np.longdouble(2))
    np.testing.assert_allclose(ours, truth, rtol=2 * tolerance if dtype == np.float32 else 0, atol=1e-15)


@partial(simd.row_loop, overrun=False)
def _scaled_exp2_row(rows, at, numbers):
    rows[1].store(at[0], simd.exp2(rows[0].load(at[0])) * numbers[0])


@njit
def _scaled_exp2(a, out, factor, n):
    _scaled_exp2_row((simd.pointer(a, 0), simd.pointer(out, 0)), (0,), (factor,), n)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 40])
def test_a_loop_that_does_not_run_on_writes_no_cell_more_than_it_is_told(n):
    a, out = np.linspace(-5, 0, 64), np.full(64, np.nan)
    _scaled_exp2(a, out, 3.0, n)
    np.testing.assert_allclose(out[:n], 3 * np.exp2(a[:n]), rtol=1e-15)
    assert np.isnan(out[n:]).all()


def test_vector_powers_and_logarithms_keep_nan():
    for function in (_apply_exp2, _apply_log2_1p):
        a = np.full(simd.LANES, np.nan, np.float32)
        function(a)
        assert np.isnan(a).all()
