"""Tables and figure of the study."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from scipy.stats import ttest_rel

from benchmarks.common import Row, pipes, write_csv
from evaluation.plots import LOSS_LOOKS, ROLE_COLOURS, STYLE
from experiments.store import Result

from .protocol import NETWORKS, TASKS, TRAINED_WITH, Protocol
from .trainings import EXAMPLES, METRICS, Cell, Tried, best, best_rule, excess, score

TABLES, FIGURE, RESULTS = "tables.md", "forecasts.png", "results.csv"
LEVEL = 0.05
PICTURED = ("etth1-96", "traffic", "ecg5000")  # two windows of each
AGAINST = (
    ("dilate", "mse"),
    ("dilate", "mae"),
    ("dilate", "soft_dtw"),
    ("mae", "mse"),
    ("rule", "mse"),
    ("rule", "dilate"),
)


def write(
    folder: Path,
    protocol: Protocol,
    budgets: Mapping[Cell, int],
    tried: Mapping[Cell, Tried],
    results: Sequence[Result],
) -> str:
    """Write the tables and, with all trainings but those that chose the budgets, results.csv; return the tables.

    Args:
        folder: Where to.
        protocol: What was tried.
        budgets: Steps of each cell.
        tried: The candidates of each cell.
        results: Those of all seeds, and of the baselines.
    """
    candidates = [result for of in tried.values() for some in of.values() for result in some]
    write_csv(folder / RESULTS, [_row(result) for result in (*results, *candidates)])
    runs = _by_cell(results)
    parts = [
        "# Test metrics, mean ± standard deviation over the seeds\n",
        pipes([*_scores(protocol, runs)]),
        f"\n# Change of a metric in percent, and p of a paired t-test over {len(protocol.seeds)} seeds\n",
        *(_change(protocol, runs, *pair) for pair in AGAINST if len(protocol.seeds) > 1),
        "# What was chosen on validation\n",
        pipes([*_choices(budgets, tried)]),
        "\n# Rules: the product of MSE, DTW and TDI on validation, relative to that of the search\n",
        pipes([*_rules(protocol, tried)]),
    ]
    (folder / TABLES).write_text("\n".join(parts) + "\n", encoding="utf-8")
    return "\n".join(parts)


def _row(result: Result) -> Row:
    names = ("task", "network", "loss", "seed", "steps", "share", "balance")
    parts = ("valid", "test")
    return {
        **{name: result["job"].get(name, "") for name in names},
        **{name: "" if result.get(name) is None else result[name] for name in ("alpha", "gamma", "best_epoch")},
        **{f"{part}_{metric}": result.get(part, {}).get(metric, "") for part in parts for metric in METRICS},
        "valid_product": score(result) if "valid" in result else "",
        "seconds_per_step": result.get("seconds_per_step", ""),
    }


Runs = dict[tuple[str, str, str | None], list[Result]]  # task, network, loss -> results, seed by seed


def _by_cell(results: Sequence[Result]) -> Runs:
    runs: Runs = {}
    for result in results:
        job = result["job"]
        runs.setdefault((job["task"], job["network"], job.get("loss")), []).append(result)
    return runs


def _scores(protocol: Protocol, runs: Runs) -> Iterator[list[str]]:
    yield ["task", "network", "loss", *METRICS.values(), "ms per step"]
    for task in protocol.tasks:
        of_task = {key: found for key, found in runs.items() if key[0] == task}
        for (_, network, loss), found in sorted(of_task.items(), key=lambda item: _place(protocol, *item[0])):
            cells = [_spread([result["test"][metric] for result in found]) for metric in METRICS]
            took = [1e3 * result["seconds_per_step"] for result in found if "seconds_per_step" in result]
            name, trained = NETWORKS.get(network, network), TRAINED_WITH.get(loss, "")
            yield [TASKS[task].title, name, trained, *cells, f"{np.median(took):.3g}" if took else ""]


def _place(protocol: Protocol, task: str, network: str, loss: str | None) -> tuple[int, int]:
    networks, losses = [*protocol.networks, network], [*TRAINED_WITH, loss]
    return networks.index(network), losses.index(loss)


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.4g}"
    return f"{mean} ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else mean


# ------------------------------------------------------------------------------------------------- comparison


def _change(protocol: Protocol, runs: Runs, loss: str, other: str) -> str:
    """From training with one loss to training with another: a table, and in how many cells it is better or worse."""
    header = ["task", "network", *METRICS.values()]
    lines, verdicts = [], {metric: [0, 0] for metric in METRICS}
    for task in protocol.tasks:
        for network in protocol.networks:
            cells = []
            for metric in METRICS:
                a, b = ([run["test"][metric] for run in runs[task, network, of]] for of in (loss, other))
                percent, p = 100 * (np.mean(a) / np.mean(b) - 1), p_value(a, b)
                if p < LEVEL:
                    verdicts[metric][int(percent > 0)] += 1
                cells.append(f"{percent:+.1f} (p {p:.2g})" if not math.isnan(p) else f"{percent:+.1f}")
            lines.append([TASKS[task].title, NETWORKS[network], *cells])
    counts = [f"{better} better, {worse} worse" for better, worse in verdicts.values()]
    lines.append([f"of {len(lines)}, p < {LEVEL}", "", *counts])
    return f"## {TRAINED_WITH[loss]} instead of {TRAINED_WITH[other]}\n\n{pipes([header, *lines])}\n"


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Of a paired t-test for the same mean; nan where all differences are the same."""
    return float(ttest_rel(a, b).pvalue) if np.ptp(np.subtract(a, b)) > 0 else math.nan


