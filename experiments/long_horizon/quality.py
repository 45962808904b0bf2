"""Quality of the trained networks: MSE, MAE, and DTW and TDI of each variable, on the test part of ETTh1.

alpha and gamma are chosen for each network at the first horizon, where DILATE trains it with all pairs of candidates.
The pair with the smallest product of the paper's three metrics, MSE, DTW and TDI, on validation wins, and serves at
the other horizons too: there the choice would take hours. Candidates stop early, the trainings of the tables do not:
a Seq2Seq that is trained with MSE forecasts flat lines for many epochs before it finds the days.

Every finished training is a line of trainings.jsonl, which is read instead of training again if its settings are the
same.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from data import ForecastData, WindowDataset
from evaluation.metrics import dtw_tdi
from experiments.store import Result, Settings, Store
from loss import DilateLoss
from training import TrainSettings, best_record, predict, train_model
from training.losses import LOSSES

from .protocol import DAY, MODELS, Criterion, Protocol, thinned

EVERY = DAY + 1  # windows so far apart begin at all hours of a day
BATCH = 100  # windows that are forecast at once
METRICS = ("mse", "mae", "dtw", "tdi")
CHOSEN_BY = ("mse", "dtw", "tdi")
TERMS = ("shape", "temporal")
CANDIDATE, FINAL = "candidate", "final"
LAST_DAY = "last day"


@dataclass(frozen=True)
class Job:
    """One training: a network, a loss with its parameters (none for "mse"), a horizon, and when to stop."""

    model: str
    loss: str
    horizon: int
    patience: int
    alpha: float | None = None
    gamma: float | None = None

    def __str__(self) -> str:
        parameters = "" if self.loss == "mse" else f"-alpha{self.alpha:g}-gamma{self.gamma:g}"
        return f"{self.model}-{self.loss}-{self.horizon}{parameters}-patience{self.patience}"


def trained(protocol: Protocol, store: Store, job: Job) -> Result:
    """The result of a job, with its settings: done now, or read if it was done in an earlier run."""
    settings = {**asdict(job), **protocol.of_one_training}
    if (known := store.read(settings)) is None:
        store.write(known := {"settings": settings, **train(protocol, job)})
    return known


def results(protocol: Protocol, file: Path) -> Iterator[Result]:
    """Results of all jobs, as they finish, each with its role: of each network the candidates, then the final ones.

    Args:
        protocol: Says what to train.
        file: Where the results of finished jobs are kept.
    """
    store = Store(file, "settings", _name)
    for model in MODELS:
        tried = []
        for alpha, gamma in product(protocol.alphas, protocol.gammas):
            job = Job(model, "dilate", protocol.horizons[0], protocol.patience, alpha, gamma)
            tried.append(trained(protocol, store, job))
            yield {"role": CANDIDATE, **tried[-1]}
        best = {name: chosen(tried)["settings"][name] for name in ("alpha", "gamma")}
        for horizon in protocol.horizons:
            for loss, parameters in (("mse", {}), ("dilate", best)):
                job = Job(model, loss, horizon, protocol.epochs, **parameters)
                yield {"role": FINAL, **trained(protocol, store, job)}


def number_of_results(protocol: Protocol) -> int:
    """How many `results` there will be."""
    return len(MODELS) * (len(protocol.alphas) * len(protocol.gammas) + 2 * len(protocol.horizons))


def line(result: Result) -> str:
    """The line printed for a result."""
    settings, scores = result["settings"], {**result["valid"], **result["test"]}
    numbers = "  ".join(f"{metric} {scores[metric]:.4g}" for metric in (*METRICS, *TERMS) if metric in scores)
    return f"{result['role']:9}  {_name(settings):46}  best epoch {result['best_epoch']:2}  {numbers}"


def _name(settings: Settings) -> str:
    return str(Job(**{field.name: settings[field.name] for field in fields(Job)}))


def chosen(tried: list[Result]) -> Result:
    """The result with the smallest product of MSE, DTW and TDI on validation."""
    return min(tried, key=lambda result: math.prod(result["valid"][metric] for metric in CHOSEN_BY))


# ------------------------------------------------------------------------------------------------- training


def train(protocol: Protocol, job: Job) -> Result:
    """Train, and measure the best network on validation and test.

    Returns:
        The loss on validation after each epoch, the epoch whose weights were kept, metrics on validation (of DILATE
        its terms too) and on test, and an example.
    """
    task = protocol.task(job.horizon)
    net, loss = protocol.network(job.model, task), LOSSES[job.loss](job)
    valid = thinned(task.valid, EVERY)
    settings = TrainSettings(
        learning_rate=protocol.learning_rate,
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        eval_every=1,
        print_every=0,
        patience=job.patience,
        seed=protocol.seed,
    )
    windows = protocol.training_windows(task)
    history = train_model(net, loss, windows, settings=settings, valid_set=valid, progress=str(job))
    forecast, target = predict(net, task.test, BATCH)
    return {
        "valid_curve": [record["valid_loss"] for record in history],
        "best_epoch": best_record(history)["epoch"],
        "valid": measured(*predict(net, valid, BATCH), 1) | terms(loss, net, valid),
        "test": measured(forecast, target, EVERY),
        "example": example(task, forecast),
    }


def terms(loss: Criterion, net: nn.Module, windows: WindowDataset) -> dict[str, float]:
    """DILATE's two terms before they are weighted, means over the windows."""
    if not isinstance(loss, DilateLoss):
        return {}
    with torch.no_grad():
        _, shape, temporal = loss.components(*predict(net, windows, BATCH))
    return {"shape": shape.item(), "temporal": temporal.item()}


def measured(forecast: Tensor, target: Tensor, every: int) -> dict[str, float]:
    """MSE and MAE over all windows, and DTW and TDI of each variable alone, averaged, over every so many-th window.

    Args:
        forecast: (S, k, d).
        target: (S, k, d).
        every: Windows from one that is aligned to the next.
    """
    error = forecast - target
    dtw, tdi = dtw_tdi(*(one_by_one(series[::every]) for series in (forecast, target)))
    return {
        "mse": error.square().mean().item(),
        "mae": error.abs().mean().item(),
        "dtw": dtw.mean().item(),
        "tdi": tdi.mean().item(),
    }


def one_by_one(series: Tensor) -> Tensor:
    """(S, k, d) -> (S d, k, 1)."""
    return series.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def example(task: ForecastData, forecast: Tensor) -> list[float]:
    """The last variable of the forecast for the window in the middle of the test part, for a picture."""
    return [round(value, 4) for value in forecast[len(task.test) // 2, :, -1].tolist()]


def last_day(protocol: Protocol, horizon: int) -> dict[str, float]:
    """The test metrics of a baseline: the forecast that every day will be like the last one observed."""
    task = protocol.task(horizon)
    hours = torch.arange(horizon) % DAY - DAY
    return measured(task.test.inputs[:, hours], task.test.targets, EVERY)
