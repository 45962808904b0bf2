import math
import os
import re
import resource
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from data.windows import WindowDataset
from evaluation.metrics import evaluate_forecasts
from loss import DilateLoss, SoftDTWLoss, TangledDilateLoss
from models import build_model
from tests.helpers import assert_one_sentence
from training import (
    CheckpointError,
    DivergenceError,
    TrainSettings,
    atomic_write,
    best_record,
    check_can_record,
    data_parallel,
    eval_model,
    load_checkpoint,
    load_weights,
    loop,
    predict,
    train_model,
    warm_up,
)


class Terms(NamedTuple):
    loss: torch.Tensor
    shape: torch.Tensor
    temporal: torch.Tensor


class TwoTerms(nn.Module):
    """A criterion with components, as DILATE has them."""

    def components(self, prediction, target):
        shape, temporal = (prediction - target).square().mean(), (prediction - target).abs().mean()
        return Terms(0.5 * (shape + temporal), shape, temporal)

    def forward(self, prediction, target):
        return self.components(prediction, target).loss


@pytest.fixture(scope="module")
def parts():
    """Train and test windows of noisy sines; 17 series leave a partial batch of 8."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (30, 1, 1))
    values = np.sin(phase + 0.5 * np.arange(9).reshape(1, 9, 1)) + 0.01 * rng.standard_normal((30, 9, 1))
    inputs, targets = values[:, :5], values[:, 5:]
    return WindowDataset(inputs[:17], targets[:17]), WindowDataset(inputs[17:], targets[17:])


def fresh_net(dropout=0.0):
    torch.manual_seed(0)
    net = build_model("seq2seq", input_length=5, horizon=4, hidden_size=6)
    return nn.Sequential(nn.Dropout(dropout), net) if dropout else net


def train(net, parts, criterion=None, **options):
    options = {"epochs": 5, "batch_size": 8, "print_every": 0, "eval_every": 2, **options}
    return train_model(net, criterion or nn.MSELoss(), *parts, **options)


def numbers(history):
    """The records without the time that they took."""
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same_weights(net, other):
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_training_lowers_the_error(parts):
    net = fresh_net()
    before = eval_model(net, parts[1])
    train(net, parts, epochs=30, learning_rate=1e-2)
    assert eval_model(net, parts[1])["mse"] < 0.5 * before["mse"]


def test_training_equals_adam_written_out(parts):
    net, other = fresh_net(), fresh_net()
    train(net, parts, epochs=2, batch_size=100, learning_rate=1e-2)
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in other.parameters()]
    inputs, targets = parts[0][list(range(17))]
    for step in (1, 2):
        gradients = torch.autograd.grad((other(inputs) - targets).square().mean(), list(other.parameters()))
        with torch.no_grad():
            for p, g, (m, v) in zip(other.parameters(), gradients, moments, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                p -= 1e-2 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_every_epoch_sees_every_series_once_in_a_new_order(parts):
    served = []

    class Spy(WindowDataset):
        def __getitem__(self, index):
            served.append(list(index))
            return super().__getitem__(index)

    spy = Spy(parts[0].inputs, parts[0].targets)
    train(fresh_net(), (spy, parts[1]), epochs=2, eval_every=0)
    assert served.pop(0) == [*range(8)]  # of the warm-up
    sizes = [len(batch) for batch in served]
    first, second = [*chain(*served[:3])], [*chain(*served[3:])]
    assert sizes == [8, 8, 1, 8, 8, 1]
    assert sorted(first) == sorted(second) == list(range(17))
    assert first != second


def test_evaluations_come_at_epoch_0_every_few_epochs_and_at_the_end(parts):
    assert [record["epoch"] for record in train(fresh_net(), parts, epochs=6, eval_every=2)] == [0, 2, 4, 5]
    assert [record["epoch"] for record in train(fresh_net(), parts, epochs=3, eval_every=0)] == [2]


def test_a_record_holds_the_test_scores_of_that_epoch(parts):
    net, seen = fresh_net(), []
    history = train(net, parts, on_eval=seen.append)
    assert seen == history
    last = history[-1]
    assert list(last) == ["epoch", "train_loss", "mse", "dtw", "tdi", "seconds"]
    prediction, target = predict(net, parts[1])
    assert {key: last[key] for key in ("mse", "dtw", "tdi")} == evaluate_forecasts(prediction, target)
    assert all(type(value) in (int, float) for value in last.values())


def gradient(net):
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


def test_long_gradients_are_shortened_and_short_ones_left(parts):
    free, clipped, roomy = fresh_net(), fresh_net(), fresh_net()
    train(free, parts, epochs=1, batch_size=17)
    norm = gradient(free).norm()
    train(clipped, parts, epochs=1, batch_size=17, clip_norm=0.1 * norm.item())
    torch.testing.assert_close(gradient(clipped), 0.1 * gradient(free), rtol=1e-4, atol=1e-7)
    train(free, parts)
    train(roomy, parts, epochs=1, batch_size=17)
    train(roomy, parts, clip_norm=1e3)
    assert_same_weights(free, roomy)


def test_whole_batches_alone_go_to_the_cuda_graph(parts, monkeypatch):
    replayed = []

    def record(measured, sample, allow_unused_input):
        assert measured.training

        def graph(*batch):
            assert [tensor.shape for tensor in batch] == [tensor.shape for tensor in sample]
            replayed.append(len(batch[0]))
            return measured(*batch)

        return graph

    monkeypatch.setattr(loop, "check_can_record", lambda name, device: None)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    history = train(fresh_net(), parts, TwoTerms(), epochs=3, batch_size=8, cuda_graph=True)
    assert replayed == [8, 8] * 3  # of batches of 8, 8 and 1
    assert numbers(history) == numbers(train(fresh_net(), parts, TwoTerms(), epochs=3, batch_size=8))


def test_a_cuda_graph_needs_a_gpu_and_a_single_process(parts, monkeypatch):
    with pytest.raises(ValueError, match="cuda_graph needs a CUDA device, got cpu"):
        train(fresh_net(), parts, cuda_graph=True)
    monkeypatch.setattr(loop.data_parallel, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="cuda_graph needs a single process, got 2"):
        check_can_record("cuda_graph", torch.device("cuda"))


def test_train_loss_is_the_mean_over_the_series_of_the_epoch(parts):
    net = fresh_net()
    history = train(net, parts, epochs=1, batch_size=100)
    inputs, targets = parts[0][list(range(17))]
    expected = (fresh_net()(inputs) - targets).square().mean().item()
    assert history[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_printed_lines_have_the_released_form_and_the_terms_of_the_criterion(parts, capsys):
    history = train(fresh_net(), parts, TwoTerms(), epochs=3, print_every=2, eval_every=2)
    lines = capsys.readouterr().out.splitlines()
    number = r"([-+.\de]+)"
    mean = rf"  \(last batch; mean loss of the epoch  {number}\)"
    line = rf"epoch  (\d+)  loss  {number}  loss shape  {number}  loss temporal  {number}{mean}"
    evaluation = rf" Eval mse=  {number} dtw=  {number} tdi=  {number}"
    matches = [re.fullmatch(line, text) for text in lines[::2]]
    assert [match[1] for match in matches] == ["0", "2"]
    assert all(re.fullmatch(evaluation, text) for text in lines[1::2])
    loss, shape, temporal, mean_loss = map(float, matches[0].groups()[1:])
    assert mean_loss == pytest.approx(history[0]["train_loss"], rel=1e-4)
    assert loss == pytest.approx(0.5 * (shape + temporal), rel=1e-4)
    assert min(shape, temporal) > 0


def test_a_criterion_without_components_prints_no_terms(parts, capsys):
    train(fresh_net(), parts, epochs=1, print_every=1)
    assert "loss shape" not in capsys.readouterr().out


def test_soft_dtw_is_printed_as_a_loss_of_shape(parts, capsys):
    train(fresh_net(), parts, SoftDTWLoss(0.1), epochs=1, print_every=1)
    loss, shape = re.match(r"epoch  0  loss  (\S+)  loss shape  (\S+)  \(last", capsys.readouterr().out).groups()
    assert loss == shape


def test_off_a_terminal_a_line_is_printed_at_least_every_minute(parts, capsys, monkeypatch):
    clock = count(step=25.0)
    monkeypatch.setattr(loop, "perf_counter", lambda: next(clock))
    train(fresh_net(), parts, epochs=4, batch_size=5, eval_every=0, print_every=100)
    lines = capsys.readouterr().out.splitlines()
    without_result = [re.fullmatch(r"epoch  (\d)  \d batches done", line) for line in lines]
    assert {"1", "2"} <= {line[1] for line in without_result if line}


def test_print_every_0_prints_nothing_and_no_bar_is_drawn_off_a_terminal(parts, capsys):
    train(fresh_net(), parts, progress="label")
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_label_and_loss_on_a_terminal(parts, capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    train(fresh_net(), parts, progress="dilate")
    err = capsys.readouterr().err
    assert "dilate" in err
    assert "loss " in err
    assert "5/5" in err


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(parts):
    net, again, other = fresh_net(), fresh_net(), fresh_net()
    history = train(net, parts, seed=3)
    torch.rand(7)
    assert numbers(train(again, parts, seed=3)) == numbers(history)
    assert_same_weights(net, again)
    assert numbers(train(other, parts, seed=4)) != numbers(history)


def test_the_callers_random_state_is_put_back(parts):
    net = fresh_net()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(net, parts)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_count_as_0_in_training_and_evaluation_only(parts, before):
    def denormals_are_0():
        return bool(torch.tensor(1e-40) * 1 == 0)

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.seen = fresh_net(), set()

        def forward(self, x):
            self.seen.add((self.training, denormals_are_0()))
            return self.net(x)

    spy = Spy()
    if not torch.set_flush_denormal(before):
        pytest.skip("this CPU has no such mode")
    try:
        train(spy, parts, epochs=1)
        assert denormals_are_0() == before
        predict(spy, parts[1])
        assert denormals_are_0() == before
    finally:
        torch.set_flush_denormal(False)
    assert spy.seen == {(True, True), (False, True)}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_training_is_bitwise_that_of_an_uninterrupted_one(parts, tmp_path, dropout):
    whole, broken, resumed = fresh_net(dropout), fresh_net(dropout), fresh_net(dropout)
    history = train(whole, parts, TwoTerms(), epochs=7)

    class StopError(Exception):
        """What interrupts the training."""

    class StopsInEpoch3(TwoTerms):
        calls = 0

        def forward(self, prediction, target):
            self.calls += 1
            if self.calls == 3 * 3 + 2:
                raise StopError
            return super().forward(prediction, target)

    with pytest.raises(StopError):
        train(broken, parts, StopsInEpoch3(), epochs=7, checkpoint=tmp_path / "c.pt")
    assert load_checkpoint(tmp_path / "c.pt")["epoch"] == 2
    continued = train(resumed, parts, TwoTerms(), epochs=7, checkpoint=tmp_path / "c.pt")
    assert numbers(continued) == numbers(history)
    assert_same_weights(resumed, whole)


def test_a_dataset_that_draws_random_numbers_draws_the_same_ones_in_a_resumed_training(parts, tmp_path):
    class Noisy(WindowDataset):
        def __getitem__(self, index):
            inputs, targets = super().__getitem__(index)
            return inputs + 0.1 * torch.randn_like(inputs), targets

    noisy = Noisy(parts[0].inputs, parts[0].targets), parts[1]
    whole, resumed = fresh_net(), fresh_net()
    history = train(whole, noisy, epochs=4, eval_every=1)
    train(resumed, noisy, epochs=2, eval_every=1, checkpoint=tmp_path / "c.pt")
    continued = train(resumed, noisy, epochs=4, eval_every=1, checkpoint=tmp_path / "c.pt")
    assert numbers(continued) == numbers(history)
    assert_same_weights(resumed, whole)


def test_a_finished_training_is_not_repeated(parts, tmp_path):
    history = train(fresh_net(), parts, checkpoint=tmp_path / "c.pt")

    def must_not_be_called(prediction, target):
        raise AssertionError

    net = fresh_net()
    assert train(net, parts, must_not_be_called, checkpoint=tmp_path / "c.pt") == history
    assert eval_model(net, parts[1]) == {key: history[-1][key] for key in ("mse", "dtw", "tdi")}


def test_more_epochs_extend_a_finished_training(parts, tmp_path):
    whole, extended = fresh_net(), fresh_net()
    train(whole, parts, epochs=6)
    train(fresh_net(), parts, epochs=3, checkpoint=tmp_path / "c.pt")
    train(extended, parts, epochs=6, checkpoint=tmp_path / "c.pt")
    assert_same_weights(extended, whole)


def test_seconds_add_up_over_sessions(parts, tmp_path):
    first = train(fresh_net(), parts, epochs=3, checkpoint=tmp_path / "c.pt")[-1]["seconds"]
    seconds = [r["seconds"] for r in train(fresh_net(), parts, epochs=6, checkpoint=tmp_path / "c.pt")]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert seconds[-1] > first


def test_seconds_do_not_contain_what_the_first_call_takes_alone(parts, tmp_path, monkeypatch):
    class Compiled(nn.MSELoss):
        """Takes a second of a clock that nothing else moves, and at first a minute."""

        took = 60

        def forward(self, prediction, target):
            clock.append(clock[-1] + self.took)
            self.took = 1
            return super().forward(prediction, target)

    clock = [0]
    monkeypatch.setattr(loop, "perf_counter", lambda: clock[-1])
    for epochs in (1, 4):
        history = train(fresh_net(), parts, Compiled(), epochs=epochs, checkpoint=tmp_path / "c.pt")
        assert history[-1]["seconds"] == 3 * epochs


def test_evaluation_leaves_every_part_in_its_mode(parts):
    net = normalised_net()
    frozen = next(module for module in net.modules() if isinstance(module, nn.BatchNorm1d)).eval()
    before = frozen.running_mean.clone()
    predict(net, parts[1])
    assert net.training
    assert not frozen.training
    assert torch.equal(frozen.running_mean, before)


def normalised_net():
    net = fresh_net(0.3)
    return nn.Sequential(nn.BatchNorm1d(5), net)


@pytest.mark.parametrize("make", [fresh_net, normalised_net])
def test_a_warm_up_leaves_no_trace(parts, monkeypatch, make):
    net, plain = make(), make()
    before = weights(net)
    forecast = warm_up(net, nn.MSELoss(), parts[0][:8])
    assert forecast.shape == (8, 4, 1)
    assert not forecast.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    history = train(net, parts, batch_size=9)
    monkeypatch.setattr(loop, "warm_up", lambda *args: None)
    assert numbers(train(plain, parts, batch_size=9)) == numbers(history)
    assert_same_weights(net, plain)


class Bowl(nn.Module):
    """A criterion whose values on another set than its training follow a script."""

    def __init__(self, valid_losses):
        super().__init__()
        self.valid_losses = iter(valid_losses)

    def forward(self, prediction, target):
        if prediction.requires_grad:
            return (prediction - target).square().mean()
        return torch.tensor(next(self.valid_losses))


def stop_early(net, parts, valid_losses, patience=2, **options):
    options = {"epochs": 50, "eval_every": 1, "batch_size": 17, **options}
    return train(net, parts, Bowl(valid_losses), valid_set=parts[1], patience=patience, **options)


@pytest.mark.parametrize(
    ("valid_losses", "patience", "best"),
    [
        ([5.0, 3.0, 4.0, 3.0], 2, 1),  # as low as before is no improvement
        ([5.0, 4.0, 4.5, 3.0, 3.5, 3.25, 9.0], 3, 3),
        ([1.0, 2.0], 1, 0),
        ([math.nan, 2.0, math.nan, math.nan], 2, 1),
        ([-1.0, -2.0, math.inf, -1.0], 2, 1),
    ],
)
def test_training_stops_after_patience_evaluations_without_improvement(parts, valid_losses, patience, best):
    history = stop_early(net := fresh_net(), parts, valid_losses, patience)
    np.testing.assert_array_equal([record["valid_loss"] for record in history], valid_losses)
    assert best_record(history) is history[best]
    shorter = fresh_net()
    train(shorter, parts, epochs=best + 1, batch_size=17)
    assert_same_weights(net, shorter)


@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_validation_loss_that_is_never_a_number_is_one_sentence(parts, patience, loss):
    refuse = partial(stop_early, fresh_net(), parts, [loss] * 4, patience, epochs=4)
    assert_one_sentence(DivergenceError, f"The loss on valid_set was {loss} at every evaluation", refuse)


@pytest.mark.parametrize("part", ["inputs", "targets"])
@pytest.mark.parametrize("place", [(0, 0, 0), (12, 3, 0)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_validation_set_with_nan_or_inf_is_one_sentence_before_the_training(parts, part, place, value):
    windows = {"inputs": parts[1].inputs.clone(), "targets": parts[1].targets.clone()}
    windows[part][place] = value
    net, odd = fresh_net(), WindowDataset(**windows)
    before = weights(net)
    refuse = partial(train, net, parts, valid_set=odd)
    assert_one_sentence(ValueError, f"valid_set must not hold nan or inf in its {part}", refuse)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_sum_is_refused_where_several_processes_share_a_batch(parts, monkeypatch):
    monkeypatch.setattr(data_parallel, "world_size", lambda: 2)
    sentence = "criterion must have reduction=\"mean\" in several processes, got 'sum'"
    assert_one_sentence(ValueError, sentence, lambda: train(fresh_net(), parts, DilateLoss(reduction="sum")))


def test_a_loss_that_is_not_reduced_is_one_sentence(parts):
    sentence = 'criterion must give one number, as with reduction="mean" or "sum", but gave shape'
    assert_one_sentence(ValueError, sentence, lambda: train(fresh_net(), parts, DilateLoss(reduction="none")))


@pytest.mark.parametrize(
    ("cut", "shape"),
    [
        (lambda x: x[..., 0], (8, 4)),
        (lambda x: x[:, :1], (8, 1, 1)),
        (lambda x: x.mean(0, keepdim=True), (1, 4, 1)),
        (lambda x: x.expand(-1, -1, 2), (8, 4, 2)),
        (lambda x: x.mean(), ()),
    ],
)
@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.L1Loss(), DilateLoss()])
def test_a_forecast_of_another_shape_than_the_target_is_one_sentence(parts, cut, shape, criterion):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = fresh_net()

        def forward(self, x):
            return cut(self.net(x))

    sentence = f"net must forecast in the shape of the targets, .* has shape {re.escape(str(shape))} for targets"
    net = Cut()
    for use in (
        partial(train, net, parts, criterion),
        partial(eval_model, net, parts[1], 8),
        partial(predict, net, parts[1], 8),
    ):
        assert_one_sentence(ValueError, sentence, use)


def test_an_empty_training_set_is_one_sentence(parts):
    empty = torch.utils.data.Subset(parts[0], [])
    assert_one_sentence(
        ValueError, "train_set must hold at least one", partial(train, fresh_net(), (empty, parts[1]))
    )


def test_without_patience_all_epochs_are_trained_and_the_best_weights_kept(parts):
    history = stop_early(net := fresh_net(), parts, [3.0, 1.0, 2.0, 4.0, 5.0], patience=None, epochs=5)
    assert len(history) == 5
    assert eval_model(net, parts[1]) == {key: history[1][key] for key in ("mse", "dtw", "tdi")}


def test_the_validation_loss_is_the_criterion_over_the_whole_set(parts):
    net = fresh_net()
    history = train(net, parts, valid_set=parts[1], epochs=1)
    prediction, target = predict(net, parts[1])
    assert history[0]["valid_loss"] == pytest.approx((prediction - target).square().mean().item(), rel=1e-6)


def test_evaluations_without_a_test_set_hold_losses_only(parts):
    history = train(fresh_net(), (parts[0], None), valid_set=parts[1], epochs=1)
    assert list(history[0]) == ["epoch", "train_loss", "valid_loss", "seconds"]
    assert best_record(train(fresh_net(), parts))["epoch"] == 4


def test_an_early_stop_resumes_to_the_same_end(parts, tmp_path):
    losses = [5.0, 3.0, 4.0, 2.0, 2.5, 2.5, 2.5, 1.0]
    history = stop_early(whole := fresh_net(), parts, losses, 3)
    assert len(history) == 7
    path = tmp_path / "c.pt"
    for end in (3, 5, 6):  # in the middle, after the best, right before the stop
        path.unlink(missing_ok=True)
        stop_early(fresh_net(), parts, losses, 3, epochs=end, checkpoint=path)
        resumed = fresh_net()
        assert numbers(stop_early(resumed, parts, losses[end:], 3, checkpoint=path)) == numbers(history)
        assert_same_weights(resumed, whole)
    stopped = fresh_net()
    assert numbers(stop_early(stopped, parts, [], 3, checkpoint=path)) == numbers(history)
    assert_same_weights(stopped, whole)
    used = fresh_net()
    load_weights(used, load_checkpoint(path), path)
    assert_same_weights(used, whole)
    assert len(stop_early(fresh_net(), parts, [1.0, 1.5, 1.5, 1.5, 1.5, 1.5], 5, checkpoint=path)) == 13


@pytest.mark.parametrize("patience", [1, 3, 40])
def test_patience_needs_evaluations_to_count(patience):
    with pytest.raises(ValueError, match=f"patience={patience} needs evaluations on the way, but eval_every=0 has"):
        TrainSettings(patience=patience, eval_every=0)
    assert TrainSettings(patience=patience, eval_every=patience).patience == patience
    assert TrainSettings(eval_every=0).patience is None


def test_patience_needs_a_validation_set_from_the_start(parts, tmp_path):
    with pytest.raises(ValueError, match="patience needs a valid_set to look at, got patience=3"):
        train(fresh_net(), parts, patience=3)
    with pytest.raises(ValueError, match=r"patience must be .* at least 1, given 0"):
        train(fresh_net(), parts, valid_set=parts[1], patience=0)
    train(fresh_net(), parts, epochs=1, checkpoint=tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="without a validation set and cannot go on with one"):
        train(fresh_net(), parts, valid_set=parts[1], checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize("epochs", [2, 4])
def test_weights_that_a_validation_set_chose_are_not_exchanged_for_the_last_ones(parts, tmp_path, epochs):
    train(fresh_net(), parts, epochs=2, valid_set=parts[1], checkpoint=tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="with a validation set and cannot go on without"):
        train(fresh_net(), parts, epochs=epochs, checkpoint=tmp_path / "c.pt")


def test_a_checkpoint_holds_plain_values_and_tensors_only(parts, tmp_path):
    settings = {"loss": "mse", "alpha": 0.5, "losses": ["mse"], "path": None}
    history = train(fresh_net(), parts, checkpoint=tmp_path / "deep" / "c.pt", metadata=settings)
    state = torch.load(tmp_path / "deep" / "c.pt", weights_only=True)
    assert state["epoch"] == 4
    assert state["history"] == history
    assert state["settings"] == settings
    protocol = {"learning_rate": 1e-3, "batch_size": 8, "seed": 0, "clip_norm": None}
    assert state["protocol"] == protocol
    assert os.listdir(tmp_path / "deep") == ["c.pt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-2}, "was trained with learning_rate=0.001 and cannot go on with 0.01"),
        ({"batch_size": 4}, "batch_size=8 and cannot go on with 4"),
        ({"seed": 1}, "seed=0 and cannot go on with 1"),
        ({"clip_norm": 0.5}, "clip_norm=None and cannot go on with 0.5"),
    ],
)
def test_a_training_cannot_go_on_with_other_numbers(parts, tmp_path, change, message):
    train(fresh_net(), parts, epochs=1, checkpoint=tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message):
        train(fresh_net(), parts, checkpoint=tmp_path / "c.pt", **change)


def test_a_checkpoint_from_before_there_was_a_choice_goes_on_as_it_was_trained(parts, tmp_path):
    whole, resumed = fresh_net(), fresh_net()
    train(whole, parts, epochs=4)
    train(fresh_net(), parts, epochs=2, checkpoint=tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    del state["protocol"]["clip_norm"]
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"clip_norm=None and cannot go on with 0\.5"):
        train(fresh_net(), parts, checkpoint=tmp_path / "c.pt", clip_norm=0.5)
    train(resumed, parts, epochs=4, checkpoint=tmp_path / "c.pt")
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_checkpoint_with_the_removed_precision_goes_on_only_if_it_was_off(parts, tmp_path, bf16):
    whole, resumed = fresh_net(), fresh_net()
    train(whole, parts, epochs=4)
    train(fresh_net(), parts, epochs=2, checkpoint=tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    state["protocol"]["bf16"] = bf16
    torch.save(state, tmp_path / "c.pt")
    if bf16:
        with pytest.raises(CheckpointError, match=r"c\.pt was trained with bf16=True and cannot go on with False\."):
            train(resumed, parts, epochs=4, checkpoint=tmp_path / "c.pt")
    else:
        train(resumed, parts, epochs=4, checkpoint=tmp_path / "c.pt")
        assert_same_weights(resumed, whole)


def test_fewer_epochs_than_the_checkpoint_has_are_refused(parts, tmp_path):
    train(fresh_net(), parts, epochs=3, checkpoint=tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"epochs must be at least 3, .* got 2"):
        train(fresh_net(), parts, epochs=2, checkpoint=tmp_path / "c.pt")


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(parts, tmp_path):
    train(fresh_net(), parts, epochs=1, checkpoint=tmp_path / "c.pt")
    state = load_checkpoint(tmp_path / "c.pt")
    wider = build_model("seq2seq", input_length=5, horizon=4, hidden_size=7)
    before = weights(wider)
    with pytest.raises(CheckpointError, match=r"of shape \(18, 1\) there and of shape \(21, 1\) here"):
        load_weights(wider, state, "c.pt")
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())
    with pytest.raises(CheckpointError, match=r"c\.pt belongs to another network: .* missing"):
        load_weights(build_model("mlp", input_length=5, horizon=4), state, "c.pt")


def test_a_bare_state_dict_is_read_as_weights_but_starts_no_training(parts, tmp_path):
    net = fresh_net()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    other = build_model("seq2seq", input_length=5, horizon=4, hidden_size=6)
    load_weights(other, load_checkpoint(tmp_path / "w.pt"), "w.pt")
    assert_same_weights(other, net)
    with pytest.raises(CheckpointError, match="holds weights only"):
        train(fresh_net(), parts, checkpoint=tmp_path / "w.pt")


class NotPlain:
    """Something that only unpickling code could bring back."""


@pytest.mark.parametrize(
    "value", [NotPlain(), np.float64(0.5), Path("run"), [1, {"a": NotPlain()}], len, {NotPlain: 1}]
)
def test_settings_that_no_checkpoint_brings_back_are_refused_before_the_training(parts, tmp_path, value):
    path, settings = tmp_path / "c.pt", {"alpha": 0.5, "odd": value}
    message = assert_one_sentence(
        TypeError,
        "metadata must hold plain values",
        partial(train, fresh_net(), parts, checkpoint=path, metadata=settings),
    )
    assert message.endswith(f"but 'odd' is a {type(value).__name__}.")
    assert not path.exists()


@pytest.mark.parametrize("value", [0.5, None, "a", [1, "b"], {"a": [None]}, (1, 2), True, torch.ones(2)])
def test_plain_settings_come_back(parts, tmp_path, value):
    train(fresh_net(), parts, epochs=1, checkpoint=tmp_path / "c.pt", metadata={"value": value})
    assert str(load_checkpoint(tmp_path / "c.pt")["settings"]["value"]) == str(value)


def test_numpy_numbers_as_settings_are_kept_as_plain_ones(parts, tmp_path):
    given = {"learning_rate": np.float64(0.01), "clip_norm": np.float32(2), "batch_size": np.int64(3)}
    given |= {"seed": np.uint8(1), "epochs": np.int32(2), "eval_every": np.int64(1)}
    plain = {name: value.item() for name, value in given.items()}
    path, settings = tmp_path / "c.pt", TrainSettings(**given)
    assert all(type(getattr(settings, name)) is type(value) for name, value in plain.items())
    train(net := fresh_net(), parts, checkpoint=path, **given)
    train(other := fresh_net(), parts, **plain)
    assert load_checkpoint(path)["epoch"] == 1
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


class OneBuffer(torch.utils.data.Dataset):
    """Targets that are served in one buffer, filled anew for each batch."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets, self.buffer = inputs, targets, torch.empty_like(targets[:2])

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, indices):
        return self.inputs[indices], self.buffer.copy_(self.targets[indices])


