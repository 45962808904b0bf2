"""Derivatives in every mode that PyTorch has: right or refused, and never zero without a word."""

import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from multiprocessing import get_context

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from loss import (
    AsymmetricOmega,
    CTCLoss,
    DilateLoss,
    SoftDTWLoss,
    TangledDilateLoss,
    ctc_alignment,
    ctc_loss,
    dilate_of_costs,
    pairwise_distances,
    soft_dtw,
    soft_path,
)
from loss.dilate_loss import Dilate, Settings
from loss.soft_dtw import SoftDTW

CRITERIA = [
    SoftDTWLoss(0.4),
    SoftDTWLoss(0.4, "sum", divergence=True),
    DilateLoss(0.3, 0.4),
    DilateLoss(0.3, 0.4, "sum", omega=AsymmetricOmega(0.5, 2, 1.5), band=3),
    DilateLoss(0.3, 0.4, per_channel=True),
    DilateLoss(0.3, 0.4, divergence=True),
    TangledDilateLoss(0.3, 0.4),
    TangledDilateLoss(0.3, 0.4, omega=None, band=3),
]
criteria = pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
a_few = pytest.mark.parametrize("criterion", [CRITERIA[0], CRITERIA[3], CRITERIA[6]], ids=repr)
new_sizes = count(31)  # lengths of series that no call of this process has had


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def pair(N=5, M=6, seed=0, batch=3):
    return randn(batch, N, 2, seed=seed), randn(batch, M, 2, seed=seed + 1)


def tangent_of(function, x, v):
    """The tangent that torch.autograd.forward_ad finds."""
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, v))).tangent


# ------------------------------------------------------------------------------------ forward mode


@settings(max_examples=6, deadline=None)
@given(N=st.integers(1, 7), extra=st.integers(0, 3), lengths=st.booleans(), seed=st.integers(0, 99))
@criteria
def test_forward_mode_equals_reverse_mode_for_both_series(criterion, N, extra, lengths, seed):
    (x, y), (v, w) = pair(N, N + extra, seed), pair(N, N + extra, seed + 2)
    more = ([N, max(1, N - 1), N], [N + extra, N, N + extra]) if lengths else ()
    value, along = jvp(lambda p, q: criterion(p, q, *more), (x, y), (v, w))
    leaves = x.requires_grad_(), y.requires_grad_()
    expected = criterion(x, y, *more)
    d_x, d_y = torch.autograd.grad(expected, leaves)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(along, (d_x * v).sum() + (d_y * w).sum())
    dual = tangent_of(lambda p: criterion(p, y.detach(), *more), x.detach(), v)
    torch.testing.assert_close(dual, (d_x * v).sum())


@pytest.mark.parametrize("make", [SoftDTWLoss, partial(DilateLoss, 0.3), partial(TangledDilateLoss, 0.3)])
def test_forward_mode_by_gamma(make):
    x, y = pair()
    gamma, one = torch.tensor(0.4, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)

    def loss(gamma):
        criterion = make(0.4)
        return torch.func.functional_call(_WithGamma(criterion), {}, (gamma, x, y))

    _, along = jvp(loss, (gamma,), (one,))
    learned = make(gamma.clone().requires_grad_())
    (expected,) = torch.autograd.grad(learned(x, y), learned.gamma)
    torch.testing.assert_close(along, expected)


class _WithGamma(torch.nn.Module):
    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def forward(self, gamma, x, y):
        self.criterion.__dict__["gamma"] = gamma  # as a module that computes its gamma does
        return self.criterion(x, y)


@pytest.mark.parametrize("loss", [DilateLoss, TangledDilateLoss])
def test_forward_mode_by_a_learned_omega(loss):
    x, y = pair()
    criterion = loss(0.3, 0.4, omega=torch.nn.Parameter(randn(5, 6, seed=4).abs()))
    direction = randn(5, 6, seed=5)
    _, along = jvp(
        lambda omega: torch.func.functional_call(criterion, {"omega": omega}, (x, y)),
        (criterion.omega.detach(),),
        (direction,),
    )
    (expected,) = torch.autograd.grad(criterion(x, y), criterion.omega)
    torch.testing.assert_close(along, (expected * direction).sum())


