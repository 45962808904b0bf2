"""Shared by all tables: the paper's settings, the settings chosen on validation data, and the flags."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from joblib import cpu_count

from benchmarks.common import count
from evaluation.paper import PAPER_ALPHA, PAPER_GAMMA, RUNS
from experiments.jobs import BACKENDS, Job, JobStore, run_all
from experiments.store import DamagedStoreError, Result

__all__ = ["CHOICES", "DATASETS", "METRICS", "MODELS", "RESULTS", "Command", "choices", "data_path", "job"]

RESULTS = Path(__file__).parent / "results"
CHOICES = RESULTS / "choices.json"  # made by experiments.choose

DATASETS = {"synthetic": "Synthetic", "ecg5000": "ECG5000", "traffic": "Traffic"}
MODELS = {"mlp": "MLP", "seq2seq": "Seq2Seq"}
METRICS = {"mse": "MSE", "dtw": "DTW", "tdi": "TDI", "hausdorff": "Hausdorff", "ramp": "Ramp"}

EPOCHS = 1000  # at most, section 4.1
# An epoch of Synthetic, ECG5000 and Traffic is 5, 4 and 104 steps.
EVAL_EVERY = {"synthetic": 5, "ecg5000": 5, "traffic": 1}
HELD_OUT = {"ecg5000": 100}


def choices() -> dict[str, dict[str, float]]:
    """The choices of `experiments.choose` on validation data: ``dataset-model-loss`` -> settings of its jobs."""
    return json.loads(CHOICES.read_text()) if CHOICES.exists() else {}


def job(dataset: str, model: str, loss: str, seed: int, **settings: float | None) -> Job:
    """A job with the paper's settings and the chosen ones, where ``settings`` does not give others.

    Raises:
        LookupError: If learning rate and patience are neither chosen nor given.
    """
    paper = {
        "epochs": EPOCHS,
        "eval_every": EVAL_EVERY[dataset],
        "gamma": None if loss == "mse" else PAPER_GAMMA,
        "alpha": PAPER_ALPHA[dataset] if loss == "dilate" else None,
        "held_out": HELD_OUT.get(dataset),
    }
    chosen = choices().get(f"{dataset}-{model}-{loss}", {})
    merged = paper | chosen | settings
    if not {"learning_rate", "patience"} <= merged.keys():
        raise LookupError(f"Nothing was chosen for {dataset}-{model}-{loss} yet: see python -m experiments.choose.")
    return Job(dataset, model, loss, seed, **merged)


@dataclass(frozen=True)
class Command:
    """A table's command line: what to run, how, and where to keep it."""

    datasets: list[str]
    runs: int
    epochs: int
    workers: int
    backend: str
    data_paths: dict[str, str]
    results: Path
    report_only: bool

    @classmethod
    def parse(
        cls,
        name: str,
        description: str,
        argv: Sequence[str] | None,
        datasets: Sequence[str] = tuple(DATASETS),
        has_runs: bool = True,
    ) -> "Command":
        """Read the flags of the module ``name``, whose table has these datasets and may repeat its trainings."""
        parser = argparse.ArgumentParser(
            prog=f"python -m experiments.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add, number = parser.add_argument, {"type": count, "metavar": "N"}
        several = {"nargs": "+", "choices": datasets, "default": list(datasets), "metavar": "NAME"}
        if len(datasets) > 1:
            add("--datasets", **several, help=f"of {', '.join(datasets)} (default: all)")
        if has_runs:
            add("--runs", **number, default=RUNS, help="seeds 0 to N - 1 (paper and default: 10)")
        add("--epochs", **number, default=EPOCHS, help="at most (paper and default: 1000)")
        at_a_time = "at a time, one thread each (default: all cores, %(default)s)"
        add("--jobs", dest="workers", **number, default=cpu_count(), help=at_a_time)
        add("--backend", choices=list(BACKENDS), default="loky", help="of joblib (default: loky, processes here)")
        paths = {"nargs": "+", "type": data_path(DATASETS), "default": [], "metavar": "NAME=PATH"}
        add("--data-path", dest="data_paths", **paths, help="where a dataset's files are: traffic=traffic.csv")
        add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: experiments/results")
        add("--report-only", action="store_true", help="only write the table, from the jobs that are finished")
        args = {"datasets": list(datasets), "runs": 1, **vars(parser.parse_args(argv))}
        return cls(**args | {"data_paths": dict(args["data_paths"])})

    def collect(self, cells: Mapping[tuple, list[Job]]) -> dict[tuple, list[Result]]:
        """Run the jobs of all cells, unless only a report is wanted, and return the finished ones of each.

        Args:
            cells: Cell of a table -> its jobs, one per seed.

        Raises:
            SystemExit: 1, if a job failed; 2, if the backend is not installed or the file of results is damaged; 130,
                if interrupted by Ctrl-C. Finished jobs are kept.
        """
        store, failed = JobStore(self.results), []
        try:
            if not self.report_only:
                # Seed by seed, so that all cells have as many runs when it is interrupted.
                rounds = [job for jobs in zip_longest(*cells.values()) for job in jobs if job is not None]
                failed = run_all(rounds, store, self.data_paths, self.workers, self.backend)
            found = {cell: [store.read(job.settings) for job in jobs] for cell, jobs in cells.items()}
        except ModuleNotFoundError as missing:
            _end(2, f"--backend {self.backend} needs a package that is not installed: {missing.name}.")
        except KeyboardInterrupt:
            _end(130, "\nInterrupted; the same command goes on from here.")
        except DamagedStoreError as problem:
            _end(2, str(problem))
        if failed:
            _end(1, f"{len(failed)} jobs failed, see above; the same command runs them again, and no other one.")
        return {cell: [result for result in results if result is not None] for cell, results in found.items()}

    def jobs(self, dataset: str, model: str, loss: str, **settings: float | None) -> list[Job]:
        """The jobs of one cell, one per seed."""
        settings = {"epochs": self.epochs, **settings}
        try:
            return [job(dataset, model, loss, seed, **settings) for seed in range(self.runs)]
        except LookupError as problem:
            _end(2, problem.args[0])


def _end(code: int, sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(code) from None


def data_path(names: Collection[str]) -> Callable[[str], tuple[str, str]]:
    """The argparse type of where a dataset's files are, ``NAME=PATH`` with one of these names."""

    def read(text: str) -> tuple[str, str]:
        name, equals, path = text.partition("=")
        if name not in names or not equals or not path:
            raise argparse.ArgumentTypeError(f"must be NAME=PATH with a name of {', '.join(names)}, got {text!r}")
        return name, str(Path(path).expanduser().absolute())

    return read
