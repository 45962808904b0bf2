"""The folder that a run leaves behind: settings, metrics, results, checkpoints and figures."""

import csv
import io
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from .checkpoint import Record, atomic_write, errors_name

__all__ = ["METRICS", "RunFolder", "Settings", "flattened", "new_folder"]

Settings = dict[str, object]

METRICS = ("mse", "dtw", "tdi")
RESULT_COLUMNS = ("loss", "epoch", "train_loss", "valid_loss", *METRICS, "seconds")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its settings, metrics, results, checkpoints and figures."""

    path: Path

    @property
    def config(self) -> Path:
        """Settings of the run, and the versions it was started with (JSON)."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per evaluation and line."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """Final metrics, in full precision (CSV); ``epoch`` counts from 0, so that 499 is the last one of 500."""
        return self.path / "results.csv"

    @property
    def figures(self) -> Path:
        """Folder of the figures (PNG)."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, loss: str) -> Path:
        """State of the training with that loss, as of its last evaluation."""
        return self.checkpoints / f"{loss}.pt"

    def create(self) -> None:
        """Make the folder; one that already holds a run, or a file that a run writes, is refused.

        Raises:
            FileExistsError: If it holds that.
            OSError: If it cannot be made.
        """
        for part in (self.config, self.metrics, self.results, self.figures, self.checkpoints):
            if part.exists():
                raise FileExistsError(
                    f"--output {self.path} already holds a run ({part.name}): name another folder, "
                    f"or continue with --resume {self.path}."
                )
        if written := [part.name for part in self.outputs()]:
            raise FileExistsError(f"--output {self.path} already holds {written[0]}: name another folder.")
        self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; the system unlocks it when the process ends, however that ends.

        Raises:
            FileExistsError: If another process works in the folder.
            OSError: If the folder cannot be written to.
        """
        path = self.path / ".lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(f"Another process trains in {self.path}: wait for its end, or end it.") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.release()

    def read_settings(self) -> Settings:
        """Settings of the run in this folder.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the file is damaged.
        """
        if not self.config.exists():
            raise FileNotFoundError(f"{self.path} is no folder of a run: {self.config} is missing.")
        try:
            return dict(json.loads(self.config.read_text())["settings"])
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{self.config} is damaged: it holds no settings.") from None

    def write_settings(self, settings: Settings) -> None:
        """Store the settings; time and versions of the start are kept when a run is continued."""
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        config = {"settings": settings, "started": started, "versions": versions}
        if self.config.exists():
            config |= json.loads(self.config.read_text()) | {"settings": settings}
        self._write(self.config, json.dumps(config, indent=2) + "\n")

    def outputs(self) -> dict[Path, int]:
        """What a run writes at its end: the files that are there, and when each was written, in nanoseconds."""
        names = ("results.csv", "results_in_units.csv", "predictions.npz", "forecast.csv", "forecast.png")
        drawn = [*sorted(self.path.glob("forecast-[0-9]*.png")), *sorted(self.figures.glob("*.png"))]
        files = [*(self.path / name for name in names), *drawn]
        return {file: file.stat().st_mtime_ns for file in files if file.exists()}

    def append_metrics(self, record: Record) -> None:
        """Add one evaluation."""
        with errors_name(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_json_line(record))

    def write_metrics(self, records: Sequence[Record]) -> None:
        """Replace all evaluations."""
        self._write(self.metrics, "".join(map(_json_line, records)))

    def write_results(self, results: Mapping[str, Record]) -> None:
        """Store the evaluation of each loss whose weights are kept."""
        chosen = any("valid_loss" in record for record in results.values())
        columns = [name for name in RESULT_COLUMNS if chosen or name != "valid_loss"]
        self._write_csv(self.results, columns, [{"loss": loss, **record} for loss, record in results.items()])

    def write_errors(self, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Store the errors in the units of a CSV file, as `units.errors` returns them (CSV)."""
        self._write_csv(self.path / "results_in_units.csv", list(rows[0]), rows)

    def _write_csv(self, path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str | float]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write(path, text.getvalue())

    def write_predictions(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Store the forecasts of the test set, as `units.arrays` returns them (NPZ, read by ``numpy.load``)."""
        with atomic_write(self.path / "predictions.npz") as file:
            np.savez_compressed(file, **arrays)

    @property
    def forecast(self) -> Path:
        """What follows the last row of a CSV file (CSV)."""
        return self.path / "forecast.csv"

    def write_forecast(self, table: Sequence[Sequence[str]]) -> None:
        """Store the rows of a table of forecasts.

        Raises:
            OSError: If it cannot be written.
        """
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table)
        self._write(self.forecast, text.getvalue())

    @staticmethod
    def _write(path: Path, text: str) -> None:
        with atomic_write(path) as file:
            file.write(text.encode())


def flattened(histories: Mapping[str, Sequence[Record]]) -> list[Record]:
    """The records of all losses in one list, each with its loss."""
    return [{"loss": loss, **record} for loss, history in histories.items() for record in history]


def _json_line(record: Record) -> str:
    # JSON has no nan.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def new_folder(prefix: str) -> RunFolder:
    """Make a folder in ``runs/``, named by a prefix and the time, and by a number if that name is taken.

    Raises:
        OSError: If it cannot be made.
    """
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    name = f"{prefix}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = runs / name, 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:  # also if another run made it just now
            number += 1
            path = runs / f"{name}-{number}"
        else:
            return RunFolder(path)
