"""The recurrences of `Net_GRU` as one autograd Function each: the numbers of `models/gru.py` in less time.

autograd makes a dozen small operations of every step, and remembers all of them. Here a step is its matrix products
and one loop over the gates, and the way back through time is written by hand. With the letters of `models/gru.py`,
``q = W_hn h + b_hn``, and da for the derivative of the loss by what gate a has inside its sigmoid or tanh::

    dn = dh' (1 - z) (1 - n^2)          dh = dh' z + W_hr^T dr + W_hz^T dz + W_hn^T dq
    dr = dn q r (1 - r)                 dx = W_ir^T dr + W_iz^T dz + W_in^T dn
    dz = dh' (h - n) z (1 - z)
    dq = dn r

The derivatives by the weights wait for no step: each is one product over many steps, such as sum_t d_t h_(t-1)^T.
The forward pass keeps the factors of dn, dr and dz, for it has z, 1 - z and 1 - n^2 to a small relative error each:
1 - z of a z that is rounded to 1 would lose the gradient of a nearly saturated unit.

autograd does not see these operations. Where the gradient is to be differentiated in its turn, with
``create_graph=True``, autograd therefore also differentiates the same recurrence in operations of torch, and the
gradient gets that graph: its derivatives, of all orders, are those of ``nn.GRU``.
"""

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial, wraps
from itertools import chain

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from loss.kernels.jit import jit
from loss.kernels.simd import Vector, exp2_minus_abs, pointer, row_loop, where_positive

from .gru import GRU, rollout_by_steps

__all__ = ["FusedGRU", "rollout"]


# ---------------------------------------------------------------------------------------------------- gates


def _sigmoid(x: Vector) -> tuple[Vector, Vector]:
    """sigmoid(x) and 1 - sigmoid(x)."""
    e = exp2_minus_abs(x * (1 / math.log(2)))
    large = 1.0 / (e + 1.0)
    small = e * large
    return where_positive(x, large, small), where_positive(x, small, large)


def _tanh(x: Vector) -> tuple[Vector, Vector]:
    """tanh(x) and 1 - tanh(x)^2."""
    above, below = _sigmoid(x * 2.0)
    # above - below has lost digits near 0.
    small = x.least(0.4).at_least(-0.4)
    near_0 = small * (small * small).polynomial(_tanh_series(6 if isinstance(x.scalar, ir.FloatType) else 13))
    return where_positive(x * x - 0.16, above - below, near_0), above * below * 4.0


@cache
def _tanh_series(degree: int) -> list[float]:
    """Taylor's series of tanh(x) / x in x^2, highest power first, from tanh' = 1 - tanh^2."""
    series = [1.0]
    for k in range(1, degree + 1):
        series.append(-sum(a * b for a, b in zip(series, reversed(series), strict=True)) / (2 * k + 1))
    return series[::-1]


@partial(row_loop, overrun=False)
def _unit(rows, offsets, numbers):
    """Step of one unit: its new state, and what the way back needs: r, z, dn / dh', dr / dn and dz / dh'."""
    from_input, from_state, bias, kept, state, new_state = rows
    to_r, to_z, to_n, to_q, _ = offsets  # r stands first, so to_r also leads to the unit's state
    r, not_r = _sigmoid(from_input.load(to_r) + from_state.load(to_r) + bias.load(to_r))
    z, not_z = _sigmoid(from_input.load(to_z) + from_state.load(to_z) + bias.load(to_z))
    q = from_state.load(to_n) + bias.load(to_q)
    n, slope = _tanh(from_input.load(to_n) + bias.load(to_n) + r * q)
    h = state.load(to_r)
    for offset, value in zip(offsets, (r, z, not_z * slope, q * r * not_r, (h - n) * z * not_z), strict=True):
        kept.store(offset, value)
    new_state.store(to_r, not_z * n + z * h)


