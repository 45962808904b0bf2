"""The fused recurrences against torch's GRU and plain autograd: values, derivatives of all orders and kinds, and what
they leave alone."""

import gc
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import func, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad, functional
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import loss
import models
from loss.kernels.simd import pointer, row_loop
from models import DecoderRNN, build_model
from models.gru_fused import FusedGRU, _Recurrence, _Rollout, _sigmoid, _tanh

TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-12}}
DTYPES = st.sampled_from([torch.float32, torch.float64])
SMALL = st.integers(1, 5)
UNITS = st.one_of(SMALL, st.sampled_from([16, 32, 35]))  # sixteen are computed at a time, the rest one by one
STEPS = st.integers(1, 11)  # less, more and exactly as many as are gathered at once


def randn(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def pair(*args, dtype=torch.float32, **kwargs):
    """torch's GRU and the fused one with the same weights."""
    theirs, ours = nn.GRU(*args, **kwargs, dtype=dtype), FusedGRU(*args, **kwargs, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_equal_gradients(ours, theirs, leaves, their_leaves, dtype):
    """Equal gradients of one random combination of the outputs."""
    cotangents = [torch.randn_like(other) for other in theirs]
    gradients = torch.autograd.grad(ours, leaves, cotangents), torch.autograd.grad(theirs, their_leaves, cotangents)
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, **TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l1"])
@pytest.mark.parametrize("more", [-7, -1, 1, 3, -20])
def test_weights_of_other_sizes_are_left_to_torch(name, more):
    ours, theirs = pair(3, 7, num_layers=2)
    own = getattr(theirs, name)
    odd = nn.Parameter(torch.randn(own.shape[0] + more, *own.shape[1:]))
    x, found = torch.randn(5, 4, 3), []
    for gru in (theirs, ours):
        setattr(gru, name, odd)
        try:
            found.append(gru(x)[0])
        except RuntimeError as error:
            found.append(str(error))
    assert type(found[0]) is type(found[1])
    assert found[0] == found[1] if isinstance(found[0], str) else torch.equal(*found)


@pytest.mark.parametrize(
    ("value", "hidden", "change"),
    [
        ((4, 1), (1, 6, 7), {}),
        ((1, 1), (1, 4, 7), {}),
        ((4, 1), (1, 1, 7), {}),
        ((4, 1), (1, 4, 8), {}),
        ((4, 2), (1, 4, 7), {}),
        ((4, 1), (1, 4, 7), {"out": (2, 5)}),
        ((4, 1), (1, 4, 7), {"fc": (6, 7)}),
    ],
)
def test_a_rollout_of_sizes_that_do_not_fit_is_refused(value, hidden, change):
    decoder = DecoderRNN(1, 7, 1, 5, 1, gru="fused")
    for name, (rows, columns) in change.items():
        setattr(decoder, name, nn.Linear(columns, rows))
    with pytest.raises(RuntimeError):
        decoder.rollout(torch.randn(value), torch.randn(hidden), 3)


@given(input_size=SMALL, hidden_size=UNITS, layers=st.integers(1, 3), steps=STEPS, batch=SMALL,
       batch_first=st.booleans(), with_state=st.booleans(), used=st.sampled_from(["output", "h_n", "both"]),
       dtype=DTYPES, seed=st.integers(0, 99))  # fmt: skip
def test_gru_equals_torch_in_values_and_all_gradients(
    input_size, hidden_size, layers, steps, batch, batch_first, with_state, used, dtype, seed
):
    torch.manual_seed(seed)
    ours, theirs = pair(input_size, hidden_size, layers, batch_first=batch_first, dtype=dtype)
    x = randn(*((batch, steps) if batch_first else (steps, batch)), input_size, dtype=dtype)
    h = randn(layers, batch, hidden_size, dtype=dtype) if with_state else None
    mine, other = ours(x, h), theirs(x, h)
    torch.testing.assert_close(mine, other, **TOLERANCE[dtype])
    part = {"output": slice(0, 1), "h_n": slice(1, 2), "both": slice(2)}[used]
    leaves = [x, *([h] if with_state else [])]
    assert_equal_gradients(
        mine[part], other[part], [*leaves, *ours.parameters()], [*leaves, *theirs.parameters()], dtype
    )


@given(hidden_size=UNITS, layers=st.integers(1, 3), units=SMALL, d=SMALL, steps=STEPS, batch=SMALL, dtype=DTYPES,
       seed=st.integers(0, 99))  # fmt: skip
def test_rollout_equals_that_of_torch_in_values_and_all_gradients(
    hidden_size, layers, units, d, steps, batch, dtype, seed
):
    torch.manual_seed(seed)
    ours, theirs = (DecoderRNN(d, hidden_size, layers, units, d, gru).to(dtype) for gru in ("fused", "torch"))
    ours.load_state_dict(theirs.state_dict())
    value, hidden = randn(batch, d, dtype=dtype), randn(layers, batch, hidden_size, dtype=dtype)
    mine, other = ours.rollout(value, hidden, steps), theirs.rollout(value, hidden, steps)
    assert mine.grad_fn is not None
    torch.testing.assert_close(mine, other, **TOLERANCE[dtype])
    leaves = [value, hidden]
    assert_equal_gradients([mine], [other], [*leaves, *ours.parameters()], [*leaves, *theirs.parameters()], dtype)


def layer_weights(d, H):
    return randn(3 * H, d), randn(3 * H, H), randn(3 * H), randn(3 * H)


def test_gradcheck_of_first_and_second_derivatives():
    torch.manual_seed(0)
    head = randn(5, 4), randn(5), randn(2, 5), randn(2)
    layers = *layer_weights(2, 4), *layer_weights(4, 4)
    recurrence = randn(6, 2, 3), randn(2, 4), *layer_weights(3, 4)
    for function, inputs in (
        (_Recurrence.apply, recurrence),
        (_Rollout.apply, (6, randn(3, 2), randn(2, 3, 4), *head, *layers)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


# ------------------------------------------------------------------------------------------ second derivatives


def gru_runs(d, H, layers, steps, batch):
    """A GRU as a function of x and h_0, the fused one and torch's, and its parameters; then x and h_0."""
    runs = [(net, list(net.parameters())) for net in pair(d, H, layers, dtype=torch.float64)]
    return runs, [randn(steps, batch, d), randn(layers, batch, H)]


def decoder_runs(d, H, layers, steps, batch):
    """The same of a decoder, a function of start value and state."""
    ours, theirs = (DecoderRNN(d, H, layers, 3, d, gru).double() for gru in ("fused", "torch"))
    ours.load_state_dict(theirs.state_dict())
    runs = [
        (lambda value, hidden, net=net: (net.rollout(value, hidden, steps),), list(net.parameters()))
        for net in (ours, theirs)
    ]
    return runs, [randn(batch, d), randn(layers, batch, H)]


RUNS = {"gru": gru_runs, "decoder": decoder_runs}


LOSSES = {
    "sum": lambda output, weight: output.sum(),
    "mean square": lambda output, weight: output.square().mean(),
    "weighted sum": lambda output, weight: (weight * output).sum(),
}


@pytest.mark.parametrize("kind", RUNS)
@settings(max_examples=40)
@given(sizes=st.tuples(SMALL, SMALL, st.integers(1, 3), st.integers(1, 6), SMALL),
       loss=st.sampled_from(["ones", *LOSSES]), used=st.sampled_from([slice(0, 1), slice(-1, None), slice(None)]),
       by=st.sets(st.sampled_from(["input", "state", "params"]), min_size=1), seed=st.integers(0, 99))  # fmt: skip
def test_a_gradient_penalty_has_torchs_derivatives_whatever_the_loss(kind, sizes, used, loss, by, seed):
    torch.manual_seed(seed)
    runs, (x, state) = RUNS[kind](*sizes)
    with torch.no_grad():
        weights = [torch.randn(output.shape, dtype=torch.float64) for output in runs[0][0](x, state)[used]]
    weights[0].requires_grad_()
    results = []
    for run, parameters in runs:
        tensors = {"input": [x], "state": [state], "params": parameters}
        for name, its_tensors in tensors.items():
            for tensor in its_tensors:
                tensor.requires_grad_(name in by)
        leaves = [tensor for name in sorted(by) for tensor in tensors[name]]
        outputs = run(x, state)[used]
        if loss == "ones":
            first = torch.autograd.grad(outputs, leaves, list(map(torch.ones_like, outputs)), create_graph=True)
        else:
            first = torch.autograd.grad(sum(map(LOSSES[loss], outputs, weights)), leaves, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first)
        seconds = torch.autograd.grad(penalty, [*leaves, weights[0]], materialize_grads=True)
        results.append([penalty, *seconds])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_gradient_penalty_has_the_slope_of_central_differences(kind, layers):
    torch.manual_seed(0)
    (((run, parameters), _), inputs), eps = RUNS[kind](2, 4, layers, 5, 3), 1e-5
    leaves = [*inputs, *parameters]
    direction = [torch.randn_like(leaf) for leaf in leaves]

    def penalised(create_graph):
        outputs = run(*inputs)
        first = torch.autograd.grad(outputs[0].sum(), leaves, create_graph=create_graph)
        return sum(gradient.square().sum() for gradient in first)

    def moved(step):
        with torch.no_grad():
            torch._foreach_add_(leaves, direction, alpha=step)
        return penalised(create_graph=False)

    slope = (moved(eps) - moved(-2 * eps)) / (2 * eps)
    moved(eps)
    second = torch.autograd.grad(penalised(create_graph=True), leaves)
    found = sum((gradient * d).sum() for gradient, d in zip(second, direction, strict=True))
    assert slope.abs() > 1
    torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_derivative_is_the_same_to_the_bit_where_a_second_one_may_follow(kind, dtype):
    torch.manual_seed(0)
    (((run, parameters), _), inputs) = RUNS[kind](2, 20, 2, 5, 3)
    for tensor in (*inputs, *parameters):
        tensor.data = tensor.data.to(dtype)
    leaves = [*inputs, *parameters]
    first, again = (
        torch.autograd.grad(run(*inputs)[0].sum(), leaves, create_graph=create_graph)
        for create_graph in (False, True)
    )
    assert all(torch.equal(a, b) and b.requires_grad for a, b in zip(first, again, strict=True))


def test_higher_derivatives_pass_through_inputs_that_depend_on_each_other():
    torch.manual_seed(0)
    seed, results = randn(4, 2, 3), []
    ours, theirs = pair(3, 3, 2, dtype=torch.float64)
    for net in (ours, theirs):
        output, h_n = net(seed.sin(), seed[:2].tanh())
        total = output.sum() + h_n.square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(total, seed, create_graph=True)
            total = gradient.square().sum()
        results.append(torch.autograd.grad(total, [seed, *net.parameters()]))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


def test_a_second_derivative_needs_no_gradient_of_weights_that_were_frozen_after_the_forward_pass():
    torch.manual_seed(0)
    x, results = randn(4, 2, 3), []
    for net in pair(3, 4, dtype=torch.float64):
        output, _ = net(x)
        net.requires_grad_(False)
        (gradient,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    torch.testing.assert_close(*results)


# ------------------------------------------------------------------------------- transforms, traces and tangents


def networks():
    """Fused, and torch's, in float64."""
    torch.manual_seed(0)
    ours, theirs = (
        build_model("seq2seq", input_length=5, horizon=3, hidden_size=4, layers=2, gru=gru).double()
        for gru in ("fused", "torch")
    )
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def functions(kind):
    """Two functions of x, ours and torch's, with the modules behind them, and an x."""
    if kind == "network":
        return [(net, net) for net in networks()], torch.randn(3, 5, 1, dtype=torch.float64)
    torch.manual_seed(0)
    nets = pair(2, 4, 2, dtype=torch.float64)
    return [(lambda x, net=net: net(x)[0], net) for net in nets], torch.randn(5, 3, 2, dtype=torch.float64)


def by_weights(net, x):
    """The derivatives of a module's first output by its parameters, by functional_call."""

    def total(parameters):
        output = func.functional_call(net, parameters, (x,))
        return (output if isinstance(output, torch.Tensor) else output[0]).square().sum()

    return list(func.grad(total)(dict(net.named_parameters())).values())


TRANSFORMS = {
    "func.grad": lambda run, net, x: func.grad(lambda q: run(q).sum())(x),
    "func.grad of func.grad": lambda run, net, x: func.grad(
        lambda q: func.grad(lambda p: run(p).sum())(q).square().sum()
    )(x),
    "func.jacrev": lambda run, net, x: func.jacrev(run)(x),
    "func.jacfwd": lambda run, net, x: func.jacfwd(run)(x),
    "func.hessian": lambda run, net, x: func.hessian(lambda q: run(q).sum())(x),
    "func.vjp": lambda run, net, x: func.vjp(run, x)[1](torch.ones_like(run(x))),
    "func.jvp": lambda run, net, x: func.jvp(run, (x,), (x.cos(),)),
    "func.functional_call": lambda run, net, x: by_weights(net, x),
    "functional.jacobian": lambda run, net, x: functional.jacobian(run, x),
    "functional.jacobian, vectorized": lambda run, net, x: functional.jacobian(run, x, vectorize=True),
    "functional.hessian": lambda run, net, x: functional.hessian(lambda q: run(q).sum(), x),
    "functional.hessian, vectorized": lambda run, net, x: functional.hessian(
        lambda q: run(q).sum(), x, vectorize=True
    ),
    "functional.jvp": lambda run, net, x: functional.jvp(run, x, x.cos()),
    "functional.hvp": lambda run, net, x: functional.hvp(lambda q: run(q).sum(), x, x.cos()),
    "make_fx": lambda run, net, x: make_fx(lambda q: run(q))(torch.zeros_like(x))(x),
    "checkpoint": lambda run, net, x: functional.hessian(lambda q: checkpoint(run, q, use_reentrant=False).sum(), x),
}


@pytest.mark.parametrize("kind", ["gru", "network"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_gives_torchs_numbers(kind, transform):
    runs, x = functions(kind)
    mine, other = (TRANSFORMS[transform](run, net, x) for run, net in runs)
    torch.testing.assert_close(mine, other, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("kind", ["gru", "network"])
def test_vmap_over_inputs_and_over_weights_gives_the_numbers_of_single_calls(kind):
    ((run, net), _), x = functions(kind)
    xs = torch.stack([x, x.cos()])
    torch.testing.assert_close(func.vmap(run)(xs), torch.stack([run(x), run(x.cos())]))
    stacked = {name: torch.stack([value, value.sin()]) for name, value in net.named_parameters()}
    found = func.vmap(lambda parameters: func.functional_call(net, parameters, (x,)))(stacked)
    expected = func.functional_call(net, {name: value[1] for name, value in stacked.items()}, (x,))
    for mine, other in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
        torch.testing.assert_close(mine[1], other)


def tangent(call, tensors, moving):
    """Forward-mode derivative of a call on these tensors, of which one has a tangent."""
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(tensor.detach(), tensor.detach().cos()) if name == moving else tensor
            for name, tensor in tensors.items()
        }
        return [forward_ad.unpack_dual(output).tangent for output in call(duals)]


@pytest.mark.parametrize("kind", ["gru", "network"])
def test_every_tangent_reaches_the_outputs(kind):
    ((_, ours), (_, theirs)), x = functions(kind)
    inputs = {"x": x, "h": torch.randn(2, 3, 4, dtype=torch.float64)} if kind == "gru" else {"x": x}
    tensors = {**inputs, **dict(ours.named_parameters())}

    def call(net, duals):
        parameters = {name: duals[name] for name, _ in net.named_parameters()}
        outputs = func.functional_call(net, parameters, tuple(duals[name] for name in inputs))
        return outputs if isinstance(outputs, tuple) else (outputs,)

    for moving in tensors:
        mine, other = (tangent(partial(call, net), tensors, moving) for net in (ours, theirs))
        assert mine[0].any()
        torch.testing.assert_close(mine, other, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("kind", RUNS)
def test_a_tangent_of_the_incoming_gradient_reaches_the_gradients(kind):
    torch.manual_seed(0)
    runs, inputs = RUNS[kind](2, 4, 2, 5, 3)
    outputs = [run(*inputs)[0] for run, _ in runs]
    incoming, results = {"gradient": torch.randn(outputs[0].shape, dtype=torch.float64)}, []
    for output, (_, parameters) in zip(outputs, runs, strict=True):

        def gradients(duals, output=output, leaves=(*inputs, *parameters)):
            return torch.autograd.grad(output, leaves, duals["gradient"])

        results.append(tangent(gradients, incoming, "gradient"))
    torch.testing.assert_close(*results, **TOLERANCE[torch.float64])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_saved_trace_forecasts_any_batch():
    ours, theirs = networks()
    x, file = torch.randn(3, 5, 1, dtype=torch.float64), io.BytesIO()
    torch.jit.save(torch.jit.trace(ours, x[:2]), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), theirs(x))


def test_an_input_or_parameter_without_data_gives_a_forecast_without_data():
    (net, _), x = networks(), torch.randn(3, 5, 1, dtype=torch.float64)
    tensors = {"x": x, **dict(net.named_parameters())}
    for name in tensors:
        fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(tensors[name].detach())
        x, *parameters = (fake if name == other else tensor for other, tensor in tensors.items())
        found = func.functional_call(net, dict(zip(list(tensors)[1:], parameters, strict=True)), (x,))
        assert isinstance(found, FakeTensor), name
        assert found.shape == (3, 3, 1)


def row_function(formula, which):
    """One of the two results of a formula, as a function of an array."""

    @partial(row_loop, overrun=False)
    def loop(rows, offsets, numbers):
        rows[1].store(offsets[0], formula(rows[0].load(offsets[0]))[which])

    @njit
    def fill(x, out):
        loop((pointer(x, 0), pointer(out, 0)), (0,), (), x.size)

    def call(x):
        out = np.empty_like(x)
        fill(x, out)
        return out

    return call


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("formula", "which", "exact", "ends"),
    [
        (_tanh, 0, np.tanh, (-1, 1)),
        (_tanh, 1, lambda x: 1 / np.cosh(x) ** 2, (0, 0)),
        (_sigmoid, 0, lambda x: 1 / (1 + np.exp(-x)), (0, 1)),
        (_sigmoid, 1, lambda x: 1 / (1 + np.exp(x)), (1, 0)),
    ],
)
def test_gates_and_their_complements_have_a_small_relative_error(formula, which, exact, ends, dtype):
    call, eps = row_function(formula, which), np.finfo(dtype).eps
    x = np.concatenate([np.linspace(-40, 40, 4001), np.linspace(-1, 1, 2001), np.logspace(-30, 1, 500)]).astype(dtype)
    found, expected = call(x), exact(x.astype(np.longdouble))
    assert found.dtype == dtype
    # An exponential's relative error is the rounding of what it is the exponential of.
    units = 4 if exact is np.tanh else 4 + 2 * np.abs(x)
    assert (np.abs(found - expected) <= units * eps * np.abs(expected)).all()
    np.testing.assert_allclose(call(np.array([-np.inf, np.inf, -1e30, 1e30], dtype)), 2 * ends, rtol=4 * eps)
    assert np.isnan(call(np.array([np.nan], dtype)))


def gradients_by_part(output, parameters, H):
    """The gradient by each parameter of a GRU, cut into those of r, z and n; those of others whole."""
    gradients = torch.autograd.grad(output.square().sum(), parameters)
    return [part.double() for gradient in gradients for part in gradient.split(H if len(gradient) == 3 * H else 99)]


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(
    ("part", "bias"),
    [(part, bias) for part, biases in enumerate([(-20, -12, -6, 6, 12, 20)] * 2 + [(-10, -5, 5, 10)])
     for bias in biases],
)  # fmt: skip
@pytest.mark.parametrize("H", [5, 35])
def test_nearly_saturated_units_keep_their_gradients_in_float32(kind, part, bias, H):
    torch.manual_seed(part)
    (ours, theirs), inputs = RUNS[kind](2, H, 1, 6, 3)
    (run, parameters), (their_run, their_parameters) = ours, theirs
    with torch.no_grad():
        for tensor in (parameters, their_parameters):
            next(t for t in tensor if t.shape == (3 * H,))[part * H :][:H] = bias
    expected = gradients_by_part(their_run(*inputs)[0], their_parameters, H)
    for tensor in (*inputs, *parameters):
        tensor.data = tensor.data.float()
    found = gradients_by_part(run(*inputs)[0], parameters, H)
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()
        assert other.norm() > 0


def test_large_and_undefined_inputs_do_what_they_do_in_torch():
    torch.manual_seed(0)
    ours, theirs = pair(2, 3, 2)
    x = torch.randn(5, 4, 2)
    x[1, 1], x[2, 2], x[0, 3] = torch.nan, torch.inf, 1e30
    torch.testing.assert_close(ours(x), theirs(x), equal_nan=True)
    assert ours(x)[0][:, 0].isfinite().all()


def test_the_same_graph_can_be_walked_twice():
    torch.manual_seed(0)
    net, x = FusedGRU(2, 3, 2), torch.randn(5, 4, 2)
    loss = net(x)[0].square().sum()
    first = torch.autograd.grad(loss, net.parameters(), retain_graph=True)
    second = torch.autograd.grad(loss, net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_results_are_never_overwritten_by_later_calls():
    torch.manual_seed(0)
    net = FusedGRU(2, 3)
    inputs = [torch.randn(5, 4, 2) for _ in range(6)]
    with torch.no_grad():
        held = [net(x) for x in inputs]
    graphs = [net(x)[0].square().sum() for x in inputs]
    gradients = [torch.autograd.grad(loss, net.parameters()) for loss in reversed(graphs)][::-1]
    for x, results, found in zip(inputs, held, gradients, strict=True):
        output, h_n = net(x)
        assert torch.equal(results[0], output)
        assert torch.equal(results[1], h_n)
        expected = torch.autograd.grad(output.square().sum(), net.parameters())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_gradient_that_comes_in_is_left_as_it_was():
    torch.manual_seed(0)
    output, h_n = FusedGRU(2, 3)(torch.randn(5, 4, 2))
    cotangents = torch.randn_like(output), torch.randn_like(h_n)
    before = [cotangent.clone() for cotangent in cotangents]
    torch.autograd.backward([output, h_n], cotangents)
    assert all(torch.equal(a, b) for a, b in zip(before, cotangents, strict=True))


@pytest.mark.parametrize("changed", ["weight", "output"])
def test_a_change_in_place_before_the_way_back_is_noticed(changed):
    net = FusedGRU(2, 3)
    output, _ = net(torch.randn(5, 4, 2))
    loss = output.square().sum()
    with torch.no_grad():
        (net.weight_hh_l0 if changed == "weight" else output).add_(1)
    with pytest.raises(RuntimeError, match=r"modified (by an )?inplace"):
        loss.backward()


def test_an_output_is_changed_in_place_by_way_of_a_clone_or_not_at_all():
    torch.manual_seed(0)
    net, x = FusedGRU(2, 3), torch.randn(5, 4, 2)
    with pytest.raises(RuntimeError, match="is being modified inplace"):
        net(x)[0].mul_(2)
    expected = torch.autograd.grad((2 * net(x)[0]).sum(), net.parameters())
    found = torch.autograd.grad(net(x)[0].clone().mul_(2).sum(), net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_denormal_numbers_are_flushed_where_torch_flushes_them():
    net = FusedGRU(1, 3)
    nn.init.zeros_(net.weight_hh_l0)
    nn.init.zeros_(net.bias_hh_l0)
    nn.init.zeros_(net.bias_ih_l0)
    x, h = torch.zeros(1, 2, 1), torch.zeros(1, 2, 3, requires_grad=True)
    (kept,) = torch.autograd.grad(net(x, h)[1], h, torch.full((1, 2, 3), 1.2e-38))  # times z = 1/2
    torch.set_flush_denormal(True)
    try:
        (flushed,) = torch.autograd.grad(net(x, h)[1], h, torch.full((1, 2, 3), 1.2e-38))
        flushed = flushed.view(torch.int32)
    finally:
        torch.set_flush_denormal(False)
    assert (kept > 0).all()
    assert (flushed == 0).all()


@pytest.mark.parametrize(
    ("options", "x"),
    [
        ({"bidirectional": True}, torch.randn(5, 4, 2)),
        ({"bias": False}, torch.randn(5, 4, 2)),
        ({"num_layers": 2, "dropout": 0.5}, torch.randn(5, 4, 2)),
        ({}, torch.randn(5, 2)),
        ({}, torch.randn(5, 0, 2)),
        ({}, pack_sequence([torch.randn(3, 2), torch.randn(1, 2)])),
        ({"dtype": torch.bfloat16}, torch.randn(5, 4, 2).bfloat16()),
    ],
)
def test_all_else_is_left_to_torch(options, x):
    ours, theirs = pair(2, 3, **{"dtype": torch.float32, **options})
    results = []
    for net in (ours, theirs):
        torch.manual_seed(0)
        results.append(net(x))
    for mine, other in zip(*results, strict=True):
        assert torch.equal(getattr(mine, "data", mine), getattr(other, "data", other))


def test_forecasts_may_be_changed_in_place():
    torch.manual_seed(0)
    decoder = DecoderRNN(2, 4, 1, 3, 2, "fused")
    value, hidden = torch.randn(3, 2), torch.randn(1, 3, 4)
    expected = torch.autograd.grad((2 * decoder.rollout(value, hidden, 5)).sum(), decoder.parameters())
    found = torch.autograd.grad(decoder.rollout(value, hidden, 5).mul_(2).sum(), decoder.parameters())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_decoder_of_another_dtype_is_left_to_torch():
    torch.manual_seed(0)
    ours, theirs = (DecoderRNN(1, 4, 1, 3, 1, gru).bfloat16() for gru in ("fused", "torch"))
    ours.load_state_dict(theirs.state_dict())
    value, hidden = torch.randn(2, 1).bfloat16(), torch.randn(1, 2, 4).bfloat16()
    assert torch.equal(ours.rollout(value, hidden, 3), theirs.rollout(value, hidden, 3))


def test_autocast_is_left_to_torch():
    torch.manual_seed(0)
    ours, theirs = (
        build_model("seq2seq", input_length=5, horizon=3, hidden_size=4, gru=gru) for gru in ("fused", "torch")
    )
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 5, 1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, expected = ours(x), theirs(x)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, expected)
    torch.testing.assert_close(ours(x), theirs(x))


def test_dropout_is_fused_in_evaluation():
    torch.manual_seed(0)
    ours, theirs = pair(2, 3, num_layers=2, dropout=0.5)
    x = torch.randn(5, 4, 2)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_without_any_place_for_a_cache_it_still_works(tmp_path):
    for package in (models, loss):
        folder = Path(package.__file__).parent
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    # Where nobody can make a folder, not even root:
    for name in ("models/__pycache__", "loss/kernels/__pycache__", "file"):
        (tmp_path / name).touch()
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment["HOME"] = str(tmp_path / "file" / "home")
    code = (
        "import torch; from models import gru_fused; print(gru_fused.FusedGRU(1, 2)(torch.zeros(3, 1, 1))[1].shape, "
        "gru_fused._step.stats.cache_path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "torch.Size([1, 1, 2]) None\n"
    assert "set NUMBA_CACHE_DIR to a folder that can be written to" in done.stderr


@pytest.mark.parametrize(
    ("x", "h", "message"),
    [
        (torch.zeros(5, 4, 3), None, "input.size(-1) must be equal to input_size. Expected 2, got 3"),
        (torch.zeros(5, 4, 2), torch.zeros(1, 5, 3), "Expected hidden size (1, 4, 3), got [1, 5, 3]"),
        (torch.zeros(5, 4, 2), torch.zeros(4, 3), "hx should also be 3-D but got 2-D tensor"),
    ],
)
def test_a_mistake_is_answered_by_torchs_sentence(x, h, message):
    with pytest.raises((RuntimeError, ValueError), match=re.escape(message)):
        FusedGRU(2, 3)(x, h)


class _Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _double_by_subclass(layer):
    layer.__class__ = _Doubled


def _double_by_forward(layer):
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def _double_by_hook(layer):
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)


def _prune_then_change(layer):
    prune.random_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        layer.weight_orig.mul_(3)


def _double_gradient(layer):
    layer.register_full_backward_hook(lambda module, by_input, by_output: (2 * by_input[0],))


@pytest.mark.parametrize("change", [_double_by_subclass, _double_by_forward, _double_by_hook, _prune_then_change,
                                    _double_gradient])  # fmt: skip
@pytest.mark.parametrize("layer", ["fc", "out"])
def test_a_rollout_does_what_a_changed_head_does(change, layer):
    results = []
    for gru in ("fused", "torch"):
        torch.manual_seed(3)
        decoder = DecoderRNN(2, 5, 2, 4, 2, gru).double()
        change(getattr(decoder, layer))
        value, hidden = randn(3, 2), randn(2, 3, 5)
        forecasts = decoder.rollout(value, hidden, 4)
        results.append((forecasts, *torch.autograd.grad(forecasts.square().sum(), (value, hidden))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


class _WithAHeadOfItsOwn(DecoderRNN):
    def _head(self, states):
        return torch.nn.functional.softplus(super()._head(states))


@pytest.mark.parametrize("gru", ["fused", "torch", "written-out"])
def test_a_rollout_has_the_head_of_a_subclass(gru):
    decoder = _WithAHeadOfItsOwn(2, 5, 2, 4, 2, gru).double()
    value, hidden = randn(3, 2), randn(2, 3, 5)
    forecasts = decoder.rollout(value, hidden, 4)
    for forecast in forecasts.unbind(1):
        value, hidden = decoder(value.unsqueeze(1), hidden)
        torch.testing.assert_close(forecast, value := value.squeeze(1))


def test_a_signal_in_the_middle_of_a_training_is_never_lost():
    class Arrived(Exception):  # noqa: N818
        """The signal's handler has run."""

    def arrive(signum, frame):
        raise Arrived

    def train(steps, signal_after=0.0):
        signal.setitimer(signal.ITIMER_REAL, signal_after)
        for _ in range(steps):
            net(x)[0].sum().backward()

    net, x = FusedGRU(1, 2, 2), torch.randn(3, 2, 1)
    train(10)
    before = signal.signal(signal.SIGALRM, arrive)
    gc.disable()  # Hypothesis has a callback of the collector, which loses signals too
    try:
        for delay in np.linspace(1e-4, 4e-3, 400):
            with pytest.raises(Arrived):  # the timer starts in here: on a busy machine the signal may come at once
                train(1000, delay)
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_memory_is_used_again_once_no_tensor_is_on_it():
    net, x = FusedGRU(3, 19), torch.randn(5, 7, 3)
    first = net(x)[0]
    values, address, part = first.detach().clone(), first.data_ptr(), first[2:].detach()
    second = net(2 * x)[0]
    assert torch.equal(first, values)
    del first
    third = net(3 * x)[0]
    assert len({address, second.data_ptr(), third.data_ptr()}) == 3
    assert torch.equal(part, values[2:])
    del part
    assert net(x)[0].data_ptr() == address
