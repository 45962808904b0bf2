"""Table 1 of the paper: MLP and Seq2Seq, trained with MSE, soft-DTW and DILATE, on three datasets.

    python -m experiments.table1 --data-path ecg5000=FOLDER traffic=FILE
    python -m experiments.table1 --datasets synthetic

Early stopping by the training loss on the validation set, at most 1000 epochs, seeds 0 to 9, one training each.
"""

from collections.abc import Sequence

from evaluation.paper import TABLE_1
from experiments.protocol import DATASETS, MODELS, Command
from experiments.tables import Table

LOSSES = {"mse": "MSE", "soft_dtw": "DTW_γ", "dilate": "DILATE"}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the missing jobs, print the table, and write results/table1.*."""
    command = Command.parse("table1", __doc__, argv)
    print(table(command).write(command.results))


def table(command: Command) -> Table:
    """The table of the command's runs."""
    settings = {f"{MODELS[m]}, {DATASETS[dataset]}": (dataset, m) for m in MODELS for dataset in command.datasets}
    metrics, paper = ("mse", "dtw", "tdi"), lambda *cell: TABLE_1[cell[:3]].stat(cell[3])
    return Table.of_jobs("table1", "Table 1.", LOSSES, command, settings, metrics, paper)


if __name__ == "__main__":
    main()
