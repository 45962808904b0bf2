"""Table 4 of the paper: Seq2Seq trained with DILATE against LSTNet and TT-RNN trained with MSE; Traffic.

    python -m experiments.table4 --data-path traffic=FILE

The two baselines are the paper's numbers; ours are held against them by the same t-test.
"""

from collections.abc import Sequence

from evaluation.paper import RUNS, TABLE_4, printed_scale
from experiments.protocol import DATASETS, METRICS, Command, values
from experiments.tables import Row, Summary, Table, summary

COLUMNS = {"lstnet": "LSTNet-rec (paper)", "tt_rnn": "TT-RNN (paper)", "dilate": "Seq2Seq DILATE"}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table, and write results/table4.*."""
    command = Command.parse("table4", __doc__, argv, ["traffic"])
    print(table(command).write(command.results))


def table(command: Command) -> Table:
    """The table of the command's runs."""
    results = command.collect({("dilate",): command.jobs("traffic", "seq2seq", "dilate")})["dilate",]
    rows = []
    for metric in ("mse", "dtw", "ramp", "tdi", "hausdorff"):
        paper = {column: Summary(*TABLE_4[column][metric], RUNS) for column in COLUMNS}
        ours = {**paper, "dilate": summary(values(results, metric))}
        scale = printed_scale("traffic", metric)
        rows.append(Row(DATASETS["traffic"], METRICS[metric], scale, ours, {"dilate": paper["dilate"]}))
    return Table("table4", "Table 4.", COLUMNS, rows)


if __name__ == "__main__":
    main()