@partial(row_loop, overrun=False)
def _unit_back(rows, offsets, numbers):
    """The same unit on the way back: dn, dr, dz and dq, and of dh the part dh' z."""
    kept, by_state, by_gate = rows
    to_r, to_z, to_n, to_q, _ = offsets
    r, z, dn_by_dh, dr_by_dn, dz_by_dh = map(kept.load, offsets)
    dh = by_state.load(to_r)
    dn = dh * dn_by_dh
    for offset, value in zip((to_r, to_z, to_n, to_q), (dn, dn * dr_by_dn, dh * dz_by_dh, dn * r), strict=True):
        by_gate.store(offset, value)
    by_state.store(to_r, dh * z)


@jit
def _step(t, from_input, from_state, biases, kept, states):
    """Make kept[t] and states[t + 1] of ``W_i x``, ``W_h h`` and states[t]."""
    batch, H = states.shape[1:]
    for b in range(batch):
        row = t * batch + b
        rows = (
            pointer(from_input, b * 3 * H),
            pointer(from_state, b * 3 * H),
            pointer(biases, 0),
            pointer(kept, row * 5 * H),
            pointer(states, row * H),
            pointer(states, (row + batch) * H),
        )
        _unit(rows, (0, H, 2 * H, 3 * H, 4 * H), (), H)


@jit
def _step_back(t, kept, dh, d):
    """Make d of dh', and of dh' the first part of dh, dh' z."""
    batch, H = dh.shape
    for b in range(batch):
        rows = pointer(kept, (t * batch + b) * 5 * H), pointer(dh, b * H), pointer(d, b * 4 * H)
        _unit_back(rows, (0, H, 2 * H, 3 * H, 4 * H), (), H)


# -------------------------------------------------------------------------------------------------- buffers


_BUFFERS_LOCK = threading.Lock()


@lru_cache(maxsize=16)
def _buffers(shape: tuple[int, ...], dtype: np.dtype) -> deque[tuple[np.ndarray, weakref.ref]]:
    """Buffers of one kind, each with its last view, which lives as long as a tensor on it."""
    return deque(maxlen=8)


def _borrow(like: Tensor, *shape: int) -> Tensor:
    """A tensor of undefined values, of the dtype of another one, on memory that is kept when the tensor is gone.

    malloc gives large blocks back to the system, and each 4 KB of the next one costs a page fault: of a training step
    with DILATE at batch 100 they take 3 to 7 % at 20 -> 20 steps and 25 % at 168 -> 24.
    """
    buffers = _buffers(shape, like.detach().numpy().dtype)
    with _BUFFERS_LOCK:
        for _ in range(len(buffers)):
            buffer, view = buffers.popleft()
            if view() is None:
                break
            buffers.append((buffer, view))
        else:
            buffer = like.new_empty(shape).numpy()  # torch's memory begins at a cache line, NumPy's need not
        # No destructor gives a buffer back: Python drops an exception of a signal handler that arrives in one.
        view = buffer.view()
        buffers.append((buffer, weakref.ref(view)))
        return torch.from_numpy(view)


# --------------------------------------------------------------------------------------------------- layers


class _Layer:
    """One layer going through time, step by step: ``states``, ``(T + 1, B, H)``, and ``kept``, ``(T, B, 5H)``.

    Args:
        inputs: x of every step, ``(T, B, d)``; it may be written as late as right before its step.
        h_0: State before the first step, ``(B, H)``.
        weights: W_i, W_h, b_i and b_h.
    """

    def __init__(self, inputs: Tensor, h_0: Tensor, weights: Sequence[Tensor]) -> None:
        steps, (batch, H) = len(inputs), h_0.shape
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        self.weight_ih, self.weight_hh = weight_ih.t(), weight_hh.t()
        self.from_input, self.from_state = _borrow(h_0, 2, batch, 3 * H)
        # Of r and z both biases stand in one sum; of n and q each has its own.
        biases = torch.cat([bias_ih[: 2 * H] + bias_hh[: 2 * H], bias_ih[2 * H :], bias_hh[2 * H :]])
        self.kept, self.states = _borrow(h_0, steps, batch, 5 * H), _borrow(h_0, steps + 1, batch, H)
        self.states[0] = h_0
        self.x, self.h = inputs.unbind(), self.states.unbind()
        buffers = (self.from_input, self.from_state, biases, self.kept, self.states)
        self.arrays = [buffer.numpy() for buffer in buffers]

    def step(self, t: int) -> Tensor:
        """Read x_t, and return the new state, ``(B, H)``."""
        torch.mm(self.x[t], self.weight_ih, out=self.from_input)
        torch.mm(self.h[t], self.weight_hh, out=self.from_state)
        _step(t, *self.arrays)
        return self.h[t + 1]


