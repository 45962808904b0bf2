"""Table 1 of the paper: MLP and Seq2Seq, trained with MSE, soft-DTW and DILATE, on three datasets.

    python -m experiments.table1 --data-path ecg5000=FOLDER traffic=FILE
    python -m experiments.table1 --datasets synthetic

Early stopping by the training loss on the validation set, at most 1000 epochs, seeds 0 to 9, one training each.
"""

from collections.abc import Sequence

from evaluation.paper import RUNS, TABLE_1, printed_scale
from experiments.protocol import DATASETS, METRICS, MODELS, Command, values
from experiments.tables import Row, Summary, Table, summary

LOSSES = {"mse": "MSE", "soft_dtw": "DTW_γ", "dilate": "DILATE"}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table, and write results/table1.*."""
    command = Command.parse("table1", __doc__, argv)
    print(table(command).write(command.results))


def table(command: Command) -> Table:
    """The table of the command's runs."""
    cells = {
        (dataset, model, loss): command.jobs(dataset, model, loss)
        for dataset in command.datasets
        for model in MODELS
        for loss in LOSSES
    }
    results = command.collect(cells)
    rows = [
        Row(
            f"{MODELS[model]}, {DATASETS[dataset]}",
            METRICS[metric],
            printed_scale(dataset, metric),
            {loss: summary(values(results[dataset, model, loss], metric)) for loss in LOSSES},
            {loss: _paper(dataset, model, loss, metric) for loss in LOSSES},
        )
        for model in MODELS
        for dataset in command.datasets
        for metric in ("mse", "dtw", "tdi")
    ]
    return Table("table1", "Table 1.", LOSSES, rows)


def _paper(dataset: str, model: str, loss: str, metric: str) -> Summary:
    row = TABLE_1[dataset, model, loss]
    return Summary(getattr(row, metric), getattr(row, f"{metric}_std"), RUNS)


if __name__ == "__main__":
    main()
