"""Traffic: hourly road occupancy at the first of 862 Californian sensors, 2015 and 2016 (section 4.1)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from .csv_dataset import existing_file, open_text, read_histories
from .csv_time import Step
from .windows import CHRONOLOGICAL_SPLIT, ForecastData, Scaling, chronological_windows, fingerprint

_SOURCE = "https://github.com/laiguokun/multivariate-time-series-data/tree/master/traffic"
_FILE_NAMES = ("traffic.csv", "traffic.txt", "traffic.csv.gz", "traffic.txt.gz")
_HOUR = Step(3_600_000_000, "microsecond")
_HOW_TO_GET = f"get traffic.txt.gz from {_SOURCE} and pass the file or its folder as path"


def load_traffic(
    path: str | Path | None = None,
    input_length: int = 168,
    horizon: int = 24,
    stride: int = 1,
    scaling: Scaling | None = None,
) -> ForecastData:
    """Load the paper's Traffic task: one week of hours in, one day out.

    The first column of numbers is taken, divided by its maximum, cut in time into 60 % train, 20 % validation
    and 20 % test (10,526, 3,509 and 3,509 of 17,544 hours), and windows slide inside each part (10,335, 3,318
    and 3,318 of them at the defaults). Where there is a column of dates, each row must be one hour after the last.

    Args:
        path: A CSV file with that series (a header, but no 0 alone, and a column of dates are allowed), the
            862-column text file of LSTNet, either gzipped or not, or a folder with one of them as traffic.csv or
            traffic.txt (optionally .gz, optionally in a sub-folder traffic). By default this package's own folder.
        input_length: N_input, in hours.
        horizon: N_output, in hours.
        stride: Hours from one window to the next.
        scaling: Scale by this one, such as that of the data a network was trained on, in place of the maximum.

    Raises:
        FileNotFoundError: There is no such file; the sentence names the files looked for and how to get them.
        TypeError: A length or the stride is not a whole number.
        ValueError: The file does not hold road occupancies, its dates are not one hour apart from row to row, or
            it is too short.
    """
    file = _find(Path(__file__).parent if path is None else Path(path).expanduser())
    try:
        form = {"header": _has_names(file), "decimal": "."}
        occupancy = read_histories(file, **form, steps={None: _HOUR}, first_only=True).series[0].values
    except ValueError as problem:
        # What stands behind the semicolon advises options that this data set does not have.
        raise ValueError(str(problem).partition("; ")[0]) from None
    maximum = _checked_maximum(file, occupancy)
    # By the maximum of the whole series: only then do the paper's errors fit; raw, they would be worse than
    # a constant's.
    if scaling is None:
        scaling = Scaling(torch.zeros(1, dtype=torch.float64), torch.tensor([maximum], dtype=torch.float64))
    series = scaling.checked(occupancy).scale(torch.from_numpy(occupancy))
    parts = chronological_windows(series, input_length, horizon, stride, CHRONOLOGICAL_SPLIT)
    return ForecastData("traffic", *parts, scaling, scaling, fingerprint(occupancy))


def _has_names(file: Path) -> bool | None:
    """Whether the first row holds names: that of pandas is 0, and occupancies have a point. None if neither tells."""
    with open_text(file) as text:
        first = next((line for line in text if line.strip() and line[0] != "#"), "")
    return True if re.fullmatch(r"[^\W\d]*,0\s*", first) else False if "." in first else None


def _find(path: Path) -> Path:
    if not path.is_dir():
        try:
            return existing_file(path, "the Traffic series")
        except FileNotFoundError as problem:
            raise FileNotFoundError(f"{problem}; {_HOW_TO_GET}") from None
    for folder in (path, path / "traffic"):
        for name in _FILE_NAMES:
            if (folder / name).is_file():
                return folder / name
    wanted = ", ".join(_FILE_NAMES)
    raise FileNotFoundError(f"Traffic was looked for as {wanted} in {path} and {path / 'traffic'}; {_HOW_TO_GET}")


def _checked_maximum(file: Path, occupancy: np.ndarray) -> float:
    lowest, highest = float(occupancy.min()), float(occupancy.max())
    # A numbered index column or another data set would train without complaint.
    if lowest < 0 or not 0 < highest <= 1:
        raise ValueError(
            f"{file} does not hold road occupancies: its first column of numbers must lie between 0 and 1, "
            f"not all 0, but lies between {lowest:g} and {highest:g}"
        )
    return highest
