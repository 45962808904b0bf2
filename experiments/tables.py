"""A table of ours beside the paper's: mean, std, the t-test for the bolds, as Markdown, CSV and a plot."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import ttest_ind_from_stats

from benchmarks.common import pipes
from evaluation.paper import RUNS, Stat, printed_scale
from experiments.protocol import METRICS, Command
from experiments.store import Result
from training import atomic_write
from training.losses import LOSSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.05
NO_RUN = ("", "", 0)  # mean, standard deviation and number in a CSV file
OURS, PAPER = {"color": "#0072B2", "marker": "o"}, {"color": "#D55E00", "marker": "s", "markerfacecolor": "white"}


class Summary(NamedTuple):
    """Several runs: their mean, their standard deviation (with n - 1), and how many they are."""

    mean: float
    std: float
    runs: int


def summary(values: Sequence[float]) -> Summary | None:
    """Mean and standard deviation (nan of a single run); None of no run at all."""
    if not len(values):
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(np.mean(values)), std, len(values))


def tested(results: Sequence[Result], metric: str) -> Summary | None:
    """One metric of several jobs, on the test set."""
    return summary([result["test"][metric] for result in results])


def of_paper(stat: Stat) -> Summary:
    """A mean and standard deviation that the paper prints."""
    return Summary(*stat, RUNS)


def best(cells: Mapping[str, Summary | None]) -> set[str]:
    """Names of the cells to print in bold: the lowest mean, and those that do not differ from it at 0.05.

    The paper names Student's t-test; that of unpaired runs with equal variances gives its bolds in 32 of 34 rows. (In
    Table 3 its DTW differ, and in Table 4 its MSE do not, other than printed.)
    """
    known = {name: cell for name, cell in cells.items() if cell is not None and cell.runs > 1}
    if len(known) < 2:
        return set()
    lowest = min(known.values())
    # A lowest cell is compared with itself: p = 1, or nan where its std is 0.
    return {name for name, cell in known.items() if not p_value(lowest, cell) < LEVEL}


def p_value(a: Summary, b: Summary) -> float:
    """Of Student's t-test for the same mean; nan where one of them is a single run."""
    return float(ttest_ind_from_stats(*a, *b).pvalue) if min(a.runs, b.runs) > 1 else float("nan")


@dataclass(frozen=True)
class Row:
    """One metric in one setting.

    Attributes:
        setting: The subject of the row, such as dataset and model, in words.
        metric: Its name.
        scale: The factor of the printed numbers.
        ours: Column -> our runs, in raw units; None where there is none yet.
        paper: Column -> the paper's, where it has that column.
    """

    setting: str
    metric: str
    scale: float
    ours: Mapping[str, Summary | None]
    paper: Mapping[str, Summary | None]

    @property
    def label(self) -> str:
        """The metric, and the scale it is printed in."""
        return scaled(self.metric, self.scale)


