"""Why cells of Tables 1 to 3 differ from the paper's: what came to mind, tried.

    python -m experiments.reasons --data-path ecg5000=FOLDER
    python -m experiments.reasons --datasets synthetic

Another training: the released code's learning rate, a fixed number of epochs and no early stopping. Seq2Seq stops
after 250 epochs of Synthetic, when DTW is still falling: the paper's networks may have been trained less than ours.
The MLP goes through all 1000, far beyond its best validation loss: the paper's may have been stopped late.

Another metric: the Hausdorff distance of other change points, the ramp score with other tolerances, for the networks
in experiments/weights.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from data import load
from experiments import table1, table2, table3
from experiments.jobs import Job
from experiments.protocol import DATASETS, MODELS, Command
from experiments.table1 import LOSSES
from experiments.tables import Row, Summary, Table, in_words, pipes
from experiments.weights import FOLDER
from metrics import hausdorff, ramp_score
from models import build_model
from paper_results import RUNS, TABLE_2, printed_scale
from training import atomic_write, load_checkpoint, load_weights, predict

EPOCHS = {("synthetic", "mlp"): 1000, ("synthetic", "seq2seq"): 250, ("ecg5000", "mlp"): 1000}
LEARNING_RATE = 1e-3
PENALTIES = (0.005, 0.01, 0.02, 0.05)
TOLERANCES = (0.0, 0.01, 0.05, 0.1, 0.2)


class Unstopped(Command):
    """The same command line, with the other training in place of the chosen settings."""

    def jobs(self, dataset: str, model: str, loss: str, **settings: float | None) -> list[Job]:
        """The jobs of one cell. They look at the validation set at the beginning and at the end."""
        if (dataset, model) not in EPOCHS:
            return super().jobs(dataset, model, loss, **settings)
        epochs = EPOCHS[dataset, model]
        other = {"learning_rate": LEARNING_RATE, "epochs": epochs, "eval_every": epochs, "patience": 1}
        return super().jobs(dataset, model, loss, **settings | other)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print both comparisons, and write results/reasons.md and results/reasons.csv."""
    unstopped = Unstopped.parse("reasons", __doc__, argv, ["synthetic", "ecg5000"])
    as_chosen = replace(Command(**vars(unstopped)), report_only=True, runs=RUNS)
    cells = list(_cells(_tables(as_chosen), _tables(unstopped)))
    text = f"{_trained_otherwise(cells)}\n{_measured_otherwise(_forecasts())}"
    for suffix, content in ((".md", text), (".csv", _csv(cells))):
        with atomic_write(unstopped.results / f"reasons{suffix}") as file:
            file.write(content.encode())
    print(text)


def within(ours: Summary | None, paper: Summary) -> bool:
    """Whether our mean is within two standard deviations of the paper's."""
    return ours is not None and abs(ours.mean - paper.mean) <= 2 * paper.std


# table, row, column, the paper, as chosen, unstopped
Cell = tuple[str, Row, str, Summary, Summary | None, Summary | None]


def _tables(command: Command) -> list[Table]:
    synthetic = replace(command, datasets=["synthetic"])
    return [table1.table(command), table2.table(synthetic), table3.table(synthetic)]


def _cells(as_chosen: Sequence[Table], unstopped: Sequence[Table]) -> Iterator[Cell]:
    """The cells of the networks that were trained otherwise; Table 3's column of DILATE is that of the others."""
    settings = {DATASETS["synthetic"], *(f"{MODELS[model]}, {DATASETS[dataset]}" for dataset, model in EPOCHS)}
    for table, other in zip(as_chosen, unstopped, strict=True):
        for row, tried in zip(table.rows, other.rows, strict=True):
            for column in table.columns:
                if row.setting in settings and (table.name != "table3" or column != "dilate"):
                    yield table.name, row, column, row.paper[column], row.ours[column], tried.ours[column]


def _trained_otherwise(cells: Sequence[Cell]) -> str:
    names = LOSSES | table3.LOSSES
    lines = [["table", "", "metric", "trained with", "paper", "as chosen", "unstopped"]]
    for table, row, column, paper, *ours in cells:
        numbers = [in_words(cell, row.scale, within(cell, paper)) for cell in ours]
        metric = f"{row.metric} × {row.scale:g}"
        lines.append([table, row.setting, metric, names[column], in_words(paper, row.scale, False), *numbers])
    counts = [sum(within(cell[at], cell[3]) for cell in cells) for at in (4, 5)]
    budgets = ", ".join(f"{MODELS[m]} on {DATASETS[d]} {epochs} epochs" for (d, m), epochs in EPOCHS.items())
    caption = (
        f"Trained otherwise: without early stopping, learning rate {LEARNING_RATE:g}, {budgets}. In bold what lies "
        f"within the paper's mean ± 2 standard deviations: {counts[0]} of {len(cells)} cells as chosen, {counts[1]} "
        "unstopped."
    )
    return f"{caption}\n\n{pipes(lines)}\n"


def _forecasts() -> dict[str, tuple[Tensor, Tensor]]:
    """Training loss -> forecasts and targets, of the networks of seed 0 that are kept."""
    data, forecasts = load("synthetic"), {}
    for loss in LOSSES:
        net = build_model("seq2seq", input_length=data.input_length, horizon=data.horizon, gru="fused")
        path = FOLDER / f"{loss}.pt"
        load_weights(net, load_checkpoint(path), path)
        forecasts[loss] = predict(net, data.test)
    return forecasts


def _measured_otherwise(forecasts: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    changes = {"one change point (ours)": {}} | {f"as many as pay {p:g} each": {"penalty": p} for p in PENALTIES}
    ramps = {f"tolerance {tolerance:g}": {"tolerance": tolerance} for tolerance in TOLERANCES}
    lines = [["metric", "", *LOSSES.values()]]
    for name, metric, ways in (("hausdorff", hausdorff, changes), ("ramp", ramp_score, ramps)):
        scale = printed_scale("synthetic", name)
        label = f"{name.capitalize()} × {scale:g}"
        for way, options in ways.items():
            scores = [scale * metric(*pair, **options).mean() for pair in forecasts.values()]
            lines.append([label, way, *(f"{score:.3g}" for score in scores)])
        paper = [Summary(*TABLE_2["synthetic", loss][name], RUNS) for loss in forecasts]
        lines.append([label, "paper", *(in_words(cell, scale, bold=False) for cell in paper)])
    return f"Measured otherwise: Seq2Seq of seed 0.\n\n{pipes(lines)}\n"


def _csv(cells: Sequence[Cell]) -> str:
    """One line per cell, in raw units."""
    lines = csv.writer(text := io.StringIO(), lineterminator="\n")
    parts = ("mean", "std", "runs")
    lines.writerow(
        ["table", "setting", "metric", "column"]
        + [f"{who}_{part}" for who in ("paper", "chosen", "unstopped") for part in parts]
    )
    for table, row, column, *three in cells:
        numbers = [number for cell in three for number in cell or ("", "", 0)]
        lines.writerow([table, row.setting, row.metric, column, *numbers])
    return text.getvalue()


if __name__ == "__main__":
    main()
