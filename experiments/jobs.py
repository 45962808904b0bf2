"""Trainings as jobs: each ends as a line of results/jobs.jsonl, and any number of them run side by side.

A job whose line is there is not run again, so an interrupted table goes on where it was, and a changed setting makes
a new job. Networks are trained on the CPU, with one thread each.
"""

import os
import platform
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch
from joblib import Parallel, delayed, parallel_config
from torch import nn
from tqdm import tqdm

from data import ForecastData, load
from evaluation.metrics import evaluate_forecasts, hausdorff, ramp_score
from experiments.store import Result, Settings, Store, Training
from loss import DilateLoss
from models import build_model
from training import TrainSettings, atomic_write, best_record, predict, train_model
from training.losses import LOSSES

__all__ = ["BACKENDS", "Job", "JobStore", "run", "run_all"]

# Ray hands its results over when all are there; the others one by one.
BACKENDS = {"loky": "generator_unordered", "dask": "generator_unordered", "ray": "list"}


@dataclass(frozen=True)
class Job(Training):
    """All settings that one training depends on; None stands for a setting that the training does not have.

    Attributes:
        dataset: A name of `data.DATASETS`.
        model: A name of `models.MODELS`.
        loss: One of `training.losses.LOSSES`.
        seed: Of initial weights and batches; the data are the same for all seeds.
        learning_rate: Adam's step size.
        epochs: Passes over the training set, at most.
        eval_every: Epochs between two looks at the validation set.
        patience: Looks without improvement after which the training stops.
        batch_size: Series per step.
        gamma: Smoothing of the losses that have one.
        alpha: Weight of shape against time, or of Delta against Omega.
        band: T of the tangled band version.
        held_out: Training series held out for validation, where the dataset has no such part.
        clip_norm: Length to which longer gradients are shortened.
    """

    dataset: str
    model: str
    loss: str
    seed: int
    learning_rate: float
    epochs: int
    eval_every: int
    patience: int
    batch_size: int = 100
    gamma: float | None = None
    alpha: float | None = None
    band: int | None = None
    held_out: int | None = None
    clip_norm: float | None = None

    @staticmethod
    def prefix(settings: Settings) -> str:
        """Dataset, network, loss and seed."""
        return "{dataset}-{model}-{loss}-seed{seed}".format(**settings)


class JobStore(Store):
    """A folder where jobs keep their results, in ``jobs.jsonl``, their weights, and their checkpoints until then."""

    def __init__(self, folder: Path):
        super().__init__(folder / "jobs.jsonl", "job", Job.name_of)

    def checkpoint(self, job: Job) -> Path:
        """State of a training that has not finished."""
        return self.path.with_name("weights") / f"{job.name}.training.pt"

    def weights(self, job: Job) -> Path:
        """The state_dict of a finished one."""
        return self.path.with_name("weights") / f"{job.name}.pt"


def run(job: Job, store: JobStore, data_path: str | None = None) -> Result:
    """Train one network, or what is left of it, measure it, and keep the result.

    Args:
        job: What to train.
        store: Where to keep it.
        data_path: Where its dataset is, for one that is read from files.

    Returns:
        ``job``, its settings; ``test`` and ``valid``, the mean metrics of its best weights on these sets;
        ``best_epoch``; ``epochs``, the number of trained epochs; ``history``, with a list per column; ``seconds``,
        of training without evaluation; ``versions``.
    """
    torch.set_num_threads(1)
    data = _data(job.dataset, data_path, job.held_out)
    net, checkpoint = _network(job, data), store.checkpoint(job)
    settings = TrainSettings(
        learning_rate=job.learning_rate,
        clip_norm=job.clip_norm,
        epochs=job.epochs,
        batch_size=job.batch_size,
        eval_every=job.eval_every,
        print_every=0,
        patience=job.patience,
        seed=job.seed,
    )
    criterion = LOSSES[job.loss](job)
    history = train_model(net, criterion, data.train, settings=settings, valid_set=data.valid, checkpoint=checkpoint)
    result = {
        "job": job.settings,
        "test": _scores(net, data.test),
        "valid": _scores(net, data.valid),
        "best_epoch": best_record(history)["epoch"],
        "epochs": history[-1]["epoch"] + 1,
        "history": {name: [_short(record[name]) for record in history] for name in history[0] if name != "seconds"},
        "seconds": _short(history[-1]["seconds"]),
        "versions": _versions(),
    }
    with atomic_write(store.weights(job)) as file:
        torch.save(net.state_dict(), file)
    store.write(result)
    checkpoint.unlink()
    return result


