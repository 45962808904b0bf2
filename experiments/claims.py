"""The paper's conclusions from Tables 1 to 3, held against our runs of them.

    python -m experiments.claims

Trains nothing: it reads the finished jobs. Writes results/claims.md: how often DILATE beats each of the other two
losses, in the paper and here; every comparison with its p-value; every cell that lies outside the paper's mean +- 2
standard deviations. Student's t-test at 0.05, of unpaired runs, as in the tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from experiments import table1, table2, table3
from experiments.protocol import Command
from experiments.tables import LEVEL, Row, Summary, Table, captioned, in_words, p_value, write

OTHERS = {"mse": "MSE", "soft_dtw": "DTW_γ"}
METRICS = ("MSE", "DTW", "TDI")


class Verdict(NamedTuple):
    """DILATE against another loss in one row: the difference of the means, and the p-value of their being equal."""

    difference: float
    p: float


COUNTS: dict[str, Callable[[Verdict], bool]] = {
    "lower": lambda found: found.difference < 0,
    "better": lambda found: found.difference < 0 and found.p < LEVEL,
    "equivalent": lambda found: found.p >= LEVEL,
    "worse": lambda found: found.difference > 0 and found.p < LEVEL,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the account, and write results/claims.md."""
    command = replace(Command.parse("claims", __doc__, argv), report_only=True)
    tables = tables_1_to_3(command)
    compared = _compared([row for table in tables[:2] for row in table.rows])
    text = f"{_counted(tables[0].rows)}\n{compared}\n{_outside({table.name: table.rows for table in tables})}"
    write(command.results, "claims", md=text)
    print(text)


def tables_1_to_3(command: Command) -> list[Table]:
    """The tables of the command's datasets; Table 3 is of Synthetic alone."""
    tables = [table1.table(command), table2.table(command)]
    return [*tables, table3.table(command)] if "synthetic" in command.datasets else tables


def verdict(cells: Mapping[str, Summary | None], other: str) -> Verdict | None:
    """DILATE against the other loss; None where one of them has no run."""
    ours, others = cells.get("dilate"), cells.get(other)
    return None if ours is None or others is None else Verdict(ours.mean - others.mean, p_value(ours, others))


def _counted(rows: Sequence[Row]) -> str:
    lines = [["DILATE against", "metric", *(f"{name}, {who}" for name in COUNTS for who in ("paper", "ours"))]]
    for other, label in OTHERS.items():
        for metric in METRICS:
            of_metric = [row for row in rows if row.metric == metric]
            line = [label, metric]
            for count in COUNTS.values():
                for cells in ([row.paper for row in of_metric], [row.ours for row in of_metric]):
                    known = [found for each in cells if (found := verdict(each, other)) is not None]
                    line.append(f"{sum(map(count, known))} of {len(known)}")
            lines.append(line)
    caption = f"Table 1: rows in which DILATE has the lower mean, and is better, equivalent or worse at p < {LEVEL}."
    return captioned(caption, lines)


def _compared(rows: Sequence[Row]) -> str:
    lines = [["", "metric", *(text for label in OTHERS.values() for text in (f"DILATE - {label}", "p"))]]
    for row in rows:
        line = [row.setting, row.label]
        for other in OTHERS:
            found = verdict(row.ours, other)
            line += ["-", "-"] if found is None else [f"{found.difference * row.scale:+.3g}", f"{found.p:.2g}"]
        lines.append(line)
    return captioned("Our runs, differences of means.", lines)


def _outside(tables: Mapping[str, Sequence[Row]]) -> str:
    cells = [
        (name, row, column, ours, row.paper[column])
        for name, rows in tables.items()
        for row in rows
        for column, ours in row.ours.items()
        if ours is not None
    ]
    lines = [["table", "", "metric", "trained with", "ours", "paper", "(ours - paper) / std"]]
    for name, row, column, ours, paper in cells:
        apart = (ours.mean - paper.mean) / paper.std
        if abs(apart) > 2:
            numbers = (in_words(cell, row.scale, bold=False) for cell in (ours, paper))
            lines.append([name, row.setting, row.label, column, *numbers, f"{apart:+.1f}"])
    caption = f"Outside the paper's mean ± 2 standard deviations: {len(lines) - 1} of {len(cells)} cells."
    return captioned(caption, lines)


if __name__ == "__main__":
    main()
