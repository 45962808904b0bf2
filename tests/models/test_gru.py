"""The written-out GRU against torch's: values, gradients, layouts, random numbers, and its complaints."""

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from models.gru import GRU, gru, gru_cell

TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {"rtol": 1e-11, "atol": 1e-12}}
DTYPES = st.sampled_from([torch.float32, torch.float64])
SMALL = st.integers(1, 5)


def parameters_of(module):
    return dict(module.named_parameters())


def randn(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def assert_equal_with_gradients(ours, theirs, leaves, dtype):
    """Equal outputs, and equal gradients of a random combination of them by every leaf."""
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **TOLERANCE[dtype])
    cotangents = [torch.randn_like(other) for other in theirs]
    gradients = (torch.autograd.grad(results, leaves, cotangents) for results in (ours, theirs))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, **TOLERANCE[dtype])


@given(input_size=SMALL, hidden_size=SMALL, batch=st.sampled_from([None, 0, 1, 4]), bias=st.booleans(),
       with_state=st.booleans(), dtype=DTYPES, seed=st.integers(0, 99))  # fmt: skip
def test_cell_equals_torch_in_values_and_all_gradients(input_size, hidden_size, batch, bias, with_state, dtype, seed):
    torch.manual_seed(seed)
    cell = nn.GRUCell(input_size, hidden_size, bias, dtype=dtype)
    rows = () if batch is None else (batch,)
    x, h = randn(*rows, input_size, dtype=dtype), randn(*rows, hidden_size, dtype=dtype) if with_state else None
    leaves = [*cell.parameters(), x, *([h] if with_state else [])]
    assert_equal_with_gradients([gru_cell(x, parameters_of(cell), h)], [cell(x, h)], leaves, dtype)


@st.composite
def configurations(draw):
    return {
        "input_size": draw(SMALL),
        "hidden_size": draw(SMALL),
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.4])),
        "bidirectional": draw(st.booleans()),
    }


def both(config, dtype, seed):
    """torch's GRU and ours with one and the same set of parameters."""
    torch.manual_seed(seed)
    theirs = nn.GRU(**config, dtype=dtype)
    return theirs, lambda x, h: gru(
        x, parameters_of(theirs), h, batch_first=config["batch_first"], dropout=config["dropout"]
    )


def states_shape(config, *batch):
    return (config["num_layers"] * (1 + config["bidirectional"]), *batch, config["hidden_size"])


def at_seed(seed, call, *args):
    torch.manual_seed(seed)
    return call(*args)


@pytest.mark.filterwarnings("ignore:dropout option")
@given(config=configurations(), steps=st.integers(1, 6), batch=st.sampled_from([None, 0, 1, 4]),
       with_state=st.booleans(), dtype=DTYPES, seed=st.integers(0, 99))  # fmt: skip
def test_gru_equals_torch_in_values_and_all_gradients(config, steps, batch, with_state, dtype, seed):
    theirs, ours = both(config, dtype, seed)
    rows = () if batch is None else (batch,)
    leading = (*rows, steps) if config["batch_first"] else (steps, *rows)
    x = randn(*leading, config["input_size"], dtype=dtype)
    h = randn(*states_shape(config, *rows), dtype=dtype) if with_state else None
    leaves = [*theirs.parameters(), x, *([h] if with_state else [])]
    assert_equal_with_gradients(at_seed(seed, ours, x, h), at_seed(seed, theirs, x, h), leaves, dtype)


@pytest.mark.filterwarnings("ignore:dropout option")
@given(config=configurations(), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), with_state=st.booleans(),
       dtype=DTYPES, seed=st.integers(0, 99))  # fmt: skip
def test_packed_sequences_in_any_order_equal_torch_in_values_and_all_gradients(
    config, lengths, with_state, dtype, seed
):
    theirs, ours = both(config, dtype, seed)
    sequences = [randn(length, config["input_size"], dtype=dtype) for length in lengths]
    packed, packed_again = (pack_sequence(sequences, enforce_sorted=False) for _ in range(2))
    h = randn(*states_shape(config, len(lengths)), dtype=dtype) if with_state else None
    leaves = [*theirs.parameters(), *sequences, *([h] if with_state else [])]
    (mine, my_h_n), (other, other_h_n) = at_seed(seed, ours, packed, h), at_seed(seed, theirs, packed_again, h)
    assert isinstance(mine, PackedSequence)
    for part in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(mine, part), getattr(packed, part))
    assert_equal_with_gradients([mine.data, my_h_n], [other.data, other_h_n], leaves, dtype)


