"""The gated recurrent unit (Cho et al. 2014) written out, with torch's conventions and parameter names.

One step makes the new state h' of the input x and the state h; ``*`` multiplies elementwise::

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)         reset gate: how much of h the candidate sees
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)         update gate: how much of h stays
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))      candidate
    h' = (1 - z) * n + z * h

``weight_ih``, ``(3H, input_size)``, is W_ir, W_iz and W_in, one below the other, ``weight_hh``, ``(3H, H)``, is
W_hr, W_hz and W_hn, and so are the biases ``bias_ih`` and ``bias_hh``, each ``(3H,)``.

Layer 0 reads the inputs, layer k + 1 the states of layer k. A backward direction, with weights of its own
(``weight_ih_l0_reverse``, ...), reads the sequence from its end, and the states of both stand side by side::

    forward     h_t = cell(x_t, h_(t-1)),    t = 1, ..., L
    backward    g_t = cell(x_t, g_(t+1)),    t = L, ..., 1
    output      y_t = [h_t, g_t]
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

__all__ = ["GRU", "gru", "gru_cell", "rollout_by_steps"]

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # of one layer and direction, as in PARAMETERS


def _new_state(from_input: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None) -> Tensor:
    """The equations: h' of ``W_i x + b_i``, ``(..., 3H)``, and h, ``(..., H)``."""
    r_x, z_x, n_x = from_input.chunk(3, dim=-1)
    r_h, z_h, n_h = F.linear(h, weight_hh, bias_hh).chunk(3, dim=-1)
    r = torch.sigmoid(r_x + r_h)
    z = torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + r * n_h)
    return (1 - z) * n + z * h


