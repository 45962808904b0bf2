"""Table 4 of the paper: Seq2Seq trained with DILATE against LSTNet and TT-RNN trained with MSE; Traffic.

    python -m experiments.table4 --data-path traffic=FILE

The two baselines are the paper's numbers; ours are held against them by the same t-test.
"""

from collections.abc import Sequence

from evaluation.paper import TABLE_4
from experiments.protocol import DATASETS, Command
from experiments.tables import Table

COLUMNS = {"lstnet": "LSTNet-rec (paper)", "tt_rnn": "TT-RNN (paper)", "dilate": "Seq2Seq DILATE"}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the missing jobs, print the table, and write results/table4.*."""
    command = Command.parse("table4", __doc__, argv, ["traffic"])
    settings = {DATASETS["traffic"]: ("traffic", "seq2seq")}
    metrics, paper = TABLE_4["dilate"], lambda _, __, column, metric: TABLE_4[column][metric]
    table = Table.of_jobs("table4", "Table 4.", COLUMNS, command, settings, metrics, paper)
    print(table.write(command.results))


if __name__ == "__main__":
    main()