class _LayerBack:
    """The same layer on the way back, from the last step to the first.

    Args:
        dh: The derivative by the last state, ``(B, H)``. Add to it what comes in at each step; in the end it is the
            derivative by h_0.
        inputs: As in `_Layer`.
        kept: Of the finished `_Layer`.
        states: Of the finished `_Layer`.
        weights: As in `_Layer`.
    """

    STEPS_AT_ONCE = 4  # of the products over many steps: so few are still in the cache

    def __init__(self, dh: Tensor, inputs: Tensor, kept: Tensor, states: Tensor, weights: Sequence[Tensor]) -> None:
        batch, H = dh.shape
        self.dh, self.inputs, self.states = dh, inputs, states
        weight_ih, self.weight_hh, _, _ = weights
        # n, r, z, to fit d; by columns, because MKL multiplies few columns slowly when they lie in rows.
        self.weight_ih = weight_ih.roll(H, 0).t().contiguous().t()
        self.d = _borrow(dh, self.STEPS_AT_ONCE, batch, 4 * H)  # dn, dr, dz, dq
        self.d_input, self.d_state = self.d[..., : 3 * H].unbind(), self.d[..., H:].unbind()
        self.arrays = kept.numpy(), dh.numpy()
        self.d_arrays = list(self.d.numpy())
        self.by_weight_ih, self.by_weight_hh = dh.new_zeros(inputs.shape[2], 3 * H), dh.new_zeros(H, 3 * H)
        self.by_biases = dh.new_zeros(4 * H)

    def step(self, t: int) -> tuple[Tensor, Tensor]:
        """Turn dh' into dh, and return two matrices whose product is dx_t, ``(B, d)``."""
        k = t % self.STEPS_AT_ONCE
        _step_back(t, *self.arrays, self.d_arrays[k])
        self.dh.addmm_(self.d_state[k], self.weight_hh)
        if k == 0:
            self._gather(t)
        return self.d_input[k], self.weight_ih

    def _gather(self, first: int) -> None:
        """Add the steps from ``first`` on to the derivatives by the weights."""
        x, h = self.inputs[first:][: self.STEPS_AT_ONCE], self.states[first:-1][: self.STEPS_AT_ONCE]
        d, H = self.d[: len(x)].flatten(0, 1), self.dh.shape[1]
        self.by_weight_ih.addmm_(x.flatten(0, 1).t(), d[:, : 3 * H])
        self.by_weight_hh.addmm_(h.flatten(0, 1).t(), d[:, H:])
        self.by_biases += d.sum(0)

    def by_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The derivatives by W_i, W_h, b_i and b_h."""
        H = self.dh.shape[1]
        to_r_z_n = {"shifts": -H, "dims": -1}
        by_bias_ih, by_bias_hh = self.by_biases[: 3 * H].roll(**to_r_z_n), self.by_biases[H:]
        return self.by_weight_ih.roll(**to_r_z_n).t(), self.by_weight_hh.t(), by_bias_ih, by_bias_hh


# ------------------------------------------------------------------------------------------- differentiability


def _is_transformed(*tensors: Tensor) -> bool:
    """True where torch must see every operation, because it makes more of them than numbers.

    So it is under torch.compile, torch.jit.trace, torch.func, forward-mode derivatives, autograd's own vmap and
    dispatch modes (make_fx, FakeTensorMode), and for subclasses of Tensor.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._dispatch_tls_is_dispatch_key_included("VmapMode")
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
        or not {*map(type, tensors)} <= {Tensor, nn.Parameter}
    )


