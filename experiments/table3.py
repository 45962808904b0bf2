"""Table 3 of the paper: DILATE against its tangled versions (Eq. 5), weighted and with a band; Seq2Seq, synthetic.

    python -m experiments.table3

The paper does not give the tangled versions' alpha, Omega and T: experiments.choose says how they were chosen.
"""

from collections.abc import Sequence

from evaluation.paper import TABLE_3
from experiments.protocol import DATASETS, Command
from experiments.tables import Table

LOSSES = {"dilate": "DILATE", "tangled_weighted": "DILATE^t-W", "tangled_band": "DILATE^t-BC"}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the missing jobs, print the table, and write results/table3.*."""
    command = Command.parse("table3", __doc__, argv, ["synthetic"])
    print(table(command).write(command.results))


def table(command: Command) -> Table:
    """The table of the command's runs."""
    settings = {DATASETS["synthetic"]: ("synthetic", "seq2seq")}
    metrics, paper = TABLE_3["dilate"], lambda _, __, loss, metric: TABLE_3[loss][metric]
    return Table.of_jobs("table3", "Table 3, Seq2Seq.", LOSSES, command, settings, metrics, paper)


if __name__ == "__main__":
    main()