def test_forward_mode_of_each_component():
    (x, y), v = pair(), randn(3, 5, 2, seed=7)
    for k in range(3):
        _, along = jvp(lambda p, k=k: DilateLoss(0.3, 0.4).components(p, y)[k], (x,), (v,))
        torch.testing.assert_close(
            along, (grad(lambda p, k=k: DilateLoss(0.3, 0.4).components(p, y)[k])(x) * v).sum()
        )


@pytest.mark.parametrize("function", [soft_dtw, soft_path])
def test_forward_mode_of_costs(function):
    D, V = randn(3, 5, 6, seed=3).square(), randn(3, 5, 6, seed=4)
    _, along = jvp(lambda D: function(D, 0.4), (D,), (V,))
    step = 1e-5
    difference = (function(D + step * V, 0.4) - function(D - step * V, 0.4)) / (2 * step)
    torch.testing.assert_close(along, difference, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(tangent_of(lambda D: function(D, 0.4), D, V), along)


@a_few
def test_jacfwd_equals_jacrev(criterion):
    x, y = pair()
    torch.testing.assert_close(jacfwd(lambda p: criterion(p, y))(x), jacrev(lambda p: criterion(p, y))(x))


@criteria
def test_hessian_is_the_derivative_of_the_gradient(criterion):
    x, y = pair(3, 4)
    by_x = grad(lambda p: criterion(p, y))
    H = hessian(lambda p: criterion(p, y))(x).flatten(0, 2).flatten(1)
    step = 1e-5
    for k in range(0, x.numel(), 5):
        e = torch.zeros_like(x).flatten().index_fill(0, torch.tensor(k), step).view_as(x)
        difference = (by_x(x + e) - by_x(x - e)).flatten() / (2 * step)
        torch.testing.assert_close(H[:, k], difference, rtol=1e-5, atol=1e-7)


@criteria
def test_reverse_mode_over_forward_mode(criterion):
    (x, y), v = pair(3, 4), randn(3, 3, 2, seed=7)
    found = grad(lambda p: jvp(lambda q: criterion(q, y), (p,), (v,))[1])(x)
    step = 1e-5
    by_x = grad(lambda p: criterion(p, y))
    torch.testing.assert_close(found, (by_x(x + step * v) - by_x(x - step * v)) / (2 * step), rtol=1e-5, atol=1e-7)


def test_a_gradient_has_a_tangent_where_its_loss_was_dual():
    (x, y), v = pair(), randn(3, 5, 2, seed=7)
    criterion = DilateLoss(0.3, 0.4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, v).requires_grad_()
        (by_x,) = torch.autograd.grad(criterion(dual, y), dual)
        along = forward_ad.unpack_dual(by_x).tangent
    step = 1e-5
    gradients = [grad(lambda p: criterion(p, y))(x + s * v) for s in (step, -step)]
    torch.testing.assert_close(along, (gradients[0] - gradients[1]) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [1, 30, 1000])
def test_float32_tangents_keep_their_digits_at_any_scale(scale):
    x, y, v = randn(2, 20, 1, seed=1) * scale, randn(2, 20, 1, seed=2) * scale, randn(2, 20, 1, seed=3)
    criterion = DilateLoss(0.5, 0.01)
    single = [s.float().double() for s in (x, y, v)]  # numbers that both precisions hold
    truth = jvp(lambda p: criterion(p, single[1]), (single[0],), (single[2],))[1]
    found = jvp(lambda p: criterion(p, single[1].float()), (single[0].float(),), (single[2].float(),))[1]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------ CTC refuses


def labelled(T=6, batch=2, classes=4):
    log_probs = randn(T, batch, classes, seed=1).log_softmax(-1)
    return log_probs, torch.tensor([[1, 2], [3, 1]]), torch.tensor([T, T - 1]), torch.tensor([2, 2])


@pytest.mark.parametrize("function", [CTCLoss(), CTCLoss(reduction="none"), ctc_alignment])
@pytest.mark.parametrize("compiled", [False, True])
def test_ctc_refuses_forward_mode(function, compiled):
    log_probs, *others = labelled()

    def along(p, v):
        return jvp(lambda q: function(q, *others), (p,), (v,))[1]

    along = torch.compile(along, backend="eager") if compiled else along
    # torch.compile may turn the refusal into an error of its own, which is as loud.
    refusals = (NotImplementedError, torch._dynamo.exc.TorchDynamoException) if compiled else NotImplementedError
    with pytest.raises(refusals, match=None if compiled else "jvp"):
        along(log_probs, torch.ones_like(log_probs))


def test_ctc_refuses_a_gradient_penalty():
    log_probs, *others = labelled()
    log_probs.requires_grad_()
    (by_p,) = torch.autograd.grad(CTCLoss(reduction="sum")(log_probs, *others), log_probs, create_graph=True)
    with pytest.raises(NotImplementedError, match="once only"):
        by_p.square().sum().backward()


def test_ctc_refuses_torch_func_inside_of_a_compiled_graph():
    log_probs, *others = labelled()
    gradient = torch.compile(lambda p: grad(lambda q: CTCLoss()(q, *others))(p), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"torch.func inside of|Observed exception|WITH_EXCEPT"):  # torch 2.5
        gradient(log_probs)


# ------------------------------------------------------------------------------------ gradient penalties


@pytest.mark.parametrize(
    "criterion", [SoftDTWLoss(0.4), SoftDTWLoss(0.4, "sum", band=3), TangledDilateLoss(0.3, 0.4)]
)
def test_a_gradient_penalty_equals_the_difference_quotient(criterion):
    (x, y), v = pair(), randn(3, 5, 2, seed=7)

    def penalised(p, graph):
        p = p.detach().requires_grad_()
        loss = criterion(p, y)
        (g,) = torch.autograd.grad(loss, p, create_graph=graph)
        return p, loss + 10 * g.square().sum()

    p, loss = penalised(x, True)
    (found,) = torch.autograd.grad(loss, p)
    step = 1e-5
    difference = (penalised(x + step * v, False)[1] - penalised(x - step * v, False)[1]) / (2 * step)
    torch.testing.assert_close((found * v).sum(), difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("level", "gamma"), [(0.0, 0.1), (10.0, 0.01), (1000.0, 10.0)])
def test_second_derivatives_of_float32_series_keep_their_digits_far_from_the_target(level, gamma):
    noise, y, v = randn(3, 20, 1, seed=1), 0.05 * randn(3, 24, 1, seed=2), randn(3, 20, 1, seed=3)
    x = 0.05 * noise + level

    def hessian_product(dtype):
        p, target = x.float().to(dtype).requires_grad_(), y.float().to(dtype)
        (g,) = torch.autograd.grad(SoftDTWLoss(gamma)(p, target), p, create_graph=True)
        return torch.autograd.grad((g * v.to(dtype)).sum(), p)[0]

    found, truth = hessian_product(torch.float32).double(), hessian_product(torch.float64)
    assert (found - truth).abs().max() <= 1e-4 * truth.abs().max()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_gradient_penalty_on_dilate_is_refused_whatever_the_incoming_gradient(reduction):
    x, y = pair()
    x.requires_grad_()
    (g,) = torch.autograd.grad(DilateLoss(0.3, 0.4, reduction)(x, y).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="shape term"):
        g.square().sum().backward()


# ------------------------------------------------------------------------------------ torch.func and modes

TRANSFORMS = {
    "grad": lambda f, x: grad(f)(x),
    "vjp": lambda f, x: vjp(f, x)[1](torch.ones((), dtype=x.dtype))[0],
    "jacrev": lambda f, x: jacrev(f)(x),
    "jvp": lambda f, x: jvp(f, (x,), (torch.ones_like(x),))[1],
    "vmap of grad": lambda f, x: vmap(grad(f))(x[None])[0],
}


@a_few
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_torch_func_works_at_sizes_that_are_new_to_the_process(criterion, transform):
    N = next(new_sizes)
    x, y = pair(N, N + 1)
    first, second = (transform(lambda p: criterion(p, y), x) for _ in range(2))
    assert first.abs().max() > 0
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def of_costs(function):
    return lambda x, y: function((x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1))


VMAPPED = {
    **{repr(criterion): criterion for criterion in CRITERIA},
    "costs of one's own": DilateLoss(0.3, 0.4, cost="absolute"),
    "learned gamma": DilateLoss(0.3, torch.nn.Parameter(torch.tensor(0.4))),
    "learned Omega": DilateLoss(0.3, 0.4, omega=torch.nn.Parameter(torch.rand(5, 6))),
    "soft_dtw": of_costs(lambda D: soft_dtw(D, 0.4).sum()),
    "soft_dtw, learned gamma": of_costs(lambda D: soft_dtw(D, torch.tensor(0.4, requires_grad=True)).sum()),
    "soft_path": of_costs(lambda D: (soft_path(D, 0.4) ** 2).sum()),
    "dilate_of_costs": of_costs(lambda D: dilate_of_costs(D, alpha=0.3, gamma=0.4).loss.sum()),
    "CTC": lambda x, y: ctc_loss(
        x.transpose(0, 1).log_softmax(-1), torch.ones(3, 2, dtype=torch.long), [5] * 3, [2] * 3
    ),
}


@pytest.mark.skipif(
    torch.__version__ < "2.7", reason="autograd of torch before 2.7 fails at gradients that vmap lacks"
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", VMAPPED)
@pytest.mark.parametrize("beside", [0.0, 1.0])
def test_autograd_sees_what_vmap_maps_over(name, beside):
    x, y = randn(4, 3, 5, 2, seed=1), randn(4, 3, 6, 2, seed=2)
    weight = torch.ones(4, 1, 1, 1, dtype=torch.float64, requires_grad=True)

    def loss(x, y, weight):
        return VMAPPED[name](weight * x, y) + beside * (weight * x).square().sum()

    (expected,) = torch.autograd.grad(sum(loss(*model) for model in zip(x, y, weight, strict=True)), weight)
    (found,) = torch.autograd.grad(vmap(loss)(x, y, weight).sum(), weight)
    torch.testing.assert_close(found, expected)


@a_few
def test_default_device_and_dtype_leave_no_trace(criterion):
    N = next(new_sizes)
    x, y = pair(N, N + 1)
    lengths = [N, N - 1, N], [N, N, N + 1]
    with torch.device("meta"):  # what is made without a device would not be on the CPU
        found = [criterion(x, y), criterion(x, y, *lengths), DilateLoss(gamma=0.1)(x.float(), y.float())]
    torch.set_default_dtype(torch.bfloat16)
    try:
        found += [criterion(x, y), criterion(x, y, *lengths), DilateLoss(gamma=0.1)(x.float(), y.float())]
    finally:
        torch.set_default_dtype(torch.float32)
    expected = [criterion(x, y), criterion(x, y, *lengths), DilateLoss(gamma=0.1)(x.float(), y.float())]
    for ours, theirs in zip(found, 2 * expected, strict=True):
        assert torch.equal(ours, theirs)


def test_ctc_works_under_another_default_device():
    log_probs, *others = labelled()
    expected = CTCLoss()(log_probs, *others), ctc_alignment(log_probs, *others)
    with torch.device("meta"):
        found = CTCLoss()(log_probs, [[1, 2], [3, 1]], [6, 5], [2, 2]), ctc_alignment(log_probs, *others)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@a_few
@pytest.mark.parametrize("lengths", [False, True])
def test_fake_and_meta_tensors_give_shapes_without_a_warning(criterion, lengths):
    N = next(new_sizes)
    more = ([N, 1, N], [N, 1, N]) if lengths else ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with FakeTensorMode():
            assert criterion(torch.randn(3, N, 2), torch.randn(3, N, 2), *more).shape == ()
        x = torch.randn(3, N, 2, device="meta", requires_grad=True)
        loss = criterion(x, torch.randn(3, N, 2, device="meta"), *more)
        loss.backward()
    assert loss.shape == ()
    assert x.grad.shape == x.shape


def test_make_fx_traces_with_symbolic_sizes():
    N = next(new_sizes)
    x, y = pair(N, N + 1)
    criterion = DilateLoss(0.3, 0.4, "none", omega=AsymmetricOmega(1, 2))
    traced = make_fx(criterion, tracing_mode="symbolic")(x, y)
    p, q = pair(N + 3, N + 5)
    torch.testing.assert_close(traced(p, q), criterion(p, q))


@pytest.mark.parametrize("sizes", [(5, 2), (2, 5), (4, 4)])
def test_a_graph_of_fixed_sizes_refuses_others(sizes):
    criterion = DilateLoss(0.3, 0.4, "none")
    traced = make_fx(criterion)(*pair(4, 3))
    torch.testing.assert_close(traced(*pair(4, 3, seed=5)), criterion(*pair(4, 3, seed=5)))
    with pytest.raises((ValueError, RuntimeError)):
        traced(*pair(*sizes))


@pytest.mark.parametrize("tracing_mode", ["real", "symbolic"])
@pytest.mark.parametrize("criterion", [SoftDTWLoss(0.7), DilateLoss(0.5, 0.7, divergence=True)])
def test_a_graph_that_would_hold_the_constant_of_pairs_without_a_path_is_refused(criterion, tracing_mode):
    criterion.band, criterion.infeasible = 1, "zero"
    with pytest.raises(NotImplementedError, match="record the loss with series that have a path"):
        make_fx(criterion, tracing_mode=tracing_mode)(*pair(7, 3))
    recorded = make_fx(criterion, tracing_mode="symbolic")(*pair(7, 6))
    torch.testing.assert_close(recorded(*pair(4, 3)), criterion(*pair(4, 3)))


def test_vmap_maps_over_lengths_and_checks_them():
    x, y = pair(batch=4)
    n, m = torch.tensor([5, 3, 4, 1]), torch.tensor([6, 2, 6, 3])
    criterion = DilateLoss(0.3, 0.4, "none")
    one = vmap(lambda p, q, k, h: criterion(p[None], q[None], k[None], h[None])[0])
    torch.testing.assert_close(one(x, y, n, m), criterion(x, y, n, m))
    with pytest.raises(ValueError, match="prediction_lengths must lie between 1 and 5"):
        one(x, y, n + 2, m)


# ------------------------------------------------------------------------------------ compiled and recorded


@pytest.fixture(scope="module")
def fresh_process():
    """A process that has done nothing else."""
    # Late in a run of all tests, and never alone, torch 2.13 stumbles over an assertion of its own in such a trace
    # (isFunctionalTensor(view_to_wrap)), and leaves torch.func in a state that other tests then fail in.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def compiled_and_eager(name, of_series):
    """What a transform gives inside of one compiled graph, and outside."""
    torch._dynamo.reset()
    transform = TRANSFORMS[name]
    if of_series:
        (x, y), criterion = pair(3, 4), DilateLoss(0.3, 0.4)
        inside, outside = lambda p: transform(lambda q: criterion(q, y), p), lambda p: criterion(p, y)
    else:
        x, outside = randn(3, 3, 4, seed=3).square(), lambda D: soft_dtw(D, 0.4).sum()
        inside = lambda D: transform(outside, D)  # noqa: E731
    return torch.compile(inside, backend="aot_eager", fullgraph=True)(x), transform(outside, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grad", "jvp", "vmap of grad"])
def test_torch_func_inside_of_a_compiled_graph(name, fresh_process):
    torch.testing.assert_close(*fresh_process.submit(compiled_and_eager, name, True).result())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grad", "jvp"])
def test_torch_func_of_soft_dtw_inside_of_a_compiled_graph(name, fresh_process):
    torch.testing.assert_close(*fresh_process.submit(compiled_and_eager, name, False).result())


@pytest.mark.filterwarnings("ignore")
@criteria
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_trace_has_the_numbers_and_gradients_of_other_batches_and_lengths(criterion, requires_grad):
    x, y = pair()
    traced = torch.jit.trace(criterion, (x.requires_grad_(requires_grad), y), check_trace=False)
    for N, M, batch in ((5, 6, 3), (5, 6, 4), (9, 9, 2), (4, 3, 1)):
        p, q = (s.requires_grad_() for s in pair(N, M, seed=9, batch=batch))
        expected = criterion(p, q)
        try:
            found = traced(p, q)
        except RuntimeError:
            assert (N, M) != (5, 6), "the sizes of the trace must work"
            continue
        torch.testing.assert_close(found, expected)
        for ours, theirs in zip(
            torch.autograd.grad(found, (p, q)), torch.autograd.grad(expected, (p, q)), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_of_ctc_has_a_gradient_and_checks_its_labels():
    log_probs, *others = labelled()
    traced = torch.jit.trace(lambda p, t: CTCLoss(reduction="none")(p, t, *others[1:]), (log_probs, others[0]),
                             check_trace=False)  # fmt: skip
    p = randn(6, 2, 4, seed=5).log_softmax(-1).requires_grad_()
    found, expected = traced(p, others[0]), CTCLoss(reduction="none")(p, *others)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), p)[0] for v in (found, expected)))
    with pytest.raises((RuntimeError, ValueError), match="classes from 0 to 3"):
        traced(p, others[0] + 2)


