"""Table 3 of the paper: DILATE against its tangled versions (Eq. 5), weighted and with a band; Seq2Seq, synthetic.

    python -m experiments.table3

The paper does not give the tangled versions' alpha, Omega and T: experiments.choose says how they were chosen.
"""

from collections.abc import Sequence

from evaluation.paper import RUNS, TABLE_3, printed_scale
from experiments.protocol import DATASETS, METRICS, Command, values
from experiments.tables import Row, Summary, Table, summary

LOSSES = {"dilate": "DILATE", "tangled_weighted": "DILATE^t-W", "tangled_band": "DILATE^t-BC"}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table, and write results/table3.*."""
    command = Command.parse("table3", __doc__, argv, ["synthetic"])
    print(table(command).write(command.results))


def table(command: Command) -> Table:
    """The table of the command's runs."""
    results = command.collect({(loss,): command.jobs("synthetic", "seq2seq", loss) for loss in LOSSES})
    rows = [
        Row(
            DATASETS["synthetic"],
            METRICS[metric],
            printed_scale("synthetic", metric),
            {loss: summary(values(results[loss,], metric)) for loss in LOSSES},
            {loss: Summary(*TABLE_3[loss][metric], RUNS) for loss in LOSSES},
        )
        for metric in ("mse", "dtw", "ramp", "tdi", "hausdorff")
    ]
    return Table("table3", "Table 3, Seq2Seq.", LOSSES, rows)


if __name__ == "__main__":
    main()
