"""Table 2 of the paper: change points and ramps of the Seq2Seq networks of Table 1, metrics that are in no loss.

python -m experiments.table2 --data-path ecg5000=FOLDER traffic=FILE
"""

from collections.abc import Sequence

from evaluation.paper import TABLE_2
from experiments.protocol import DATASETS, Command
from experiments.table1 import LOSSES
from experiments.tables import Table


def main(argv: Sequence[str] | None = None) -> None:
    """Train the missing jobs, print the table, and write results/table2.*."""
    command = Command.parse("table2", __doc__, argv)
    print(table(command).write(command.results))


def table(command: Command) -> Table:
    """The table of the command's runs."""
    settings = {DATASETS[dataset]: (dataset, "seq2seq") for dataset in command.datasets}
    metrics, paper = ("hausdorff", "ramp"), lambda dataset, _, loss, metric: TABLE_2[dataset, loss][metric]
    return Table.of_jobs("table2", "Table 2, Seq2Seq.", LOSSES, command, settings, metrics, paper)


if __name__ == "__main__":
    main()