def _all_states(
    x: Tensor, batch_sizes: Sequence[int], h: Tensor, weights: Weights, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The states of one layer in one direction, after every step, and after the last one of each sequence.

    Args:
        x: Inputs, ``(sum of batch_sizes, input_size)``: step after step, those of all sequences that are so long.
        batch_sizes: How many sequences have a step t, for each t; longer sequences stand before shorter ones.
        h: State before the first step, ``(B, H)``.
        weights: Of this layer and direction.
        reverse: Go from the end to the beginning.
    """
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    # The inputs' products wait for no state: one product for all steps.
    from_inputs = F.linear(x, weight_ih, bias_ih).split(batch_sizes)
    states = list(from_inputs)
    for t in reversed(range(len(states))) if reverse else range(len(states)):
        size = batch_sizes[t]
        states[t] = _new_state(from_inputs[t], h[:size], weight_hh, bias_hh)
        h = torch.cat([states[t], h[size:]])  # sequences that have ended, or not yet begun, keep their state
    return torch.cat(states), h


def gru_cell(input: Tensor, parameters: Mapping[str, Tensor], h: Tensor | None = None) -> Tensor:
    """One step of one layer, equal to ``torch.nn.GRUCell``.

    Args:
        input: x, ``(B, input_size)`` or ``(input_size,)``, floating point.
        parameters: ``weight_ih``, ``weight_hh`` and, if there are biases, ``bias_ih`` and ``bias_hh``, as in
            ``dict(cell.named_parameters())`` of a ``GRUCell``; of the input's dtype and device.
        h: State, ``(B, H)`` or ``(H,)``; zeros if not given.

    Returns:
        The new state h', shaped like ``h``.

    Raises:
        TypeError: If something is no tensor, or the input is not floating point.
        ValueError: If shapes, dtypes or devices do not fit, or a parameter is missing or unknown.
    """
    _check_input(input, {1: "(input_size,)", 2: "(batch, input_size)"})
    (weights,) = _weights(parameters, [_kinds(_has_bias(parameters))], 1, input)
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    h = _state("h", h, (*input.shape[:-1], weight_hh.shape[1]), input)
    return _new_state(F.linear(input, weight_ih, bias_ih), h, weight_hh, bias_hh)


def gru(
    input: Tensor | PackedSequence,
    parameters: Mapping[str, Tensor],
    h_0: Tensor | None = None,
    *,
    batch_first: bool = False,
    dropout: float = 0.0,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """A GRU over whole sequences, equal to ``torch.nn.GRU``.

    The names of the parameters say how many layers K and directions D there are, and whether there are biases.

    Args:
        input: ``(L, B, input_size)``; or ``(B, L, input_size)`` with ``batch_first``; or ``(L, input_size)``, one
            sequence; or a ``PackedSequence`` of sequences of different lengths. Floating point.
        parameters: ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``, ``weight_ih_l0_reverse``, ...
            as in ``dict(net.named_parameters())`` of an ``nn.GRU``; of the input's dtype and device.
        h_0: State of every layer and direction before its first step, ``(K * D, B, H)``, or ``(K * D, H)`` for one
            sequence; zeros if not given.
        batch_first: The batch is the first axis of input and output. It never is that of the states.
        dropout: Probability with which a number on its way from one layer to the next becomes zero; the others are
            divided by ``1 - dropout``.

    Returns:
        ``output``, the last layer's states at every step, laid out like the input, ``D * H`` numbers each; and
        ``h_n``, the state of every layer and direction after its last step, shaped like ``h_0``, in the order
        layer 0 forward, layer 0 backward, layer 1 forward, ...

    Raises:
        TypeError: If something is no tensor, or the input is not floating point.
        ValueError: If shapes, dtypes or devices do not fit, or a parameter is missing or unknown.
    """
    x, batch_sizes, order, order_back = _pack(input, batch_first)
    layers, directions, bias = _layout(parameters)
    cells = _weights(parameters, _names(layers, directions, bias), directions, x)
    states_shape = (len(cells), batch_sizes[0], cells[0][1].shape[1])
    single = not isinstance(input, PackedSequence) and input.dim() == 2
    given_shape = states_shape[::2] if single else states_shape
    h_0 = _in_order(_state("h_0", h_0, given_shape, x).reshape(states_shape), order)
    h_n: list[Tensor] = []
    for layer in range(layers):
        if layer > 0:
            x = F.dropout(x, dropout)
        outputs = []
        for reverse in (False, True)[:directions]:
            cell = len(h_n)
            states, last = _all_states(x, batch_sizes, h_0[cell], cells[cell], reverse)
            outputs.append(states)
            h_n.append(last)
        x = torch.cat(outputs, dim=1)
    return _unpack(x, input, batch_first), _in_order(torch.stack(h_n), order_back).reshape(given_shape)


def rollout_by_steps(
    cell: Callable[..., Tensor],
    layers: Sequence[Sequence[Tensor]],
    head: Callable[[Tensor], Tensor],
    value: Tensor,
    hidden: Tensor,
    steps: int,
) -> Tensor:
    """Forecast freely, one cell after the other: each step reads the forecast of the step before.

    Args:
        cell: ``torch.gru_cell`` or `GRU.cell`. The bare cell gives the GRU's numbers without the bookkeeping of a
            whole GRU call at every step.
        layers: The weights of each layer, ``all_weights`` of a GRU.
        head: From the last layer's state, ``(B, H)``, to the forecast, ``(B, d)``.
        value: Input of the first step, ``(B, d)``.
        hidden: State before the first step, ``(K, B, H)``.
        steps: Length of the forecast.

    Returns:
        Forecasts, ``(B, steps, d)``.
    """
    states, forecasts = list(hidden.unbind()), []
    for _ in range(steps):
        for layer, weights in enumerate(layers):
            value = states[layer] = cell(value, states[layer], *weights)
        value = head(value)
        forecasts.append(value)
    return torch.stack(forecasts, dim=1)


class GRU(nn.GRU):
    """`gru` as a module: an ``nn.GRU`` whose forward pass is the one written out here.

    Arguments, parameters and their initial values (uniform between -1 / sqrt(H) and 1 / sqrt(H)) are those of
    ``nn.GRU``: the same seed gives the same weights, and each loads the other's ``state_dict``.
    """

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """See `gru`; dropout acts in training only."""
        names = chain.from_iterable(_names(self.num_layers, 1 + self.bidirectional, self.bias))
        parameters = {name: getattr(self, name) for name in names}
        dropout = self.dropout if self.training else 0.0
        return gru(input, parameters, hx, batch_first=self.batch_first, dropout=dropout)

    @staticmethod
    def cell(input: Tensor, hx: Tensor, *weights: Tensor) -> Tensor:
        """`gru_cell` with the weights of one layer, an entry of ``all_weights``: the signature of torch.gru_cell."""
        return gru_cell(input, dict(zip(PARAMETERS, weights, strict=False)), hx)


# ------------------------------------------------------------------------------------------ layouts and names


def _pack(
    input: Tensor | PackedSequence, batch_first: bool
) -> tuple[Tensor, list[int], Tensor | None, Tensor | None]:
    """Data, batch sizes and orders, as of a packed sequence; of equally long ones, a step has the whole batch."""
    if isinstance(input, PackedSequence):
        _check_input(input.data, {2: "(sum of lengths, input_size) inside a packed sequence"})
        return input.data, input.batch_sizes.tolist(), input.sorted_indices, input.unsorted_indices
    _check_input(input, {2: "(L, input_size)", 3: "(B, L, input_size)" if batch_first else "(L, B, input_size)"})
    x = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if batch_first else input
    if len(x) == 0:
        raise ValueError(f"input must have at least one step, got shape {tuple(input.shape)}.")
    return x.flatten(0, 1), [x.shape[1]] * len(x), None, None


def _unpack(output: Tensor, input: Tensor | PackedSequence, batch_first: bool) -> Tensor | PackedSequence:
    """The states of all steps, laid out like the input."""
    if isinstance(input, PackedSequence):
        return PackedSequence(output, *input[1:])
    if input.dim() == 2:
        return output
    if batch_first:
        return output.unflatten(0, input.shape[1::-1]).transpose(0, 1)
    return output.unflatten(0, input.shape[:2])


def _in_order(states: Tensor, order: Tensor | None) -> Tensor:
    """The batch of ``(K * D, B, H)`` in another order: packed sequences begin with the longest."""
    return states if order is None else states.index_select(1, order)


def _names(layers: int, directions: int, bias: bool) -> list[list[str]]:
    """The names of a GRU's parameters, cell by cell in the order of h_n."""
    endings = [f"_l{layer}{end}" for layer in range(layers) for end in ("", "_reverse")[:directions]]
    return [[kind + ending for kind in _kinds(bias)] for ending in endings]


def _kinds(bias: bool) -> tuple[str, ...]:
    return PARAMETERS if bias else PARAMETERS[:2]


def _layout(names: Iterable[str]) -> tuple[int, int, bool]:
    """Layers, directions, and whether there are biases."""
    numbers = [int(found[1]) for name in names if (found := re.search(r"_l(\d+)", name))]
    directions = 2 if any(name.endswith("_reverse") for name in names) else 1
    return max(numbers, default=0) + 1, directions, _has_bias(names)


def _has_bias(names: Iterable[str]) -> bool:
    return any(name.startswith("bias") for name in names)


# ----------------------------------------------------------------------------------------------------- checks


def _check_input(input: Tensor, shapes: Mapping[int, str]) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a tensor, got {type(input).__name__}.")
    if not input.is_floating_point():
        raise TypeError(f"input must be floating point, got {input.dtype}.")
    if input.dim() not in shapes:
        raise ValueError(f"input must have shape {' or '.join(shapes.values())}, got {tuple(input.shape)}.")


def _weights(
    parameters: Mapping[str, Tensor], names: Sequence[Sequence[str]], directions: int, input: Tensor
) -> list[Weights]:
    """The parameters of these names, cell by cell: those of the first layer read the input."""
    known = list(chain.from_iterable(names))
    for name in (*known, *parameters):
        if name not in parameters or name not in known:
            found = "lack" if name in known else "have"
            raise ValueError(f"parameters must hold {', '.join(known)} and nothing else; these {found} {name}.")
    H = len(parameters[names[0][1]]) // 3
    for cell, its_names in enumerate(names):
        input_size = input.shape[-1] if cell < directions else directions * H
        for name, shape in zip(its_names, ((3 * H, input_size), (3 * H, H), (3 * H,), (3 * H,)), strict=False):
            _check_tensor(name, parameters[name], shape, input)
    return [(*(parameters[name] for name in its_names), None, None)[:4] for its_names in names]


def _state(name: str, state: Tensor | None, shape: tuple[int, ...], input: Tensor) -> Tensor:
    if state is None:
        return input.new_zeros(shape)
    _check_tensor(name, state, shape, input)
    return state


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], input: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}.")
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}.")
    for attribute in ("dtype", "device"):
        its, expected = getattr(tensor, attribute), getattr(input, attribute)
        if its != expected:
            raise ValueError(f"{name} must have the {attribute} of the input, {expected}, got {its}.")
