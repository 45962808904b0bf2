"""ECG5000 of the UCR archive: the first 84 steps of a heartbeat in, its last 56 out (section 4.1)."""

from __future__ import annotations

import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import numpy as np

from .csv_dataset import open_text
from .windows import ForecastData, WindowDataset, check_count, fingerprint

_LENGTH, _INPUT_LENGTH = 140, 84
_CLASS_COUNTS = {"TRAIN": (292, 177, 10, 19, 2), "TEST": (2627, 1590, 86, 175, 22)}  # of classes 1 to 5
_SUFFIXES = (".txt", ".tsv", ".txt.gz", ".tsv.gz", "")  # without one: the UCR archive of 2015, which has commas
_WANTED = "ECG5000_TRAIN and ECG5000_TEST (.txt, .tsv or without a suffix, gzipped or not)"
_HOW_TO_GET = (
    "download ECG5000.zip from https://www.timeseriesclassification.com/description.php?Dataset=ECG5000, "
    "unzip it and pass its folder as path"
)
_TIMEOUT = 30.0  # seconds

Pair = dict[str, Path]


def load_ecg5000(
    path: str | Path | None = None, download: bool = True, held_out: int = 0, seed: int = 0
) -> ForecastData:
    """Load ECG5000 with its official split: 500 training and 4,500 test heartbeats, in raw UCR values.

    UCR series are already normalised one by one, and the paper's numbers are in those values. UCR has no
    validation part; `held_out` draws one from the 500, without a look at the classes. The files are looked for in
    `path` if one is given; else in the folder where tslearn keeps its downloads, and downloaded into it if it does
    not exist. Existing files are never changed.

    Args:
        path: A folder that holds ECG5000_TRAIN and ECG5000_TEST (.txt, .tsv or without a suffix, gzipped or not;
            with spaces, tabs or commas between the numbers), directly or in a sub-folder ECG5000.
        download: Whether to download the files if no `path` is given and tslearn's folder does not have them.
        held_out: Training series to validate by instead of training on them, 0 to 499.
        seed: Seed of the draw of those.

    Raises:
        FileNotFoundError: The files are not there, or could not be downloaded; the sentence says where they
            were looked for and how to get them.
        NotADirectoryError: `path` is not a folder.
        TypeError: `held_out` or `seed` is not a whole number.
        ValueError: A file is damaged or is not that part of ECG5000, or a number is out of range.
    """
    check_count("held_out", held_out, at_least=0)
    check_count("seed", seed, at_least=0)
    pair = _pair_of_user(Path(path).expanduser()) if path is not None else _pair_of_tslearn(download)
    train, test = (_read_part(pair[part], part) for part in ("TRAIN", "TEST"))
    if held_out >= len(train):
        raise ValueError(f"held_out must leave one of the {len(train)} training series, given {held_out}")
    chosen = np.zeros(len(train), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(train))[:held_out]] = True
    valid = _dataset(train[chosen]) if held_out else None
    read = fingerprint(np.concatenate([train, test]))
    return ForecastData("ecg5000", _dataset(train[~chosen]), valid, _dataset(test), fingerprint=read)


def _dataset(series: np.ndarray) -> WindowDataset:
    series = series[:, :, None]  # (n, 140, 1)
    return WindowDataset(series[:, :_INPUT_LENGTH], series[:, _INPUT_LENGTH:])


def _find_parts(folder: Path) -> Pair:
    """Return those of the two parts that lie directly in `folder`."""
    found = {}
    for part in _CLASS_COUNTS:
        files = [file for suffix in _SUFFIXES if (file := folder / f"ECG5000_{part}{suffix}").is_file()]
        found |= {part: files[0]} if files else {}
    return found


