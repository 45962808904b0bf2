"""The datasets of the experiments: `load(name, **options)` returns any of them as a `ForecastData`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .csv_dataset import load_csv
from .ecg5000 import load_ecg5000
from .synthetic_dataset import load_synthetic
from .traffic import load_traffic
from .windows import ForecastData, WindowDataset, batches

__all__ = ["DATASETS", "ForecastData", "WindowDataset", "batches", "load"]

DATASETS: dict[str, Callable[..., ForecastData]] = {
    "synthetic": load_synthetic,
    "ecg5000": load_ecg5000,
    "traffic": load_traffic,
    "csv": load_csv,
}


def load(name: str, **options: Any) -> ForecastData:
    """Load a dataset by name.

    Args:
        name: "synthetic", "ecg5000", "traffic" or "csv".
        **options: Arguments of that dataset's loader: see `load_synthetic`, `load_ecg5000`, `load_traffic` and
            `load_csv`.

    Raises:
        ValueError: There is no dataset of that name, or what the loader says.
        TypeError: The dataset does not take an option, or needs one that was not given.
        FileNotFoundError: The dataset's files are not there.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, given {name!r}")
    known = inspect.signature(DATASETS[name]).parameters
    for option in options:
        if option not in known:
            raise TypeError(f"dataset {name!r} does not take {option!r}; its options are {', '.join(known)}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise TypeError(f"dataset {name!r} needs the option {option!r}; its options are {', '.join(known)}")
    return DATASETS[name](**options)
