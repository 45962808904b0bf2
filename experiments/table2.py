"""Table 2 of the paper: change points and ramps of the Seq2Seq networks of Table 1, metrics that are in no loss.

python -m experiments.table2 --data-path ecg5000=FOLDER traffic=FILE
"""

from collections.abc import Sequence

from evaluation.paper import RUNS, TABLE_2, printed_scale
from experiments.protocol import DATASETS, METRICS, Command, values
from experiments.table1 import LOSSES
from experiments.tables import Row, Summary, Table, summary


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table, and write results/table2.*."""
    command = Command.parse("table2", __doc__, argv)
    print(table(command).write(command.results))


def table(command: Command) -> Table:
    """The table of the command's runs."""
    cells = {
        (dataset, loss): command.jobs(dataset, "seq2seq", loss) for dataset in command.datasets for loss in LOSSES
    }
    results = command.collect(cells)
    rows = [
        Row(
            DATASETS[dataset],
            METRICS[metric],
            printed_scale(dataset, metric),
            {loss: summary(values(results[dataset, loss], metric)) for loss in LOSSES},
            {loss: Summary(*TABLE_2[dataset, loss][metric], RUNS) for loss in LOSSES},
        )
        for dataset in command.datasets
        for metric in ("hausdorff", "ramp")
    ]
    return Table("table2", "Table 2, Seq2Seq.", LOSSES, rows)


if __name__ == "__main__":
    main()