def test_padding_of_a_packed_batch_has_no_influence_in_either_direction():
    torch.manual_seed(0)
    net = GRU(3, 4, num_layers=2, bidirectional=True)
    padded, lengths = torch.randn(6, 3, 3), [2, 6, 3]
    output, h_n = net(pack_padded_sequence(padded, lengths, enforce_sorted=False))
    output, found = pad_packed_sequence(output)
    assert found.tolist() == lengths
    for b, length in enumerate(lengths):
        alone, h_alone = net(padded[:length, b])
        torch.testing.assert_close(output[:length, b], alone)
        torch.testing.assert_close(h_n[:, b], h_alone)


def test_a_sorted_packed_sequence_keeps_its_order():
    torch.manual_seed(0)
    theirs, net = nn.GRU(2, 3), GRU(2, 3)
    net.load_state_dict(theirs.state_dict())
    packed = pack_sequence([torch.randn(4, 2), torch.randn(4, 2), torch.randn(1, 2)])
    (mine, my_h_n), (other, other_h_n) = net(packed), theirs(packed)
    assert mine.sorted_indices is None
    torch.testing.assert_close(mine.data, other.data)
    torch.testing.assert_close(my_h_n, other_h_n)


def test_h_n_holds_the_ends_of_both_directions_of_the_last_layer():
    torch.manual_seed(0)
    output, h_n = GRU(2, 3, num_layers=2, bidirectional=True)(torch.randn(5, 4, 2))
    assert torch.equal(output[-1, :, :3], h_n[-2])
    assert torch.equal(output[0, :, 3:], h_n[-1])


def test_the_equations_by_hand():
    sigmoid, tanh = (lambda a: 1 / (1 + torch.tensor(-a).exp().item())), (lambda a: torch.tensor(a).tanh().item())
    x, h = 0.5, -0.3
    w_ih, w_hh, b_ih, b_hh = (0.1, 0.2, 0.3), (0.4, -0.5, 0.6), (0.7, 0.8, -0.9), (1.0, 1.1, 1.2)
    r = sigmoid(w_ih[0] * x + b_ih[0] + w_hh[0] * h + b_hh[0])
    z = sigmoid(w_ih[1] * x + b_ih[1] + w_hh[1] * h + b_hh[1])
    n = tanh(w_ih[2] * x + b_ih[2] + r * (w_hh[2] * h + b_hh[2]))
    parameters = {
        "weight_ih": torch.tensor(w_ih).unsqueeze(1),
        "weight_hh": torch.tensor(w_hh).unsqueeze(1),
        "bias_ih": torch.tensor(b_ih),
        "bias_hh": torch.tensor(b_hh),
    }
    found = gru_cell(torch.tensor([x]), parameters, torch.tensor([h]))
    assert found.item() == pytest.approx((1 - z) * n + z * h, rel=1e-6)


