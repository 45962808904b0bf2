"""Tasks, networks and losses of the study, and the rules by which settings are chosen, all on validation.

The rules were written down before any test metric was seen. One thing was changed after some were: the candidates for
gamma were 0.01, 0.1 and 1, of which validation chose 1 nearly everywhere, so 10 was added.

1. Windows are standardised each by the mean and standard deviation of its own input, as neuralforecast's scaler
   "standard" does, and the losses see these units. Metrics are taken in the units of `data.load`.
2. All losses have one budget of steps for a task and a network. It is the least of `budgets` by whose end the loss on
   validation of trainings with MSE, MAE, soft-DTW and DILATE, alpha and gamma in the lower middle of the candidates,
   has come down by 95 % of what it comes down after the first epoch in the longest budget.
3. Every training keeps the weights of the epoch with the least loss on validation, by the loss that it trains with.
4. The candidates for alpha and gamma are trained once, with a seed that no other training has. The one with the
   smallest product of MSE, DTW and TDI on validation wins. soft-DTW's gamma is chosen likewise.
5. "DILATE by rule" needs no search. gamma is a share of the median cost of a cell, and alpha makes the weighted shape
   term so many times the weighted temporal one ("balance"), both measured on the forecast that repeats the last
   observed value, over the training windows. Share and balance are those whose products of rule 4, relative to those
   of the candidates that win, have the least geometric mean over all tasks and networks.
"""

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data import WindowDataset, load
from loss import DilateLoss
from training.losses import LOSSES

BATCH_SIZE = 32
LEARNING_RATE = 1e-3  # neuralforecast's default
CHOICE_SEED = 100  # of the trainings that choose
ENOUGH = 0.95  # of what a loss on validation comes down in the longest budget
TINY = 1e-3  # a smaller standard deviation of an input, such as that of a constant one, counts as this

NETWORKS = {"nhits": "N-HiTS", "patchtst": "PatchTST", "tide": "TiDE"}
TRAINED_WITH = {"mse": "MSE", "mae": "MAE", "soft_dtw": "soft-DTW", "dilate": "DILATE", "rule": "DILATE by rule"}


@dataclass(frozen=True)
class Task:
    """What is forecast.

    Attributes:
        title: What to call it.
        dataset: Name of its files.
        options: Of `data.load`, but for where the files are.
        stride: From one training window to the next.
        season: Steps of a day; None where there is none.
    """

    title: str
    dataset: str
    options: dict[str, Any]
    stride: int = 1
    season: int | None = None

    def load(self, path: str | None) -> "Windows":
        """Its windows.

        Raises:
            ValueError, OSError: As `data.load` says.
        """
        data = load(path=path, **self.options)
        return Windows(
            train=standardised(data.train, self.stride), valid=standardised(data.valid), test=standardised(data.test)
        )


def _etth1(horizon: int) -> Task:
    split = (8640, 2880, 2880)  # the literature's (Zhou et al., Informer, AAAI 2021)
    options = {"name": "csv", "columns": "OT", "split": split, "reach_back": True}
    return Task(f"ETTh1, OT, {horizon} hours", "etth1", options | {"input_length": 192, "horizon": horizon}, 5, 24)


TASKS = {
    "etth1-48": _etth1(48),
    "etth1-96": _etth1(96),
    "traffic": Task("Traffic, 24 hours", "traffic", {"name": "traffic"}, 7, 24),
    "ecg5000": Task("ECG5000, 56 steps", "ecg5000", {"name": "ecg5000", "held_out": 100}),
}
DATASETS = tuple(dict.fromkeys(task.dataset for task in TASKS.values()))


class Part(NamedTuple):
    """Windows that are standardised each by its own input, and how: both (S, 1, 1)."""

    windows: WindowDataset
    mean: Tensor
    std: Tensor

    def restored(self, values: Tensor) -> Tensor:
        """(S, k, 1) in the units of `data.load` again."""
        return values * self.std + self.mean