class BufferedNet(nn.Module):
    """A network that returns the same memory at each call."""

    def __init__(self):
        super().__init__()
        self.weight, self.output = nn.Parameter(torch.ones(())), torch.empty(2, 4, 1)

    def forward(self, x):
        return self.output.copy_(x[:, -4:] * self.weight)


def test_forecasts_and_targets_are_copies_of_what_may_be_filled_anew():
    inputs, targets = torch.randn(2, 6, 4, 1)
    prediction, target = predict(BufferedNet(), OneBuffer(inputs, targets), batch_size=2)
    assert torch.equal(prediction, inputs)
    assert torch.equal(target, targets)


OF_NO_NETWORK = {"optimizer": {}, "epoch": 3, "history": [], "protocol": {}, "settings": {}}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"not a checkpoint", b"PK\x03\x04 damaged"),
        *({"epoch": 3}, {"net": {}} | OF_NO_NETWORK, {"net": torch.ones(2)} | OF_NO_NETWORK, NotPlain(), []),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "odd.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"odd\.pt is not a checkpoint: ") as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value)


def test_a_truncated_checkpoint_is_refused_in_one_sentence(parts, tmp_path):
    path = tmp_path / "c.pt"
    train(fresh_net(), parts, epochs=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        train(fresh_net(), parts, checkpoint=path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_draft(tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(b"old")

    def write_and_stop():
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["c.pt"]
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("room", [0, 100, 4000])
def test_a_full_disk_names_the_file_and_keeps_what_is_there(parts, tmp_path, room):
    path = tmp_path / "c.pt"
    history = train(fresh_net(), parts, checkpoint=path)
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert len(before) > room
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            train(fresh_net(), parts, checkpoint=path, epochs=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["c.pt"]
    assert path.read_bytes() == before
    assert train(fresh_net(), parts, checkpoint=path, epochs=8)[: len(history)] == history


def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(parts, tmp_path):
    def overflow(prediction, target):
        return (prediction * 1e38).exp().mean()

    with pytest.raises(DivergenceError, match=r"became (nan|inf) in epoch 0: try a smaller learning rate"):
        train(fresh_net(), parts, overflow, checkpoint=tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a positive number, got 0.0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be a positive number, got nan"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be a positive number, got 0.0"),
        ({"epochs": 0}, ValueError, "epochs must be .* at least 1, given 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be .* at least 1, given 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ({"print_every": -1}, ValueError, "print_every must be .* at least 0, given -1"),
        ({"eval_every": -1}, ValueError, "eval_every must be .* at least 0, given -1"),
        ({"seed": -1}, ValueError, "seed must be .* at least 0, given -1"),
    ],
)
def test_a_number_out_of_range_is_refused_in_one_sentence(parts, options, kind, message):
    with pytest.raises(kind, match=message):
        train(fresh_net(), parts, **options)


@pytest.mark.parametrize("kind", [DilateLoss, SoftDTWLoss, TangledDilateLoss])
@pytest.mark.parametrize("learned", [nn.Parameter(torch.tensor(0.1)), torch.tensor(0.1, requires_grad=True)])
def test_a_criterion_that_learns_is_refused_in_one_sentence(parts, kind, learned):
    net = fresh_net()
    before = weights(net)
    refuse = partial(train, net, parts, kind(gamma=learned))
    assert_one_sentence(ValueError, "^criterion must have nothing to learn, .* but its gamma requires grad", refuse)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("wrap", [torch.Tensor.clone, partial(nn.Parameter, requires_grad=False)])
def test_a_criterion_may_have_tensors_that_are_fixed(parts, wrap):
    gamma = wrap(torch.tensor(0.1, dtype=torch.float64))
    with_tensor, with_number = (train(fresh_net(), parts, DilateLoss(gamma=g)) for g in (gamma, 0.1))
    assert numbers(with_tensor) == numbers(with_number)


def test_a_criterion_may_look_at_the_networks_weights(parts):
    class Decay(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, prediction, target):
            return (prediction - target).square().mean() + sum(p.square().sum() for p in self.net.parameters())

    net = fresh_net()
    assert train(net, parts, Decay(net))[0]["train_loss"] > train(fresh_net(), parts)[0]["train_loss"]


def test_evaluation_records_no_gradients_and_keeps_the_mode_of_the_network(parts):
    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = fresh_net()
            self.calls = []

        def forward(self, x):
            forecast = self.net(x)
            self.calls.append((self.training, forecast.requires_grad))
            return forecast

    spy = Spy().train()
    scores, prediction = eval_model(spy, parts[1], 5, return_predictions=True)
    assert spy.calls == [(False, False)] * 3
    assert spy.training
    assert prediction.shape == (13, 4, 1)
    assert scores == evaluate_forecasts(prediction, parts[1].targets)
    spy.eval()
    predict(spy, parts[1])
    assert not spy.training


def test_a_forecaster_without_weights_can_be_evaluated(parts):
    class Last(nn.Module):
        def forward(self, x):
            return x[:, -1:].expand(-1, parts[1].targets.shape[1], -1)

    forecast, target = predict(Last(), parts[1])
    assert torch.equal(forecast, Last()(parts[1].inputs))
    assert eval_model(Last(), parts[1]) == evaluate_forecasts(forecast, target)


def test_the_mean_loss_of_a_bfloat16_network_counts_every_batch(parts):
    losses, net = [], nn.Sequential(nn.Flatten(1), nn.Linear(6, 4), nn.Unflatten(1, (4, 1))).bfloat16()

    class Kept(nn.MSELoss):
        def forward(self, prediction, target):
            losses.append(super().forward(prediction, target))
            return losses[-1]

    windows = WindowDataset(torch.randn(1500, 6, 1), torch.randn(1500, 4, 1))
    (record,) = train_model(net, Kept(), windows, epochs=1, batch_size=1, print_every=0)
    mean = torch.stack(losses[-1500:]).double().mean().item()
    assert record["train_loss"] == pytest.approx(mean, rel=1e-5)


def test_evaluation_does_not_depend_on_the_batch_size(parts):
    net = fresh_net()
    assert eval_model(net, parts[1], 5) == pytest.approx(eval_model(net, parts[1], 100), rel=1e-5)


def test_a_float64_network_is_trained_on_float32_data(parts):
    net = fresh_net().double()
    train(net, parts)
    assert predict(net, parts[1])[0].dtype == torch.float64


def test_an_empty_dataset_cannot_be_forecast(parts):
    empty = torch.utils.data.Subset(parts[1], [])
    with pytest.raises(ValueError, match="at least one series"):
        predict(fresh_net(), empty)