def test_gradcheck_of_first_and_second_derivatives():
    torch.manual_seed(0)
    net = nn.GRU(2, 3, num_layers=2, bidirectional=True, dtype=torch.float64)
    names, x, h = list(parameters_of(net)), randn(3, 2, 2), randn(4, 2, 3)

    def run(x, h, *tensors):
        return gru(x, dict(zip(names, tensors, strict=True)), h)

    inputs = (x, h, *net.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("config", [{}, {"num_layers": 3, "bidirectional": True, "bias": False}])
def test_the_same_seed_gives_the_weights_of_torch_and_state_dicts_are_exchanged(config):
    torch.manual_seed(3)
    theirs = nn.GRU(4, 5, **config)
    torch.manual_seed(3)
    ours = GRU(4, 5, **config)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    other = nn.GRU(4, 5, **config)
    other.load_state_dict(ours.state_dict())
    x = torch.randn(6, 2, 4)
    torch.testing.assert_close(other(x), ours(x))
    ours.load_state_dict(nn.GRU(4, 5, **config).state_dict())
    assert not torch.allclose(ours(x)[0], theirs(x)[0])


def test_the_module_drops_out_in_training_only():
    torch.manual_seed(0)
    net = GRU(2, 8, num_layers=2, dropout=0.5)
    x = torch.randn(4, 3, 2)
    assert not torch.equal(net(x)[0], net(x)[0])
    net.eval()
    assert torch.equal(net(x)[0], net(x)[0])
    torch.testing.assert_close(net(x), gru(x, parameters_of(net)))


def test_the_module_may_be_copied_and_reparametrised():
    torch.manual_seed(0)
    net = GRU(2, 3)
    x = torch.randn(4, 1, 2)
    torch.testing.assert_close(copy.deepcopy(net)(x), net(x))
    before = net(x)
    nn.utils.parametrizations.weight_norm(net, "weight_hh_l0")
    torch.testing.assert_close(net(x), before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_serves_any_batch_and_an_exported_program_the_batch_it_was_made_for():
    torch.manual_seed(0)
    net, x = GRU(2, 3, num_layers=2, bidirectional=True), torch.randn(5, 4, 2)
    torch.testing.assert_close(torch.jit.trace(net, x[:, :3])(x), net(x))
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_nan_stays_in_its_sequence():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2)
    x[1, 1] = torch.nan
    output, _ = GRU(2, 3)(x)
    assert output.isnan().any(2).nonzero().tolist() == [[1, 1], [2, 1], [3, 1]]


def without(name, ending="_l0"):
    parameters = parameters_of(nn.GRU(2, 3, num_layers=2))
    del parameters[name + ending]
    return parameters


PLAIN, X = parameters_of(nn.GRU(2, 3)), torch.zeros(5, 4, 2)
CELL = parameters_of(nn.GRUCell(2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gru([1.0], PLAIN), TypeError, "input must be a tensor, got list."),
        (lambda: gru(X.long(), PLAIN), TypeError, "input must be floating point, got torch.int64."),
        (lambda: gru(X[0, 0], PLAIN), ValueError, "must have shape (L, input_size) or (L, B, input_size), got (2,)."),
        (lambda: gru(X[0, 0], PLAIN, batch_first=True), ValueError, "or (B, L, input_size), got (2,)."),
        (lambda: gru(X[:0], PLAIN), ValueError, "input must have at least one step, got shape (0, 4, 2)."),
        (lambda: gru(X[:, :0], PLAIN, batch_first=True), ValueError, "at least one step, got shape (5, 0, 2)."),
        (
            lambda: gru(PackedSequence(torch.zeros(3), torch.tensor([2, 1])), PLAIN),
            ValueError,
            "input must have shape (sum of lengths, input_size) inside a packed sequence, got (3,).",
        ),
        (lambda: gru(X[..., :1], PLAIN), ValueError, "weight_ih_l0 must have shape (9, 1), got (9, 2)."),
        (
            lambda: gru(X, {**PLAIN, "bias_hh_l0": torch.zeros(6)}),
            ValueError,
            "bias_hh_l0 must have shape (9,), got (6,).",
        ),
        (lambda: gru(X, {}), ValueError, "must hold weight_ih_l0, weight_hh_l0 and nothing else; these lack"),
        (lambda: gru(X, without("weight_hh", "_l1")), ValueError, "and nothing else; these lack weight_hh_l1."),
        (lambda: gru(X, without("bias_ih")), ValueError, "and nothing else; these lack bias_ih_l0."),
        (lambda: gru(X, {**PLAIN, "weight_hr_l0": X}), ValueError, "and nothing else; these have weight_hr_l0."),
        (lambda: gru(X, {**PLAIN, "bias_hh_l0": [0.0] * 9}), TypeError, "bias_hh_l0 must be a tensor, got list."),
        (
            lambda: gru(X.double(), PLAIN),
            ValueError,
            "weight_ih_l0 must have the dtype of the input, torch.float64, got torch.float32.",
        ),
        (
            lambda: gru(X.to("meta"), PLAIN),
            ValueError,
            "weight_ih_l0 must have the device of the input, meta, got cpu.",
        ),
        (lambda: gru(X, PLAIN, torch.zeros(1, 5, 3)), ValueError, "h_0 must have shape (1, 4, 3), got (1, 5, 3)."),
        (lambda: gru(X[0], PLAIN, torch.zeros(1, 1, 3)), ValueError, "h_0 must have shape (1, 3), got (1, 1, 3)."),
        (
            lambda: gru(X, PLAIN, torch.zeros(1, 4, 3, dtype=torch.float64)),
            ValueError,
            "h_0 must have the dtype of the input, torch.float32, got torch.float64.",
        ),
        (lambda: gru_cell(X, CELL), ValueError, "(input_size,) or (batch, input_size), got (5, 4, 2)."),
        (lambda: gru_cell(X[0], PLAIN), ValueError, "these lack weight_ih."),
        (lambda: gru_cell(X[0], CELL, torch.zeros(3)), ValueError, "h must have shape (4, 3), got (3,)."),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(call, error, message):
    with pytest.raises(error, match=re.escape(message)) as raised:
        call()
    assert "\n" not in str(raised.value)