@pytest.mark.slow
@criteria
def test_linearize_equals_jvp(criterion):
    (x, y), v = pair(3, 4), randn(3, 3, 2, seed=7)
    value, along = torch.func.linearize(lambda p: criterion(p, y), x)
    expected = jvp(lambda p: criterion(p, y), (x,), (v,))
    torch.testing.assert_close((value, along(v)), expected)


@pytest.mark.parametrize("function", [soft_dtw, soft_path])
def test_linearize_of_costs_equals_jvp(function):
    D, V = randn(2, 3, 4, seed=3).square(), randn(2, 3, 4, seed=4)
    torch.testing.assert_close(torch.func.linearize(function, D)[1](V), jvp(function, (D,), (V,))[1])


class _Trained(torch.nn.Module):
    """A layer, and a loss of what it makes."""

    def __init__(self, loss):
        super().__init__()
        self.layer, self.loss = torch.nn.Linear(2, 2).double(), loss
        if loss.__code__.co_argcount > 1:
            self.omega = torch.nn.Parameter(randn(3, 3).square())

    def forward(self, x):
        return self.loss(self.layer(x), *([self.omega] if hasattr(self, "omega") else []))


EXPORTED = {
    "DilateLoss": lambda p: DilateLoss(0.3, 0.4)(p, p.detach() + 1),
    "SoftDTWLoss": lambda p: SoftDTWLoss(0.4)(p, p.detach() + 1),
    "TangledDilateLoss": lambda p: TangledDilateLoss(0.3, 0.4)(p, p.detach() + 1),
    "soft_dtw": lambda p: soft_dtw(p.square(), 0.4).sum(),
    "learned Omega": lambda p, omega: DilateLoss(0.3, 0.4, omega=omega)(p, p.detach() + 1),
    "learned Omega, costs": lambda p, omega: dilate_of_costs(p[:, :, None, 0] - p[:, None, :, 1], omega).loss.sum(),
    "ctc_loss": lambda p: CTCLoss()(p.log_softmax(-1), torch.tensor([[1, 1]] * p.shape[1]), [p.shape[0]] * p.shape[1],
                                    [1] * p.shape[1]),
}  # fmt: skip


