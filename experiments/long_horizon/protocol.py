"""Shared by both parts of the experiment: the data, the networks, and the losses that train them."""

import hashlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from benchmarks.common import count
from benchmarks.contenders import released_function
from data import ForecastData, WindowDataset, load
from data.csv_dataset import existing_file
from data.windows import check_count
from models import build_model
from training.losses import LOSSES

DAY = 24  # rows
MODELS = ("mlp", "seq2seq")

Criterion = Callable[[Tensor, Tensor], Tensor]


def _flag(default: object, meaning: str, **options: object) -> Any:
    """A setting that has a flag of its own, with this help."""
    return field(default=default, metadata={**options, "help": f"{meaning} (default: %(default)s)"})


ROWS, NUMBER = {"type": count, "metavar": "ROWS"}, {"type": count, "metavar": "N"}
CANDIDATES = {"nargs": "+", "type": float, "metavar": "X"}


@dataclass(frozen=True)
class Protocol:
    """The settings; the defaults are the ones of the committed results.

    The split is the literature's for ETTh1 (Zhou et al., Informer, AAAI 2021): 12, 4 and 4 months of 30 days, the
    rest of the file unused, inputs of validation and test reaching back into the part before. The stride is prime to
    24, so that training windows begin at all hours of a day.
    """

    data_path: str  # a CSV file whose rows are hours; all of its columns of numbers are observed and forecast
    split: tuple[int, int, int] = _flag((8640, 2880, 2880), "of train, validation and test", nargs=3, **ROWS)
    input_length: int = _flag(336, "N_input; at least a day, to which forecasts are compared", **ROWS)
    horizons: tuple[int, ...] = _flag(
        (96, 192, 336, 720), "N_output; alpha and gamma are chosen at the first", nargs="+", **ROWS
    )
    batch_size: int = _flag(32, "windows per training step", **NUMBER)
    stride: int = _flag(5, "from one training window to the next", **ROWS)
    epochs: int = _flag(30, "of each training, which ends with the weights of the least loss on validation", **NUMBER)
    patience: int = _flag(3, "epochs without a lower loss, after which the training of a candidate stops", **NUMBER)
    learning_rate: float = _flag(1e-3, "Adam's", type=float, metavar="X")
    alphas: tuple[float, ...] = _flag((0.1, 0.02, 0.005, 0.001), "candidates for DILATE's alpha", **CANDIDATES)
    gammas: tuple[float, ...] = _flag(
        (1.0, 10.0, 100.0), "candidates for DILATE's gamma, in squared standard deviations", **CANDIDATES
    )
    seed: int = _flag(0, "of the initial weights and of the batches", type=int, metavar="N")

    def __post_init__(self) -> None:
        check_count("input_length", self.input_length, at_least=DAY)

    @classmethod
    def of(cls, args: Namespace) -> Self:
        """The protocol of a command line."""
        given = {field.name: getattr(args, field.name) for field in fields(cls)}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})

    def task(self, horizon: int) -> ForecastData:
        """All windows; every variable standardised by its training part.

        Raises:
            ValueError, TypeError, OSError: As `data.load` says.
        """
        options = {"path": self.data_path, "columns": "all", "split": self.split, "reach_back": True}
        return load("csv", **options, input_length=self.input_length, horizon=horizon)

    def network(self, model: str, task: ForecastData) -> nn.Module:
        """The paper's network of that kind, with its initial weights, forecasting from the last value."""
        torch.manual_seed(self.seed)
        sizes = {n: getattr(task, n) for n in ("input_length", "horizon", "input_size", "output_size")}
        return FromLastValue(build_model(model, **sizes, gru="fused"))

    def training_windows(self, task: ForecastData) -> WindowDataset:
        """The windows to train the networks on."""
        return thinned(task.train, self.stride)

    @cached_property
    def of_one_training(self) -> dict[str, object]:
        """The settings that decide over the result of one training, with the file told by its content."""
        shared = ("split", "input_length", "batch_size", "stride", "epochs", "learning_rate", "seed")
        settings = {name: asdict(self)[name] for name in shared}
        content = hashlib.sha256(existing_file(self.data_path, "the CSV file").read_bytes()).hexdigest()
        return {"data": content[:16], **settings, "split": list(self.split)}


class FromLastValue(nn.Module):
    """Forecast the differences from the last observed values, and add those values again.

    The level of ETTh1 drifts from part to part, which no network can learn from the first one: without this the MLP,
    trained with MSE, has a test MSE of 0.94 instead of 0.50 at 96 hours, and 1.16 instead of 0.56 at 336. Zeng et al.
    (AAAI 2023) call a linear network of this kind NLinear.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(B, N_input, d) -> (B, N_output, d)."""
        last = x[:, -1:]
        return self.net(x - last) + last


def thinned(windows: WindowDataset, stride: int) -> WindowDataset:
    """Every so many-th window."""
    return WindowDataset(windows.inputs[::stride], windows.targets[::stride])


def criterion(loss: str, alpha: float | None, gamma: float | None, original: Path | None = None) -> Criterion:
    """A loss by its name.

    Args:
        loss: "mse", "dilate" (all variables aligned together), "dilate per variable" (each on its own, the mean over
            them) or "released per variable".
        alpha: DILATE's weight of shape against time; of no meaning for "mse", like gamma.
        gamma: Its smoothing, in squared units of the data.
        original: A clone of the released DILATE, which takes one variable at a time.
    """
    if loss != "released per variable":
        return LOSSES[loss](Namespace(alpha=alpha, gamma=gamma))
    dilate_loss = released_function(original)

    def mean_over_variables(prediction: Tensor, target: Tensor) -> Tensor:
        pairs = zip(prediction.split(1, dim=2), target.split(1, dim=2), strict=True)
        return torch.stack([dilate_loss(x, y, alpha, gamma, "cpu")[0] for x, y in pairs]).mean()

    return mean_over_variables