class _WithGraph(Function):
    """The value of the first tensor, with the graph of the second one, which differs from it by rounding alone."""

    @staticmethod
    def forward(ctx, value, twin):
        """The value."""
        return value.clone()

    @staticmethod
    def backward(ctx, by_value):
        """The derivative goes to the twin."""
        return None, by_value


def _differentiable(in_torch: Callable[..., Sequence[Tensor]]) -> Callable[[Callable], Callable]:
    """Let a backward pass that is written by hand be differentiated any number of times.

    Args:
        in_torch: The forward pass in operations of torch, with the same arguments, and its outputs as a tuple.

    Returns:
        A decorator of ``backward(ctx, tensors, kept, *by_outputs)``: ``tensors`` are those among the forward pass's
        arguments, which it saves first, and ``kept`` what it saves behind them. Its other arguments come before the
        tensors and are ``ctx.settings``.
    """

    def decorate(by_hand: Callable) -> Callable:
        @wraps(by_hand)
        def backward(ctx, *by_outputs):
            given = [g for g in by_outputs if g is not None]
            if not given:
                return (None,) * len(ctx.needs_input_grad)
            saved = ctx.saved_tensors  # once: torch.utils.checkpoint allows no second access
            count = len(ctx.needs_input_grad) - len(ctx.settings)
            tensors, kept = saved[:count], saved[count:]
            transformed = _is_transformed(*given)
            if not transformed and not torch.is_grad_enabled():
                return by_hand(ctx, tensors, kept, *by_outputs)
            twins = _gradients_in_torch(in_torch, ctx, tensors, by_outputs)
            if transformed:
                return twins
            with torch.no_grad():
                values = by_hand(ctx, tensors, kept, *by_outputs)
            pairs = zip(values, twins, strict=True)
            return tuple(None if twin is None else _WithGraph.apply(value, twin) for value, twin in pairs)

        return backward

    return decorate