def run_all(
    jobs: Iterable[Job],
    store: JobStore,
    data_paths: Mapping[str, str] | None = None,
    workers: int = 1,
    backend: str = "loky",
    train: Callable[..., Result] | None = None,
) -> list[Job]:
    """Run the jobs that have no result yet, side by side, with a progress bar where stderr is a terminal.

    Args:
        jobs: What to run, in this order.
        store: Where to keep it.
        data_paths: Dataset -> where it is.
        workers: How many to run at a time.
        backend: Of joblib, one of `BACKENDS`: ``"loky"`` for processes here, ``"dask"`` for a cluster at the address
            that dask's configuration names (``DASK_SCHEDULER_ADDRESS``), or processes here if it names none,
            ``"ray"`` likewise (``RAY_ADDRESS``).
        train: ``train(job, store, data_path)``, which trains, keeps the result and returns it: `run` by default.

    Returns:
        The jobs that failed; what went wrong is printed, and the others are not affected.

    Raises:
        DamagedStoreError: If the store cannot be read.
    """
    jobs = list(dict.fromkeys(jobs))
    left, paths = [job for job in jobs if store.read(job.settings) is None], data_paths or {}
    failed = []
    # smoothing=0: the time left by the mean of all jobs so far, not of the last ones.
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(left), unit="job", smoothing=0, disable=None)
    with bar, _cluster(backend, workers), parallel_config(backend, n_jobs=workers):
        calls = (delayed(_attempt)(train or run, job, store, paths.get(job.dataset)) for job in left)
        for job, result, problem, seconds in Parallel(return_as=BACKENDS[backend], batch_size=1)(calls):
            if result is None:
                failed.append(job)
                tqdm.write(f"{job.name} failed\n{problem}")
            else:
                if store.read(job.settings) is None:  # it was run on another machine
                    store.write(result)
                tqdm.write(f"{job.name}  best epoch {result['best_epoch']} of {result['epochs']}  {seconds:.0f} s")
            bar.update()
    return failed


def _attempt(
    train: Callable[..., Result], job: Job, store: JobStore, data_path: str | None
) -> tuple[Job, Result | None, str, float]:
    begun = perf_counter()
    try:
        result, problem = train(job, store, data_path), ""
    except Exception:
        result, problem = None, traceback.format_exc()
    return job, result, problem, perf_counter() - begun


@contextmanager
def _cluster(backend: str, workers: int) -> Iterator[None]:
    """Connect to the cluster that the backend's own configuration names; without one, start it here."""
    if backend == "dask":
        import dask
        from distributed import Client

        address = dask.config.get("scheduler-address", None)
        here = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with Client(address) if address else Client(**here):
            yield
    elif backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        register_ray()
        ray.init(**({} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}))
        try:
            yield
        finally:
            ray.shutdown()
    else:
        yield


@cache  # a worker runs many jobs
def _data(dataset: str, path: str | None, held_out: int | None) -> ForecastData:
    options = {"path": path, "held_out": held_out}
    return load(dataset, **{name: value for name, value in options.items() if value is not None})


def _network(job: Job, data: ForecastData) -> nn.Module:
    torch.manual_seed(job.seed)
    return build_model(job.model, input_length=data.input_length, horizon=data.horizon, gru="fused")


def _scores(net: nn.Module, dataset: torch.utils.data.Dataset) -> dict[str, float]:
    """All metrics of the paper, and DILATE itself, by which trainings with different losses can be compared."""
    prediction, target = predict(net, dataset)
    return evaluate_forecasts(prediction, target) | {
        "hausdorff": float(hausdorff(prediction, target).mean()),
        "ramp": float(ramp_score(prediction, target).mean()),
        "dilate": float(DilateLoss(0.5, 0.01)(prediction, target)),
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "numba", "ruptures")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