class Windows(NamedTuple):
    """The parts of a task."""

    train: Part
    valid: Part
    test: Part


def standardised(windows: WindowDataset, stride: int = 1) -> Part:
    """Every so many-th window, less the mean of its input and divided by its input's standard deviation."""
    inputs, targets = windows.inputs[::stride], windows.targets[::stride]
    mean, std = inputs.mean(1, keepdim=True), inputs.std(1, keepdim=True).clamp_min(TINY)
    return Part(WindowDataset((inputs - mean) / std, (targets - mean) / std), mean, std)


def _setting(default: tuple, meaning: str, kind: type) -> Any:
    return field(default=default, metadata={"help": meaning, "type": kind})


@dataclass(frozen=True)
class Protocol:
    """What is tried; the defaults are the committed results'."""

    tasks: tuple[str, ...] = field(default=tuple(TASKS), metadata={"help": "to forecast", "choices": TASKS})
    networks: tuple[str, ...] = field(default=tuple(NETWORKS), metadata={"help": "to train", "choices": NETWORKS})
    seeds: tuple[int, ...] = _setting((0, 1, 2, 3, 4), "of initial weights and batches", int)
    budgets: tuple[int, ...] = _setting((150, 300, 600), "training steps to choose from", int)
    alphas: tuple[float, ...] = _setting((0.1, 0.5, 0.9), "candidates for DILATE's alpha", float)
    gammas: tuple[float, ...] = _setting((0.01, 0.1, 1.0, 10.0), "candidates for gamma", float)
    shares: tuple[float, ...] = _setting((0.001, 0.01, 0.1), "candidates for gamma's share of a median cost", float)
    balances: tuple[float, ...] = _setting((1.0, 10.0), "candidates for shape over time at the start", float)


class NeuralForecastNetwork(nn.Module):
    """A network of neuralforecast, called with windows alone: (B, N_input, 1) -> (B, N_output, 1)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Forecast."""
        nothing = dict.fromkeys(("futr_exog", "hist_exog", "stat_exog"))
        return self.net({"insample_y": x, "insample_mask": torch.ones_like(x), **nothing})


def network(name: str, input_length: int, horizon: int, seed: int) -> nn.Module:
    """A network with its initial weights; smaller than neuralforecast's defaults, which are made for a GPU."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # which would tell every seed
    from neuralforecast.models import NHITS, PatchTST, TiDE  # takes seconds, and --report-only goes without

    makers = {
        "nhits": lambda **sizes: NHITS(mlp_units=3 * [[256, 256]], **sizes),
        "patchtst": lambda **sizes: PatchTST(
            hidden_size=32, linear_hidden_size=64, n_heads=4, encoder_layers=2, **sizes
        ),
        "tide": lambda **sizes: TiDE(hidden_size=128, decoder_output_dim=16, temporal_decoder_dim=64, **sizes),
    }
    net = makers[name](input_size=input_length, h=horizon, random_seed=seed, accelerator="cpu", logger=False)
    return NeuralForecastNetwork(net)


def criterion(loss: str, alpha: float | None, gamma: float | None) -> nn.Module:
    """What a loss of `TRAINED_WITH` minimises."""
    if loss == "mae":
        return nn.L1Loss()
    return LOSSES["dilate" if loss == "rule" else loss](Namespace(alpha=alpha, gamma=gamma))


def by_rule(train: Part, share: float, balance: float) -> tuple[float, float]:
    """Alpha and gamma of "DILATE by rule" (rule 5), to three digits."""
    forecast = train.windows.inputs[:, -1:].expand_as(train.windows.targets)
    gamma = share * (forecast - train.windows.targets).square().median().item()
    _, shape, temporal = DilateLoss(0.5, gamma).components(forecast, train.windows.targets)
    alpha = balance * temporal / (balance * temporal + shape)  # alpha shape = balance (1 - alpha) temporal
    return float(f"{alpha:.3g}"), float(f"{gamma:.3g}")