# ------------------------------------------------------------------------------------------------- choices


def _choices(budgets: Mapping[Cell, int], tried: Mapping[Cell, Tried]) -> Iterator[list[str]]:
    yield ["task", "network", "steps", "soft-DTW's gamma", "alpha, gamma", "by rule", "product by rule / by search"]
    rule = best_rule(tried.values())
    for (task, network), of in tried.items():
        dilate, by_rule = best(of, "dilate"), of["rule"][rule]
        pairs = [f"{result['alpha']:g}, {result['gamma']:g}" for result in (dilate, by_rule)]
        names = [TASKS[task].title, NETWORKS[network], str(budgets[task, network])]
        yield [*names, f"{best(of, 'soft_dtw')['gamma']:g}", *pairs, f"{score(by_rule) / score(dilate):.2f}"]


def _rules(protocol: Protocol, tried: Mapping[Cell, Tried]) -> Iterator[list[str]]:
    """All rules; below them every pair of alpha and gamma, as if it were the same in all cells."""
    yield ["rule", "geometric mean", "worst"]
    for kind, names in (("rule", ("share", "balance")), ("dilate", ("alpha", "gamma"))):
        for number, example in enumerate(next(iter(tried.values()))[kind]):
            factors = excess(tried.values(), number, kind)
            words = ", ".join(f"{name} {example['job'][name]:g}" for name in names)
            yield [words, f"{statistics.geometric_mean(factors):.2f}", f"{max(factors):.2f}"]


# ------------------------------------------------------------------------------------------------- figure


def draw(path: Path, protocol: Protocol, finals: Sequence[Result], paths: Mapping[str, str]) -> None:
    """Draw the forecasts at a third and at two thirds of the test part, of the first network and seed."""
    tasks = [task for task in PICTURED if task in protocol.tasks] or list(protocol.tasks)
    runs = _by_cell(finals)
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(4 * len(tasks), 5), layout="constrained")
        grid = figure.subplots(len(EXAMPLES), len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            test = TASKS[task].load(paths[TASKS[task].dataset]).test
            target = test.restored(test.windows.targets)
            for row, where in enumerate(EXAMPLES):
                axes = grid[row, column]
                axes.plot(target[int(len(target) * where), :, 0], color=ROLE_COLOURS["target"], label="target")
                for loss in ("mse", "dilate"):
                    look = LOSS_LOOKS[loss]
                    forecast = runs[task, protocol.networks[0], loss][0]["examples"][row]
                    axes.plot(forecast, color=look["color"], label=look["label"])
            grid[0, column].set_title(f"{TASKS[task].title}, {NETWORKS[protocol.networks[0]]}")
            grid[-1, column].set_xlabel("steps ahead")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(path, dpi=100)
