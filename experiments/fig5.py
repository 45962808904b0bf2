"""Fig. 5 of the paper: (a) the custom backward against autograd, (b) the influence of alpha.

    python -m experiments.fig5

(a) is read from benchmarks/results/autograd.csv, which python -m benchmarks.autograd measures. The paper does not say
what (b) was measured on, nor in which scale: here it is Seq2Seq on the synthetic task, and alpha = 1 is the network of
Table 1 that was trained with soft-DTW. Only how the curves bend can be compared.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.protocol import METRICS, Command, values
from experiments.tables import OURS, PAPER, Row, Summary, Table, markdown_table, summary
from paper_results import FIG_5A, FIG_5B
from training import atomic_write

SPEED_UPS = Path(__file__).parent.parent / "benchmarks" / "results" / "autograd.csv"
ALPHAS = [step / 10 for step in range(1, 11)]


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print both, and write results/fig5.*."""
    command = Command.parse("fig5", __doc__, argv, ["synthetic"])
    cells = {(alpha,): _jobs(command, alpha) for alpha in ALPHAS}
    results = command.collect(cells)
