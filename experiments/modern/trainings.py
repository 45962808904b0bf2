"""The study's trainings: what comes of one, and which there are."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from data import WindowDataset
from evaluation.metrics import evaluate_forecasts, ramp_score
from experiments.store import Result, Settings, Store, Training
from training import TrainSettings, best_record, predict, train_model

from .protocol import (
    BATCH_SIZE,
    CHOICE_SEED,
    ENOUGH,
    LEARNING_RATE,
    TASKS,
    TRAINED_WITH,
    Part,
    Protocol,
    Windows,
    by_rule,
    criterion,
    network,
)

METRICS = {"mse": "MSE", "mae": "MAE", "dtw": "DTW", "tdi": "TDI", "ramp": "ramp score"}
CHOSEN_BY = ("mse", "dtw", "tdi")
BASELINES = ("last value", "last day")
EXAMPLES = (1 / 3, 2 / 3)  # where in the test part the windows of the figure are
AT_ONCE = 500  # windows that are forecast


@dataclass(frozen=True)
class Job(Training):
    """One training, or one baseline; None stands for a setting that its loss does not have.

    Attributes:
        task: A name of `protocol.TASKS`.
        network: A name of `protocol.NETWORKS`, or of `BASELINES`.
        loss: A name of `protocol.TRAINED_WITH`; None for a baseline.
        seed: Of initial weights, dropout and batches.
        steps: About as many, in whole epochs.
        alpha: DILATE's weight of shape against time.
        gamma: Smoothing, in squared standard deviations of an input.
        share: By which gamma follows from the data ("rule").
        balance: By which alpha does.
    """

    task: str
    network: str
    loss: str | None = None
    seed: int | None = None
    steps: int | None = None
    alpha: float | None = None
    gamma: float | None = None
    share: float | None = None
    balance: float | None = None

    @property
    def dataset(self) -> str:
        """Name of the files that it needs."""
        return TASKS[self.task].dataset

    @staticmethod
    def prefix(settings: Settings) -> str:
        """Task, network, and what else it was trained with."""
        loss = f"-{settings['loss']}-seed{settings['seed']}" if "loss" in settings else ""
        return f"{settings['task']}-{settings['network']}{loss}"


def store_in(folder: Path) -> Store:
    """Where the results are kept."""
    return Store(folder / "trainings.jsonl", "job", Job.name_of)


# ------------------------------------------------------------------------------------------------- one training


def run(job: Job, store: Store, data_path: str | None = None) -> Result:
    """Train and measure a network, or measure a baseline, and keep the result.

    Returns:
        ``job``, its settings, and ``test``, metrics. Of a training ``valid``, too; ``alpha`` and ``gamma``, None
        where the loss has none; ``valid_curve``, the loss on validation after each epoch; ``epochs`` and
        ``best_epoch``; ``seconds_per_step``; ``examples``, two forecasts of a training that chooses nothing.
    """
    torch.set_num_threads(1)
    windows = _windows(job.task, data_path)
    if job.network in BASELINES:
        result = {"test": _measured(_naive(windows.test, job), windows.test), "epochs": 0, "best_epoch": None}
    else:
        result = _train(windows, job)
    store.write(result := {"job": job.settings, **result})
    return result


@cache  # a worker runs many jobs
def _windows(task: str, path: str | None) -> Windows:
    return TASKS[task].load(path)


def _train(windows: Windows, job: Job) -> Result:
    train, valid, test = windows
    net = network(job.network, train.windows.inputs.shape[1], train.windows.targets.shape[1], job.seed)
    steps_per_epoch = math.ceil(len(train.windows) / BATCH_SIZE)
    settings = TrainSettings(
        learning_rate=LEARNING_RATE,
        epochs=max(1, round(job.steps / steps_per_epoch)),
        batch_size=BATCH_SIZE,
        eval_every=1,
        print_every=0,
        seed=job.seed,
    )
    alpha, gamma = by_rule(train, job.share, job.balance) if job.loss == "rule" else (job.alpha, job.gamma)
    loss = criterion(job.loss, alpha, gamma)
    history = train_model(net, loss, train.windows, settings=settings, valid_set=_thinned(valid.windows))
    forecast = _predicted(net, test)
    shown = [] if job.seed == CHOICE_SEED else [int(len(forecast) * where) for where in EXAMPLES]
    return {
        "alpha": alpha,
        "gamma": gamma,
        "valid": _measured(_predicted(net, valid), valid),
        "test": _measured(forecast, test),
        "valid_curve": [_short(record["valid_loss"]) for record in history],
        "epochs": settings.epochs,
        "best_epoch": best_record(history)["epoch"],
        "seconds_per_step": _short(history[-1]["seconds"] / (settings.epochs * steps_per_epoch)),
        "examples": [[float(f"{value:.4g}") for value in forecast[window, :, 0].tolist()] for window in shown],
    }


def _thinned(windows: WindowDataset, at_most: int = 400) -> WindowDataset:
    """So many windows, evenly apart."""
    every = math.ceil(len(windows) / at_most)
    return WindowDataset(windows.inputs[::every], windows.targets[::every])


def _predicted(net: nn.Module, part: Part) -> Tensor:
    """Forecasts of all its windows, in the units of `data.load`."""
    forecast, _ = predict(net, part.windows, AT_ONCE)
    return part.restored(forecast)


def _naive(part: Part, job: Job) -> Tensor:
    """The last value, or the same hours of the last day."""
    x, steps = part.windows.inputs, torch.arange(part.windows.targets.shape[1])
    season = 1 if job.network == "last value" else TASKS[job.task].season
    return part.restored(x[:, steps % season - season])


def _measured(forecast: Tensor, part: Part) -> dict[str, float]:
    """Means over all windows, in the units of `data.load`."""
    target = part.restored(part.windows.targets)
    scores = evaluate_forecasts(forecast, target)
    scores |= {"mae": (forecast - target).abs().mean().item(), "ramp": ramp_score(forecast, target).mean()}
    return {metric: _short(float(scores[metric])) for metric in METRICS}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


# ------------------------------------------------------------------------------------------------- which trainings

Cell = tuple[str, str]  # task and network
Tried = Mapping[str, Sequence[Result]]  # loss -> candidates


def baseline_jobs(protocol: Protocol) -> list[Job]:
    """The last value, and the last day where there are days."""
    pairs = product(protocol.tasks, BASELINES)
    return [Job(task, name) for task, name in pairs if name == "last value" or TASKS[task].season is not None]


def budget_jobs(protocol: Protocol, cell: Cell) -> dict[str, list[Job]]:
    """The trainings in the longest budget, by which the budget of a cell is chosen (rule 2)."""
    alpha, gamma = (
        sorted(candidates)[(len(candidates) - 1) // 2] for candidates in (protocol.alphas, protocol.gammas)
    )
    settings = {"mse": {}, "mae": {}, "soft_dtw": {"gamma": gamma}, "dilate": {"alpha": alpha, "gamma": gamma}}
    longest = max(protocol.budgets)
    return {loss: [Job(*cell, loss, CHOICE_SEED, longest, **given)] for loss, given in settings.items()}


def budget(protocol: Protocol, tried: Tried) -> int:
    """The least budget that suffices for all losses (rule 2)."""
    return max(_enough(protocol, result["valid_curve"]) for results in tried.values() for result in results)


def _enough(protocol: Protocol, curve: Sequence[float]) -> int:
    least, longest = min(curve), max(protocol.budgets)
    enough = curve[0] - ENOUGH * (curve[0] - least)
    epochs = {steps: max(1, round(len(curve) * steps / longest)) for steps in sorted(protocol.budgets)}
    return next(steps for steps, within in epochs.items() if min(curve[:within]) <= enough)


def candidate_jobs(protocol: Protocol, cell: Cell, steps: int) -> dict[str, list[Job]]:
    """The trainings that choose gamma of soft-DTW, alpha and gamma of DILATE (rule 4), share and balance (rule 5)."""
    pairs, rules = product(protocol.alphas, protocol.gammas), product(protocol.shares, protocol.balances)
    return {
        "soft_dtw": [Job(*cell, "soft_dtw", CHOICE_SEED, steps, gamma=gamma) for gamma in protocol.gammas],
        "dilate": [Job(*cell, "dilate", CHOICE_SEED, steps, alpha, gamma) for alpha, gamma in pairs],
        "rule": [Job(*cell, "rule", CHOICE_SEED, steps, share=share, balance=balance) for share, balance in rules],
    }


def score(result: Result) -> float:
    """The product of MSE, DTW and TDI on validation."""
    return math.prod(result["valid"][metric] for metric in CHOSEN_BY)


def best(tried: Tried, loss: str) -> Result:
    """The candidate of a loss with the smallest score."""
    return min(tried[loss], key=score)


def excess(tried: Collection[Tried], number: int, kind: str = "rule") -> list[float]:
    """The score of a candidate in each cell, relative to that of the DILATE that wins there."""
    return [score(of[kind][number]) / score(best(of, "dilate")) for of in tried]


def best_rule(tried: Collection[Tried]) -> int:
    """The number of the share and the balance with the least excess, in the geometric mean over all cells."""
    numbers = range(len(next(iter(tried))["rule"]))
    return min(numbers, key=lambda number: statistics.geometric_mean(excess(tried, number)))


def final_jobs(protocol: Protocol, tried: Mapping[Cell, Tried]) -> list[Job]:
    """The trainings of the tables, with the chosen settings, seed by seed."""
    rule = best_rule(tried.values())
    jobs = []
    for seed, (cell, of) in product(protocol.seeds, tried.items()):
        won = {"soft_dtw": best(of, "soft_dtw"), "dilate": best(of, "dilate"), "rule": of["rule"][rule]}
        steps = won["dilate"]["job"]["steps"]
        for loss in TRAINED_WITH:
            given = won[loss]["job"] if loss in won else {"task": cell[0], "network": cell[1], "loss": loss}
            jobs.append(Job(**given | {"seed": seed, "steps": steps}))
    return jobs
