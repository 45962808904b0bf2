"""What tests of several parts need: random series and losses, a small table, and what a run of main.py leaves."""

import csv
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from loss import AsymmetricOmega, DilateLoss, SoftDTWLoss, TangledDilateLoss
from loss.kernels.lattice import MANY

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"  # real files, which are not ours to pass on


# ------------------------------------------------------------------------------------ losses

GAMMAS = (1e-3, 1e-2, 0.1, 1.0, 10.0)
SIZES = ((1, 1), (1, 4), (4, 1), (2, 2), (5, 5), (6, 6), (3, 7))
EVERY_LOSS = [
    SoftDTWLoss(0.2, "none"),
    DilateLoss(0.3, 0.2, "none"),
    DilateLoss(0.3, 0.2, "none", omega=AsymmetricOmega(1, 3, 1.5)),
    TangledDilateLoss(0.3, 0.2, "none"),
    DilateLoss(0.3, 0.2, "none", band=3, per_channel=True),
    SoftDTWLoss(0.2, "none", divergence=True),
    DilateLoss(0.3, 0.2, "none", divergence=True),
    TangledDilateLoss(0.3, 0.2, "none", omega=None, band=3, divergence=True),
    DilateLoss(0.3, 0.2, "none", cost="absolute"),
    DilateLoss(0.3, 0.2, "none", cost="cosine", band=3, divergence=True),
]


def costs(B, N, M, dtype=torch.float64, seed=0):
    return torch.rand(B, N, M, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def series(B, N, M, d=1, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, k, d, dtype=dtype, generator=generator) for k in (N, M))


def arguments(x, y, gamma=0.1, band=-1, n=None, m=None, wants=(True, True, False, True)):
    """What the operator of both terms takes for Omega of Eq. 3."""
    (B, N, _), M = x.shape, y.shape[1]
    lag = torch.arange(1 - M, N, dtype=torch.float64)
    n, m = (torch.full((B,), k) if given is None else torch.tensor(given) for k, given in ((N, n), (M, m)))
    gamma = torch.tensor(gamma, dtype=torch.float64)
    return x, y, None, gamma, n, m, lag.square(), 1.0 / (n * m).double(), band, wants


def drawn_sweep(seed, dtype, of_costs, dual, wanted, by_gamma, longest=90):
    """Random arguments of the operators: sizes, lengths, band, any form of Omega, what is wanted, a NaN at times."""
    rnd, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    B, N, M, d = rnd.choice((1, 2, 5)), rnd.randint(1, longest), rnd.randint(1, longest), rnd.choice((1, 2, 3, MANY))
    x, y = series(B, N, M, d, dtype, seed)
    if rnd.random() < 0.1:
        x[0, rnd.randrange(N)] = torch.nan
    D = (x[:, :, None] - y[:, None]).square().sum(-1)
    n = m = omega = omega_scale = None
    if rnd.random() < 0.5:
        n, m = (torch.randint(1, k + 1, (B,), generator=generator) for k in (N, M))
    longer = abs(N - M) if n is None else (n - m).abs().max().item()
    band = rnd.choice((-1, -1, longer, longer + 2))
    if dual:
        shape = rnd.choice(((N + M - 1,), (1, N, M), (B, N, M)))
        omega = torch.randn(shape, dtype=torch.float64, generator=generator)
        omega_scale = rnd.choice((None, torch.rand(B, dtype=torch.float64, generator=generator)))
    gamma = torch.tensor(rnd.choice((0.01, 0.3, 10.0)), dtype=torch.float64)
    by_x, by_y = rnd.choice(((True, False), (False, True), (True, True))) if wanted else (False, False)
    wants = (False, False, wanted, by_gamma) if of_costs else (by_x, by_y, False, by_gamma)
    inputs = (None, None, D) if of_costs else (x, y, None)
    return *inputs, gamma, n, m, omega, omega_scale, band, wants


def delannoy(a, b):
    return sum(math.comb(a, k) * math.comb(b, k) * 2**k for k in range(min(a, b) + 1))


def log_delannoy(n):
    """Logarithm of the number of paths through a square: ``k D(k) = 3 (2k - 1) D(k-1) - (k - 1) D(k-2)``."""
    ratio, total = 3.0, math.log(3.0)
    for k in range(2, n + 1):
        ratio = (3 * (2 * k - 1) - (k - 1) / ratio) / k
        total += math.log(ratio)
    return total


def assert_same_gradients(ours, theirs, x, y):
    grads = (torch.autograd.grad(v.sum(), (x, y), retain_graph=True) for v in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def assert_one_sentence(kind, match, call):
    with pytest.raises(kind, match=match) as caught:
        call()
    message = str(caught.value)
    assert re.fullmatch(r"[^\n]+\.", message)
    assert re.search(r"\.\s+[A-Z]", message) is None
    return message


# ------------------------------------------------------------------------------------ runs


def write_waves(path):
    """A CSV file of two columns that depend on each other: 63 training and 15 test windows of 6 -> 4 steps."""
    t = np.arange(120)
    rows = zip(np.sin(0.4 * t), np.cos(0.4 * t) + 0.1 * np.sin(3 * t), strict=True)
    path.write_text("sine,other\n" + "\n".join(f"{a:.6f},{b:.6f}" for a, b in rows))
    return path


def write_traffic(folder, seed=0):
    """Road occupancies of 120 hours."""
    folder.mkdir(exist_ok=True)
    np.savetxt(folder / "traffic.csv", np.random.default_rng(seed).uniform(0, 0.5, 120), fmt="%.4f")


def write_ecg5000(folder, seed=0):
    """Both parts of ECG5000 with the real shapes and class counts, in random numbers."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, counts in (("TRAIN", (292, 177, 10, 19, 2)), ("TEST", (2627, 1590, 86, 175, 22))):
        labels = np.repeat(np.arange(1, 6), counts)
        series = rng.normal(size=(len(labels), 140))
        series = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
        np.savetxt(folder / f"ECG5000_{part}.txt", np.c_[labels, series], fmt="%.3f")


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