@dataclass(frozen=True)
class Table:
    """Rows with common columns.

    Attributes:
        name: Of its files.
        caption: A sentence above it.
        columns: Column -> what to call it.
        rows: From top to bottom.
    """

    name: str
    caption: str
    columns: Mapping[str, str]
    rows: Sequence[Row]

    @classmethod
    def of_jobs(
        cls,
        name: str,
        caption: str,
        columns: Mapping[str, str],
        command: Command,
        settings: Mapping[str, tuple[str, str]],
        metrics: Sequence[str],
        paper: Callable[[str, str, str, str], Stat],
    ) -> "Table":
        """The table of a command's runs.

        Args:
            name: Of its files.
            caption: A sentence above it.
            columns: Loss -> what to call it; any other column than a loss is the paper's alone.
            command: Runs the jobs.
            settings: Subject of a row, in words -> dataset and model.
            metrics: A row for each, in each setting.
            paper: Maps dataset, model, column and metric to the paper's numbers.
        """
        losses = [column for column in columns if column in LOSSES]
        cells = [(*of, loss) for of in settings.values() for loss in losses]
        results = command.collect({cell: command.jobs(*cell) for cell in cells})
        rows = []
        for setting, (dataset, model) in settings.items():
            for metric in metrics:
                printed = {column: of_paper(paper(dataset, model, column, metric)) for column in columns}
                ours = {loss: tested(results[dataset, model, loss], metric) for loss in losses}
                beside = {loss: printed[loss] for loss in losses}
                rows.append(Row(setting, METRICS[metric], printed_scale(dataset, metric), printed | ours, beside))
        return cls(name, caption, columns, rows)

    def write(self, folder: Path) -> str:
        """Write ``<name>.csv``, ``.md`` and ``.png`` into a folder, and return the Markdown."""
        write(folder, self.name, md=self.markdown(), csv=self._csv(), png=self._png())
        return self.markdown()

    def markdown(self) -> str:
        """Ours beside the paper's in the printed scales, the best in bold, and the number of runs of each cell."""
        header = ["", "metric"]
        for column, label in self.columns.items():
            header += [label, "paper"] if column in self.rows[0].paper else [label]
        caption = f"{self.caption} Mean ± standard deviation (number of our runs)."
        return captioned(caption, [header, *map(self._line, self.rows)])

    def _line(self, row: Row) -> list[str]:
        bold, bold_of_paper = best(row.ours), best({**row.ours, **row.paper})
        line = [row.setting, row.label]
        for column in self.columns:
            cell = row.ours.get(column)
            runs = f" ({cell.runs})" if cell is not None else ""
            line.append(in_words(cell, row.scale, column in bold) + runs)
            if column in row.paper:
                line.append(in_words(row.paper[column], row.scale, column in bold_of_paper))
        return line

    def _csv(self) -> str:
        """One line per cell, in raw units."""
        lines = [("setting", "metric", "column", "runs", "mean", "std", "best", "paper_mean", "paper_std", "scale")]
        for row in self.rows:
            bold = best(row.ours)
            for column in self.columns:
                (mean, std, runs), paper = row.ours.get(column) or NO_RUN, row.paper.get(column) or NO_RUN
                cell = (column, runs, mean, std, int(column in bold), *paper[:2], row.scale)
                lines.append((row.setting, row.metric, *cell))
        return csv_text(lines)

    def _png(self) -> bytes:
        """One picture per row, one line of pictures per setting: ours and the paper's, with standard deviations."""
        from matplotlib.figure import Figure

        settings = list(dict.fromkeys(row.setting for row in self.rows))
        metrics = list(dict.fromkeys(row.metric for row in self.rows))
        figure = Figure(figsize=(3 * len(metrics), 2.2 * len(settings) + 0.4), layout="constrained")
        grid = figure.subplots(len(settings), len(metrics), squeeze=False)
        for row in self.rows:
            axes = grid[settings.index(row.setting), metrics.index(row.metric)]
            self._draw(axes, row)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
        return png(figure)

    def _draw(self, axes: "Axes", row: Row) -> None:
        columns = list(self.columns)
        for shift, name, look, cells in ((-0.12, "ours", OURS, row.ours), (0.12, "paper", PAPER, row.paper)):
            shown = [(columns.index(column) + shift, cell) for column, cell in cells.items() if cell is not None]
            means, stds = ([cell[part] * row.scale for _, cell in shown] for part in (0, 1))
            axes.errorbar([x for x, _ in shown], means, np.nan_to_num(stds), linestyle="", label=name, **look)
        axes.set_xticks(range(len(columns)), self.columns.values(), fontsize=7)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_title(f"{row.setting}, {row.label}", fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(alpha=0.3)


def scaled(metric: str, scale: float) -> str:
    """A metric's name, with the factor that its numbers have."""
    return metric if scale == 1 else f"{metric} × {scale:g}"


def captioned(caption: str, lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown below a caption; the first line is its header."""
    return f"{caption}\n\n{pipes(lines)}\n"


def csv_text(lines: Iterable[Iterable[object]]) -> str:
    """A table as CSV."""
    csv.writer(text := io.StringIO(), lineterminator="\n").writerows(lines)
    return text.getvalue()


def png(figure: "Figure") -> bytes:
    """A figure as a file."""
    figure.savefig(content := io.BytesIO(), format="png", dpi=100)
    return content.getvalue()


def write(folder: Path, name: str, **contents: str | bytes) -> None:
    """Write the files ``<name>.<suffix>``, each of them at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in contents.items():
        with atomic_write(folder / f"{name}.{suffix}") as file:
            file.write(content.encode() if isinstance(content, str) else content)


def in_words(cell: Summary | None, scale: float, bold: bool) -> str:
    """Mean and standard deviation to three digits; a dash where there is no run."""
    if cell is None:
        return "-"
    text = f"{cell.mean * scale:#.3g}" + (f" ± {cell.std * scale:#.3g}" if cell.runs > 1 else "")
    return f"**{text}**" if bold else text