@pytest.mark.skipif(torch.__version__ < "2.6", reason="exported by torch 2.5, a loss refuses to be differentiated")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_loss_has_its_gradient(name, strict):
    torch._dynamo.reset()
    net, x = _Trained(EXPORTED[name]), randn(4, 3, 2)
    exported = torch.export.export(net, (x,), strict=strict).module()
    exported(x).backward()
    found = [p.grad.clone() for p in exported.parameters()]
    net.zero_grad()
    net(x).backward()
    for ours, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)


def test_what_was_exported_without_a_gradient_refuses_one():
    x, y = pair()
    alone = _Alone()
    exported = torch.export.export(alone, (x, y), strict=False).module()
    torch.testing.assert_close(exported(x, y), alone(x, y))
    with pytest.raises(NotImplementedError, match="record it with inputs that require grad"):
        exported(x.clone().requires_grad_(), y).backward()


class _Alone(torch.nn.Module):
    def forward(self, x, y):
        return DilateLoss(0.3, 0.4)(x, y)


@a_few
def test_a_graph_of_make_fx_has_the_gradients_of_other_batches(criterion):
    x, y = pair()
    traced = make_fx(criterion, tracing_mode="symbolic")(x, y)
    p, q = (s.requires_grad_() for s in pair(7, 8, seed=5, batch=4))
    found, expected = traced(p, q), criterion(p, q)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, (p, q)), torch.autograd.grad(expected, (p, q)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_soft_path_is_not_exported_with_a_gradient():
    net = _Trained(lambda p: soft_path(p.square(), 0.4).square().sum())
    with pytest.raises(Exception, match=r"soft_path cannot be exported with its gradient|Observed exception"):
        torch.export.export(net, (randn(4, 3, 2),), strict=False)


# ------------------------------------------------------------------------------------ what lost a derivative silently


def ctc_of(log_probs):
    return ctc_loss(log_probs, [[1]], [5], [1])


PENALISED = {
    "soft-DTW": (SoftDTWLoss(0.7), pair(4, 3)),
    "soft_dtw of costs": (lambda x, y: soft_dtw((x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1), 0.7), pair(4, 3)),
    "tangled": (TangledDilateLoss(0.5, 0.7), pair(4, 3)),
    "another cost": (SoftDTWLoss(0.7, cost="absolute"), pair(4, 3)),
}


@pytest.mark.parametrize(("function", "series"), PENALISED.values(), ids=PENALISED.keys())
def test_the_pullback_of_vjp_can_be_differentiated_by_autograd(function, series):
    x, y = series[0].requires_grad_(), series[1]

    def penalised(gradient):
        return torch.autograd.grad(x.square().sum() + gradient.square().sum(), x)[0]

    value, pull = vjp(lambda p: function(p, y).sum(), x)
    expected = torch.autograd.grad(function(x, y).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(penalised(pull(torch.ones_like(value))[0]), penalised(expected))
    _, pull = vjp(lambda p: function(p, y).sum(), x.detach())
    assert not pull(torch.ones_like(value))[0].requires_grad


RECORDED = {
    "make_fx": lambda criterion, x, y: make_fx(criterion)(x, y),
    "export": lambda criterion, x, y: torch.export.export(criterion, (x, y)).module(),
    "trace": lambda criterion, x, y: torch.jit.trace(criterion, (x, y)),
    "compile": lambda criterion, x, y: torch.compile(criterion, backend="aot_eager"),
}


@pytest.mark.filterwarnings("ignore")  # of tracing
@pytest.mark.parametrize("record", RECORDED.values(), ids=RECORDED.keys())
@pytest.mark.parametrize("criterion", [SoftDTWLoss(0.7), DilateLoss(0.5, 0.7)])
def test_recorded_losses_refuse_tangents(criterion, record):
    x, y = pair(4, 3)
    recorded = record(criterion, x, y)
    torch.testing.assert_close(recorded(x, y), criterion(x, y))
    with (
        forward_ad.dual_level(),
        pytest.raises((NotImplementedError, RuntimeError), match="A recorded loss has no forward-mode derivative"),
    ):
        recorded(forward_ad.make_dual(x, torch.ones_like(x)), y)


def test_ctc_under_a_dispatch_mode_refuses_tangents():
    log_probs = randn(5, 1, 3).log_softmax(-1)
    with (
        FlopCounterMode(display=False),
        pytest.raises(NotImplementedError, match="no forward-mode derivative"),
    ):
        jvp(ctc_of, (log_probs,), (torch.ones_like(log_probs),))


@pytest.mark.parametrize("name", ["soft-DTW", "DILATE", "DILATE of another cost", "CTC"])
def test_compiled_losses_refuse_a_gradient_penalty(name):
    x, y = pair(4, 3)
    functions = {
        "soft-DTW": (lambda x: SoftDTWLoss(0.7)(x, y), x),
        "DILATE": (lambda x: DilateLoss(0.5, 0.7)(x, y), x),
        "DILATE of another cost": (lambda x: DilateLoss(0.5, 0.7, cost="absolute")(x, y), x),
        "CTC": (ctc_of, randn(5, 1, 3).log_softmax(-1)),
    }
    function, x = functions[name]
    torch._dynamo.reset()
    compiled, x = torch.compile(function, backend="aot_eager"), x.requires_grad_()
    value = compiled(x)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(function(x), x)[0])
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(value + gradient.square().sum(), x)


@pytest.mark.parametrize("cost", ["squared", "absolute"])
def test_forward_mode_of_a_series_with_an_infinity_is_nan_for_that_sample_alone(cost):
    x, y = pair(4, 3)
    criterion = SoftDTWLoss(0.7, "none", cost=cost)
    expected = jvp(lambda p: criterion(p, y), (x,), (torch.ones_like(x),))
    x[1, 0, 0] = torch.inf
    found = jvp(lambda p: criterion(p, y), (x,), (torch.ones_like(x),))
    for ours, finite in zip(found, expected, strict=True):
        assert ours[1].isnan()
        torch.testing.assert_close(ours[[0, 2]], finite[[0, 2]])


@pytest.mark.parametrize("criterion", [SoftDTWLoss(0.7), DilateLoss(0.5, 0.7), DilateLoss(0.5, 0.7, cost="absolute")])
def test_checkpointing_gives_the_same_gradient(criterion):
    x, y = pair(4, 3)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(criterion(x, y), x)
    (found,) = torch.autograd.grad(checkpoint(criterion, x, y, use_reentrant=False), x)
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore")  # of tracing
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_trace_computes_omega_in_float64_whatever_the_default_is(dtype):
    x, y = pair(4, 3)
    criterion = DilateLoss(0.0, 0.7)
    torch.set_default_dtype(dtype)
    try:
        traced = torch.jit.trace(criterion, (x, y))(x, y)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(traced, criterion(x, y), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("function", "at"),
    [
        (lambda gamma: soft_dtw(randn(2, 4, 3).square(), gamma).sum(), torch.tensor(0.7, dtype=torch.float64)),
        (lambda D: soft_path(D, 0.7).square().sum(), randn(2, 4, 3).square()),
    ],
    ids=["gamma", "soft_path"],
)
def test_torch_func_differentiates_by_gamma_and_the_soft_alignment(function, at):
    leaf = at.clone().requires_grad_()
    torch.testing.assert_close(grad(function)(at), torch.autograd.grad(function(leaf), leaf)[0])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("of", ["soft-DTW", "series", "costs"])
def test_a_derivative_that_the_forward_pass_did_not_make_is_an_error(of, batch):
    """Zeros, or the empty sum of a batch of one, would be a lost gradient."""
    x, y = (s.requires_grad_() for s in pair(4, 5, batch=batch))
    D, gamma = randn(batch, 4, 5).requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    others = gamma, randn(8), None, None, None, Settings(0.5, -1, False, False, False, False)
    function, inputs, arguments = {
        "soft-DTW": (SoftDTW, (D, gamma), (D, gamma, None, None, -1, False, False)),
        "series": (Dilate, (x, y, gamma), (x, y, None, *others)),
        "costs": (Dilate, (D, gamma), (None, None, D, *others)),
    }[of]
    for by in inputs:
        with pytest.raises(RuntimeError, match="the forward pass did not make"):
            torch.autograd.grad(function.apply(*arguments)[0].sum(), by)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="an older torch takes the formulas, or compiles no soft_path"
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, omega: DilateLoss(0.3, 0.3, omega=omega)(x.square(), y),
        lambda x, y, omega: DilateLoss(0.3, 0.3, omega=omega)(x, y),
        lambda x, y, omega: DilateLoss(0.3, 0.3)(x.square(), y),
        lambda x, y, omega: (soft_path(pairwise_distances(x, y), 0.3) * omega).sum(),
        lambda x, y, omega: soft_path(pairwise_distances(x, y), 0.3).square().sum(),
    ],
    ids=["learned Omega", "of a leaf", "fixed Omega", "path", "square of a path"],
)
def test_where_the_backend_leaves_derivatives_to_autograd_a_second_one_is_refused(function):
    x, y, omega = torch.randn(2, 4, 2), torch.randn(2, 5, 2), torch.rand(4, 5, requires_grad=True)
    torch._dynamo.reset()
    compiled, found = torch.compile(lambda x, omega: function(x, y, omega), backend="eager"), []
    for run in (compiled, lambda x, omega: function(x, y, omega)):
        leaf = x.clone().requires_grad_()
        value = run(leaf, omega)
        found.append((value, *torch.autograd.grad(value, (leaf, omega), allow_unused=True)))
    for mine, expected in zip(*found, strict=True):
        assert (mine is None) == (expected is None)
        if mine is not None:
            torch.testing.assert_close(mine, expected)
    leaf = x.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=r"A (recorded|compiled) loss .*cannot be differentiated twice"):
        torch.autograd.grad(compiled(leaf, omega), leaf, create_graph=True)