def _gradients_in_torch(
    in_torch: Callable[..., Sequence[Tensor]], ctx, tensors: Sequence[Tensor], by_outputs: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradients that ``backward`` returns, made by autograd from a forward pass in operations of torch."""
    create_graph, wanted = torch.is_grad_enabled(), ctx.needs_input_grad
    with torch.enable_grad():
        # A view of each, so that the way back ends there even where one was made of another.
        arguments = [*ctx.settings, *(tensor.view_as(tensor) for tensor in tensors)]
        leaves = [argument for argument, its_wanted in zip(arguments, wanted, strict=True) if its_wanted]
        for leaf in leaves:
            if not leaf.requires_grad:  # any more
                leaf.requires_grad_()
        outputs = in_torch(*arguments)
    given = [(output, g) for output, g in zip(outputs, by_outputs, strict=True) if g is not None]
    outputs, cotangents = zip(*given, strict=True)
    gradients = iter(torch.autograd.grad(outputs, leaves, cotangents, create_graph=create_graph))
    return tuple(next(gradients) if its_wanted else None for its_wanted in wanted)


# ------------------------------------------------------------------------------------------------- functions


def _recurrence_in_torch(x: Tensor, h_0: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """`_Recurrence` in operations of torch."""
    options = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": False}
    states, h_n = torch.gru(x, h_0[None], weights, **options, bidirectional=False, batch_first=False)
    return states, h_n[0]


def _rollout_in_torch(steps: int, value: Tensor, hidden: Tensor, *weights: Tensor) -> tuple[Tensor]:
    """`_Rollout` in operations of torch."""
    (fc_weight, fc_bias, out_weight, out_bias), *layers = _by_fours(weights)

    def head(h: Tensor) -> Tensor:
        return F.linear(F.linear(h, fc_weight, fc_bias).relu(), out_weight, out_bias)

    return (rollout_by_steps(torch.gru_cell, layers, head, value, hidden, steps).transpose(0, 1),)


class _Recurrence(Function):
    """One layer over a whole sequence."""

    @staticmethod
    def forward(ctx, x, h_0, *weights):
        """``(T, B, d)``, ``(B, H)`` and the weights -> all states ``(T, B, H)``, and the last one."""
        layer = _Layer(x, h_0, weights)
        for t in range(len(x)):
            layer.step(t)
        ctx.settings = ()
        ctx.save_for_backward(x, h_0, *weights, layer.kept, layer.states)
        ctx.set_materialize_grads(False)
        return layer.states[1:], layer.states[-1].clone()

    @staticmethod
    @_differentiable(_recurrence_in_torch)
    def backward(ctx, tensors, kept, by_states, by_last):
        """Backpropagation through time."""
        (x, _, *weights), (table, states) = tensors, kept
        dh = torch.zeros_like(states[0]) if by_last is None else _own(by_last)
        layer = _LayerBack(dh, x, table, states, weights)
        by_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for t in reversed(range(len(x))):
            if by_states is not None:
                dh += by_states[t]
            factors = layer.step(t)
            if by_x is not None:
                torch.mm(*factors, out=by_x[t])
        return by_x, dh, *layer.by_weights()


class _Rollout(Function):
    """All layers of the decoder and its head, each forecast being the next input."""

    @staticmethod
    def forward(ctx, steps, value, hidden, *weights):
        """``(B, d)``, ``(K, B, H)``, and the weights of head and layers -> forecasts ``(steps, B, d)``."""
        (fc_weight, fc_bias, out_weight, out_bias), *layer_weights = _by_fours(weights)
        values = value.new_empty(steps + 1, *value.shape)
        values[0] = value
        layers, inputs = [], values[:-1]
        for h_0, its_weights in zip(hidden, layer_weights, strict=True):
            layers.append(_Layer(inputs, h_0, its_weights))
            inputs = layers[-1].states[1:]
        units = value.new_empty(steps, len(value), len(fc_bias))
        fc_weight, out_weight = fc_weight.t(), out_weight.t()
        for t, its_units, forecast in zip(range(steps), units.unbind(), values[1:].unbind(), strict=True):
            for layer in layers:
                h = layer.step(t)
            torch.addmm(fc_bias, h, fc_weight, out=its_units).relu_()
            torch.addmm(out_bias, its_units, out_weight, out=forecast)
        kept = chain.from_iterable((layer.kept, layer.states) for layer in layers)
        ctx.settings = (steps,)
        ctx.save_for_backward(value, hidden, *weights, values, units, *kept)
        return values[1:].clone()  # whoever scales forecasts in place must not reach what is saved here

    @staticmethod
    @_differentiable(_rollout_in_torch)
    def backward(ctx, tensors, kept, by_forecasts):
        """Backpropagation through time."""
        (_, _, *weights), (values, units, *tables) = tensors, kept
        (fc_weight, _, out_weight, _), *layer_weights = _by_fours(weights)
        layer_tables, states = tables[::2], tables[1::2]
        inputs = [values[:-1], *(its_states[1:] for its_states in states)]
        by_hidden = values.new_zeros(len(states), *states[0].shape[1:])
        layers = list(map(_LayerBack, by_hidden, inputs, layer_tables, states, layer_weights))
        active = (units > 0).to(units.dtype)
        by_forecasts, by_units = _own(by_forecasts), torch.empty_like(units)
        dx = torch.zeros_like(values[0])
        steps = zip(by_forecasts.unbind(), by_units.unbind(), active.unbind(), strict=True)
        for t, (dy, du, its_active) in reversed(list(enumerate(steps))):
            dy += dx
            # What comes down to a layer is a product, which its dh can add up in one go.
            factors = torch.mm(dy, out_weight, out=du).mul_(its_active), fc_weight
            for layer in reversed(layers):
                layer.dh.addmm_(*factors)
                factors = layer.step(t)
            dx = torch.mm(*factors)
        by_head = *_by_linear(by_units, inputs[-1]), *_by_linear(by_forecasts, units)
        return None, dx, by_hidden, *by_head, *chain(*(layer.by_weights() for layer in layers))


def _by_fours(weights: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [weights[first : first + 4] for first in range(0, len(weights), 4)]


def _own(derivative: Tensor) -> Tensor:
    """A copy to work on: what autograd hands over may be shared, or one number seen many times."""
    return derivative.clone(memory_format=torch.contiguous_format)


def _by_linear(by_output: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives by weight and bias of a linear map, over all steps at once."""
    return by_output.flatten(0, 1).t() @ input.flatten(0, 1), by_output.sum((0, 1))


# --------------------------------------------------------------------------------------------------- modules


class FusedGRU(nn.GRU):
    """``nn.GRU`` with the recurrence of this file where it has one (see `fuses`); ``nn.GRU`` does the rest.

    Inside of ``torch.func`` the written-out `GRU` does the rest, because ``nn.GRU`` has no ``vmap``. The output may
    not be changed in place while autograd records (it refuses): a clone may. Through ``.detach().numpy()``, which
    autograd does not see, a change before ``backward`` gives wrong gradients.
    """

    def fuses(self, *tensors: Tensor) -> bool:
        """True on the CPU, in float32 or float64, for one direction with biases and without dropout.

        False under autocast, whose other precision is unknown here, and where torch must see every operation: inside
        of ``torch.compile``, ``torch.jit.trace``, ``torch.func``, ``forward_ad.dual_level`` and dispatch modes, and
        for subclasses of Tensor.

        Args:
            tensors: What the recurrence reads beside the weights of this GRU.
        """
        if _is_transformed(*tensors, *chain(*self.all_weights)) or torch.is_autocast_enabled("cpu"):
            return False
        weight = self.weight_hh_l0
        plain = self.bias and not self.bidirectional and not (self.dropout and self.training)
        known = weight.is_cpu and weight.dtype in (torch.float32, torch.float64)
        alike = all(t.is_cpu and t.dtype == weight.dtype and t.numel() for t in tensors)
        return plain and known and alike and self._has_own_sizes()

    def _has_own_sizes(self) -> bool:
        """Whether all weights have the sizes that this GRU was made with, on which the row loops rely."""
        H, size = self.hidden_size, self.input_size
        sizes = [((3 * H, H if layer else size), (3 * H, H), (3 * H,), (3 * H,)) for layer in range(self.num_layers)]
        return [tuple(tuple(weight.shape) for weight in of_layer) for of_layer in self.all_weights] == sizes

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """As ``nn.GRU``: fused for a batch of sequences of one length."""
        batched = isinstance(input, Tensor) and input.dim() == 3 and (hx is None or hx.dim() == 3)
        if not batched or not self.fuses(input, *([] if hx is None else [hx])):
            in_func = torch._C._are_functorch_transforms_active() and not torch.is_autocast_enabled("cpu")
            return GRU.forward(self, input, hx) if in_func else super().forward(input, hx)
        x = input.transpose(0, 1) if self.batch_first else input
        hx = x.new_zeros(self.num_layers, x.shape[1], self.hidden_size) if hx is None else hx
        self.check_forward_args(input, hx, None)
        h_n = []
        for h_0, weights in zip(hx, self.all_weights, strict=True):
            x, last = _Recurrence.apply(x.contiguous(), h_0, *weights)
            h_n.append(last)
        return x.transpose(0, 1) if self.batch_first else x, torch.stack(h_n)


def rollout(gru: FusedGRU, fc: nn.Linear, out: nn.Linear, value: Tensor, hidden: Tensor, steps: int) -> Tensor:
    """Forecast freely: each step reads the forecast of the step before, ``out(relu(fc(h)))``.

    Args:
        gru: Its ``fuses(value, hidden, ...)`` must be true, with the head's weights and biases for the dots.
        fc: From the last layer's state to the head's units, with a bias.
        out: From there to the forecast, with a bias.
        value: Input of the first step, ``(B, d)``.
        hidden: State before the first step, ``(K, B, H)``.
        steps: Length of the forecast.

    Returns:
        Forecasts, ``(B, steps, d)``.
    """
    weights = (fc.weight, fc.bias, out.weight, out.bias, *chain(*gru.all_weights))
    return _Rollout.apply(steps, value, hidden, *weights).transpose(0, 1)