def _pair_of_user(path: Path) -> Pair:
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"path must be the folder with {_WANTED}, but {path} is a file")
    folders = (path, path / "ECG5000")
    pairs = [_find_parts(folder) for folder in folders]
    for pair in pairs:
        if len(pair) == 2:
            return pair
    found = ", ".join(str(file) for pair in pairs for file in pair.values()) or "neither"
    looked = f"ECG5000 was looked for as {_WANTED} in {folders[0]} and {folders[1]}"
    raise FileNotFoundError(f"{looked}, which hold {found}; {_HOW_TO_GET}")


def _tslearn_folder() -> Path:
    """Return where tslearn keeps ECG5000, without the seconds that importing it takes."""
    data_home = os.environ.get("XDG_DATA_HOME")
    root = Path(data_home) / "tslearn" if data_home is not None else Path.home() / ".tslearn" / "datasets"
    return root / "UCR_UEA" / "ECG5000"


def _pair_of_tslearn(download: bool) -> Pair:
    folder = _tslearn_folder()
    looked = f"ECG5000 was looked for as {_WANTED} in {folder}"
    # Only where there is no folder: tslearn deletes a folder in which it finds no file that it can read.
    if download and not folder.exists():
        try:
            _download(folder)
        except (OSError, HTTPException, ValueError) as problem:
            failed = f"{looked}, and it could not be downloaded ({problem})"
            raise FileNotFoundError(f"{failed}; {_HOW_TO_GET}") from problem
    pair = _find_parts(folder)
    if len(pair) == 2:
        return pair
    found = "does not exist" if not folder.exists() else "does not hold both, and is left as it is"
    raise FileNotFoundError(f"{looked}, which {found}; {_HOW_TO_GET}")


def _download(folder: Path) -> None:
    """Fetch ECG5000 with tslearn into a folder of its own, check it, and only then move it to `folder`."""
    from tslearn.datasets import UCR_UEA_datasets

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".ecg5000-") as scratch:
        with _timeout(_TIMEOUT), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tslearn warns of files that are checked below
            UCR_UEA_datasets(root_dir=scratch).load_dataset("ECG5000")
        fetched = Path(scratch) / "UCR_UEA" / "ECG5000"
        pair = _find_parts(fetched)
        if len(pair) < 2:
            raise FileNotFoundError("the download does not hold both parts")
        for part, file in pair.items():
            _read_part(file, part)
        if not folder.exists():  # another run may have been faster
            fetched.rename(folder)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Give a download up after so many seconds without an answer: tslearn sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_part(file: Path, part: str) -> np.ndarray:
    """Read one part and check it; return its series (n, 140) in float64, without the labels in column 0."""
    problem = f"{file} is not the {part} part of UCR ECG5000"
    with open_text(file) as text, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "no data": the shape says it
        try:
            table = np.loadtxt((line if "\t" in line else line.replace(",", " ") for line in text), ndmin=2)
        except UnicodeDecodeError:  # a ValueError too, which open_text turns into a sentence
            raise
        except ValueError as reason:
            raise ValueError(f"{problem}: {reason}") from None
    counts = _CLASS_COUNTS[part]
    expected = (sum(counts), 1 + _LENGTH)
    if table.shape != expected:
        raise ValueError(f"{problem}: it must hold {expected} rows and columns, but holds {table.shape}")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0] + 1
        raise ValueError(f"{problem}: row {row}, column {column} is not a finite number")
    found = tuple(int((table[:, 0] == label).sum()) for label in range(1, 1 + len(counts)))
    if found != counts:
        raise ValueError(f"{problem}: classes 1 to 5 must have {counts} series, but have {found}")
    series = table[:, 1:]
    damaged = (abs(series.mean(1)) > 0.01) | (abs(series.std(1) - 1) > 0.01)
    if damaged.any():
        row = np.argmax(damaged)
        moments = f"mean {series[row].mean():.3g} and deviation {series[row].std():.3g}"
        raise ValueError(f"{problem}: its series have mean 0 and deviation 1, but row {row + 1} has {moments}")
    return series
