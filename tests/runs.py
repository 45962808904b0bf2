"""A small table to run main.py on, and what a run leaves behind."""

import csv
import json
from pathlib import Path

import numpy as np
import torch


def write_waves(path):
    """A CSV file of two columns that depend on each other: 63 training and 15 test windows of 6 -> 4 steps."""
    t = np.arange(120)
    rows = zip(np.sin(0.4 * t), np.cos(0.4 * t) + 0.1 * np.sin(3 * t), strict=True)
    path.write_text("sine,other\n" + "\n".join(f"{a:.6f},{b:.6f}" for a, b in rows))
    return path


def records(folder):
    """All evaluations."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def untimed(records):
    """The records without the time that they took."""
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def results(folder):
    """Loss -> final metrics."""
    with open(Path(folder) / "results.csv", newline="") as file:
        return {row["loss"]: {k: float(row[k]) for k in ("mse", "dtw", "tdi")} for row in csv.DictReader(file)}


def weights(folder, loss):
    """State of the network that was trained with that loss."""
    return torch.load(Path(folder) / "checkpoints" / f"{loss}.pt", weights_only=True)["net"]
