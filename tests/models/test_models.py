import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from models import GRUS, MLP, MODELS, DecoderRNN, EncoderRNN, Net_GRU, build_model

RELEASED_SHAPES = {
    "encoder.gru.weight_ih_l0": (384, 1),
    "encoder.gru.weight_hh_l0": (384, 128),
    "encoder.gru.bias_ih_l0": (384,),
    "encoder.gru.bias_hh_l0": (384,),
    "decoder.gru.weight_ih_l0": (384, 1),
    "decoder.gru.weight_hh_l0": (384, 128),
    "decoder.gru.bias_ih_l0": (384,),
    "decoder.gru.bias_hh_l0": (384,),
    "decoder.fc.weight": (16, 128),
    "decoder.fc.bias": (16,),
    "decoder.out.weight": (1, 16),
    "decoder.out.bias": (1,),
}


def released_net(batch_size=100, gru="torch"):
    encoder = EncoderRNN(1, 128, 1, batch_size, gru)
    decoder = DecoderRNN(input_size=1, hidden_size=128, num_grulstm_layers=1, fc_units=16, output_size=1, gru=gru)
    return Net_GRU(encoder, decoder, target_length=20, device="cpu")


def gru_cells(gru):
    """The layers of an nn.GRU as separate nn.GRUCells with the same weights."""
    cells = []
    for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(gru.all_weights):
        cell = nn.GRUCell(gru.input_size if layer == 0 else gru.hidden_size, gru.hidden_size, dtype=w_ih.dtype)
        weights = {"weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh}
        cell.load_state_dict(weights)
        cells.append(cell)
    return cells


def advance(cells, value, states):
    for layer, cell in enumerate(cells):
        value = states[layer] = cell(value, states[layer])
    return value


def forecast_step_by_step(net, x, columns):
    """The released procedure: read the window value by value, then feed each forecast back."""
    cells = gru_cells(net.encoder.gru)
    states = [x.new_zeros(len(x), net.encoder.hidden_size) for _ in cells]
    for t in range(x.shape[1]):
        advance(cells, x[:, t], states)
    cells, value, forecasts = gru_cells(net.decoder.gru), x[:, -1, columns], []
    for _ in range(net.target_length):
        value = advance(cells, value, states)
        value = net.decoder.out(torch.relu(net.decoder.fc(value)))
        forecasts.append(value)
    return torch.stack(forecasts, dim=1)


@pytest.mark.parametrize("gru", GRUS)
def test_parameter_names_and_shapes_are_the_released_ones(gru):
    state = released_net(gru=gru).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == RELEASED_SHAPES
    assert list(state) == list(RELEASED_SHAPES)


def test_build_model_defaults_are_the_released_network():
    net = build_model("seq2seq", input_length=20, horizon=20)
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == RELEASED_SHAPES


def test_a_state_dict_of_released_shapes_loads_and_changes_the_forecast():
    torch.manual_seed(1)
    weights = {name: torch.randn(shape) * 0.1 for name, shape in RELEASED_SHAPES.items()}
    net = released_net()
    assert net.load_state_dict(weights, strict=True).missing_keys == []
    x = torch.randn(3, 20, 1)
    torch.testing.assert_close(net(x), forecast_step_by_step(net, x, [0]))
    torch.testing.assert_close(net.decoder.fc.weight, weights["decoder.fc.weight"])


@given(
    batch=st.integers(1, 5),
    length=st.integers(1, 7),
    horizon=st.integers(1, 6),
    sizes=st.sampled_from([(1, 1), (3, 3), (3, 1), (4, 2)]),
    layers=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    gru=st.sampled_from(list(GRUS)),
)
@settings(max_examples=30, deadline=None)
def test_seq2seq_equals_a_loop_of_gru_cells(batch, length, horizon, sizes, layers, dtype, gru):
    torch.manual_seed(batch + 10 * length)
    input_size, output_size = sizes
    net = build_model(
        "seq2seq",
        input_length=length,
        horizon=horizon,
        input_size=input_size,
        output_size=output_size,
        hidden_size=8,
        layers=layers,
        gru=gru,
    ).to(dtype)
    x = torch.randn(batch, length, input_size, dtype=dtype)
    forecast = net(x)
    assert forecast.shape == (batch, horizon, output_size)
    assert forecast.dtype == dtype
    expected = forecast_step_by_step(net, x, list(range(output_size)))
    torch.testing.assert_close(forecast, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gru", GRUS)
def test_gradients_equal_those_of_a_loop_of_one_step_gru_calls(gru):
    torch.manual_seed(0)
    ours = released_net(gru=gru).double()
    net = released_net().double()
    net.load_state_dict(ours.state_dict())
    x = torch.randn(4, 20, 1, dtype=torch.float64)
    ours(x).square().sum().backward()
    hidden = net.encoder.init_hidden(batch_size=4)
    for t in range(20):
        _, hidden = net.encoder(x[:, t : t + 1], hidden)
    value, forecasts = x[:, -1:], []
    for _ in range(20):
        value, hidden = net.decoder(value, hidden)
        forecasts.append(value)
    torch.cat(forecasts, dim=1).square().sum().backward()
    for mine, other in zip(ours.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def forecast_by_calls(net, x):
    """The forecast by one call of the decoder for each step."""
    _, hidden = net.encoder(x)
    value, forecasts = x[:, -1:, list(net.output_columns)], []
    for _ in range(net.target_length):
        value, hidden = net.decoder(value, hidden)
        forecasts.append(value)
    return torch.cat(forecasts, dim=1)


def spectral(decoder):
    nn.utils.spectral_norm(decoder.gru, "weight_hh_l0")


def weight_normed(decoder):
    nn.utils.weight_norm(decoder.gru, "weight_ih_l1")
    with torch.no_grad():
        decoder.gru.weight_ih_l1_g.mul_(3)


def pruned(decoder):
    prune.random_unstructured(decoder.gru, "weight_hh_l1", 0.5)
    with torch.no_grad():
        decoder.gru.weight_hh_l1_orig.mul_(3)


def normed_by_parametrization(decoder):
    nn.utils.parametrizations.weight_norm(decoder.gru, "weight_hh_l0")
    with torch.no_grad():
        decoder.gru.parametrizations.weight_hh_l0.original0.mul_(3)


def gru_hooked(decoder):
    decoder.gru.register_forward_hook(lambda module, inputs, outputs: (2 * outputs[0], outputs[1].sin()))


def decoder_hooked(decoder):
    decoder.register_forward_hook(lambda module, inputs, outputs: (3 * outputs[0], outputs[1].cos()))


def inputs_hooked(decoder):
    decoder.gru.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1, inputs[1]))


def gradient_hooked(decoder):
    decoder.gru.register_full_backward_hook(lambda module, by_inputs, by_outputs: (2 * by_inputs[0], by_inputs[1]))


def gradient_prehooked(decoder):
    decoder.register_full_backward_pre_hook(lambda module, by_outputs: (3 * by_outputs[0], by_outputs[1]))


def of_another_forward(decoder):
    forward = decoder.gru.forward
    decoder.gru.forward = lambda input, hx: forward(2 * input, hx)


def of_a_subclass(decoder):
    class Sharper(DecoderRNN):
        def forward(self, input, hidden):
            forecast, hidden = super().forward(input, hidden)
            return 2 * forecast, hidden

    decoder.__class__ = Sharper


def dropping_out(decoder):
    decoder.gru.dropout = 0.5


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm. is deprecated")
@pytest.mark.parametrize("change", [spectral, weight_normed, pruned, normed_by_parametrization, gru_hooked,
                                    decoder_hooked, inputs_hooked, gradient_hooked, gradient_prehooked,
                                    of_another_forward, of_a_subclass, dropping_out])  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gru", GRUS)
def test_a_changed_decoder_forecasts_what_its_calls_do(gru, training, change):
    results = []
    for forecast in (Net_GRU.forward, forecast_by_calls):
        torch.manual_seed(1)
        sizes = {"input_length": 6, "horizon": 4, "input_size": 2, "output_size": 2, "hidden_size": 5, "layers": 2}
        net = build_model("seq2seq", **sizes, gru=gru).double().train(training)
        x = torch.randn(3, 6, 2, dtype=torch.float64)
        plain = net(x)
        change(net.decoder)
        torch.manual_seed(2)
        forecasts = forecast(net, x)
        gradients = torch.autograd.grad(forecasts.square().sum(), list(net.parameters()))
        results.append((forecasts, *gradients))
        alone = change in (gradient_hooked, gradient_prehooked) or (change is dropping_out and not training)
        assert torch.allclose(forecasts, plain) == alone
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("gru", GRUS)
@pytest.mark.parametrize("watched", ["decoder", "decoder.gru", "decoder.fc"])
def test_a_hook_of_the_decoder_or_its_gru_is_called_at_every_step(gru, watched):
    net, calls = build_model("seq2seq", input_length=6, horizon=4, hidden_size=5, gru=gru), []
    handle = net.get_submodule(watched).register_forward_hook(lambda module, *_: calls.append(module))
    net(torch.randn(3, 6, 1))
    handle.remove()
    net(torch.randn(3, 6, 1))
    assert len(calls) == 4


@pytest.mark.parametrize("gru", GRUS)
def test_the_same_seed_gives_the_same_weights_whoever_computes_the_gru(gru):
    states = []
    for name in ("torch", gru):
        torch.manual_seed(5)
        states.append(build_model("seq2seq", input_length=6, horizon=4, layers=2, gru=name).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_teacher_forcing_on_its_own_forecasts_repeats_the_rollout():
    torch.manual_seed(0)
    decoder = DecoderRNN(2, 8, 2, 16, 2)
    first, hidden = torch.randn(3, 2), torch.randn(2, 3, 8)
    forecast = decoder.rollout(first, hidden, 5)
    inputs = torch.cat([first.unsqueeze(1), forecast[:, :-1]], dim=1)
    repeated, last_hidden = decoder(inputs, hidden)
    torch.testing.assert_close(repeated, forecast)
    assert last_hidden.shape == (2, 3, 8)


def test_the_decoder_starts_from_the_chosen_output_columns():
    torch.manual_seed(0)
    sizes = {"input_length": 6, "horizon": 4, "input_size": 3, "output_size": 2, "hidden_size": 8}
    net = build_model("seq2seq", **sizes, output_columns=[2, 0])
    x = torch.randn(5, 6, 3)
    torch.testing.assert_close(net(x), forecast_step_by_step(net, x, [2, 0]))
    assert not torch.allclose(net(x), forecast_step_by_step(net, x, [0, 1]))


def test_output_columns_are_no_part_of_the_weights():
    net = build_model("seq2seq", input_length=6, horizon=4, input_size=3, output_size=1, output_columns=[2])
    assert not any("columns" in name for name in net.state_dict())


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("gru", sorted(GRUS))
def test_a_network_made_without_memory_forecasts_once_weights_are_assigned(name, gru):
    sizes = {"input_length": 6, "horizon": 4, "input_size": 3, "output_size": 2, "hidden_size": 8, "gru": gru}
    net, x = build_model(name, **sizes, output_columns=[2, 0]), torch.randn(5, 6, 3)
    with torch.device("meta"):
        assigned, filled = (build_model(name, **sizes, output_columns=[2, 0]) for _ in range(2))
    assigned.load_state_dict(net.state_dict(), assign=True)
    filled.to_empty(device="cpu").load_state_dict(net.state_dict())
    for other in (assigned, filled):
        torch.testing.assert_close(other(x), net(x))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_partial_batch_gives_the_same_forecasts(name):
    torch.manual_seed(0)
    net = build_model(name, input_length=20, horizon=20)
    x = torch.randn(7, 20, 1)
    torch.testing.assert_close(torch.cat([net(x[:5]), net(x[5:])]), net(x))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_parameter_gets_a_gradient(name):
    net = build_model(name, input_length=6, horizon=4, input_size=3, output_size=2, hidden_size=8, layers=2)
    net(torch.randn(5, 6, 3)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_the_encoder_makes_one_gru_call(monkeypatch):
    net = released_net()
    shapes = []
    forward = net.encoder.gru.forward
    monkeypatch.setattr(net.encoder.gru, "forward", lambda x, h=None: shapes.append(x.shape) or forward(x, h))
    net(torch.randn(3, 20, 1))
    assert shapes == [(3, 20, 1)]


def test_init_hidden_takes_the_batch_size_of_the_call_or_of_the_constructor():
    assert EncoderRNN(1, 8, 2, 100).init_hidden("cpu").shape == (2, 100, 8)
    assert EncoderRNN(1, 8, 2, 100).init_hidden(batch_size=3).shape == (2, 3, 8)
    assert EncoderRNN(1, 8, 2).double().init_hidden(batch_size=3).dtype == torch.float64
    with pytest.raises(ValueError, match="needs batch_size"):
        EncoderRNN(1, 8, 2).init_hidden()


def test_the_device_argument_moves_the_network():
    encoder, decoder = EncoderRNN(1, 8, 1), DecoderRNN(1, 8, 1, 16, 1)
    net = Net_GRU(encoder, decoder, 4, torch.device("meta"))
    assert net.decoder.out.weight.is_meta
    assert net(torch.empty(2, 6, 1, device="meta")).shape == (2, 4, 1)


def test_mlp_is_linear_relu_linear():
    torch.manual_seed(0)
    net = MLP(20, 12, input_size=2, output_size=3)
    x = torch.randn(4, 20, 2)
    (hidden,) = net.hidden
    assert tuple(hidden.weight.shape) == (128, 40)
    expected = torch.relu(x.reshape(4, 40) @ hidden.weight.T + hidden.bias) @ net.out.weight.T + net.out.bias
    torch.testing.assert_close(net(x), expected.reshape(4, 12, 3))


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("shape", [(20, 1), (5, 20, 2)])
def test_an_input_of_another_shape_is_refused_in_one_sentence(name, shape):
    net = build_model(name, input_length=20, horizon=20)
    with pytest.raises(ValueError, match=r"expects an input of shape \(batch, .*, 1\), got"):
        net(torch.randn(shape))


def test_mlp_refuses_a_window_of_another_length():
    with pytest.raises(ValueError, match=r"\(batch, 20, 1\), got \(5, 21, 1\)"):
        build_model("mlp", input_length=20, horizon=20)(torch.randn(5, 21, 1))


@pytest.mark.parametrize(
    ("decoder", "columns", "message"),
    [
        ((2, 8, 1, 16, 1), None, r"input_size \(2\) must equal its output_size \(1\)"),
        (
            (1, 9, 1, 16, 1),
            None,
            r"hidden_size must be the same in both, got 8 \(encoder\) and 9 \(decoder\)",
        ),
        ((1, 8, 2, 16, 1), None, "num_grulstm_layers must be the same in both, got 1"),
        ((4, 8, 1, 16, 4), None, r"must name 4 of the 3 input columns \(0 to 2\), got \[0, 1, 2, 3\]"),
        ((1, 8, 1, 16, 1), [3], r"must name 1 of the 3 input columns \(0 to 2\), got \[3\]"),
        ((1, 8, 1, 16, 1), [-1], r"got \[-1\]"),
        ((1, 8, 1, 16, 1), [0, 1], r"got \[0, 1\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_sentence(decoder, columns, message):
    with pytest.raises(ValueError, match=message):
        Net_GRU(EncoderRNN(3, 8, 1), DecoderRNN(*decoder), 4, output_columns=columns)


def test_an_unknown_gru_is_refused_with_the_known_ones():
    for make in (lambda: EncoderRNN(1, 8, 1, gru="lstm"), lambda: DecoderRNN(1, 8, 1, 16, 1, gru="lstm")):
        with pytest.raises(ValueError, match="Unknown GRU 'lstm': choose one of fused, torch, written-out"):
            make()


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown model 'gru': choose one of mlp, seq2seq"):
        build_model("gru", input_length=20, horizon=20)
