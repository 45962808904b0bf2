"""Choose learning rate, patience, clipping and the tangled versions, which the paper leaves open, on validation data.

    python -m experiments.choose --datasets synthetic
    python -m experiments.choose --data-path ecg5000=FOLDER traffic=FILE

The seeds are 100 and more, which no table uses; the test set is not looked at.

Learning rate: of 1e-3, 3e-3 and 1e-2, the one that leads to the lowest training loss on the validation set, for each
dataset, model and loss, in one training each, without clipping. Patience, one for each dataset and model: these
trainings wait long (40 looks at the validation set; for Seq2Seq on Traffic, where a look comes with 104 steps instead
of 20 to 25, 5 looks, and 15 epochs at most); the shortest of 5, 10, 20 and 40 looks that would have stopped all three
at a loss at most 0.1 % higher, in parts of what the training gained.

Clipping, which the paper does not mention, is added only where it matters: gradients are shortened to a norm of 1 if
the lowest validation loss, in the mean over three seeds, becomes lower by more than 1 % of what the training gained.
The learning rate is the one chosen before. That clipping is a question at all came late: trainings of Seq2Seq on
ECG5000 that came to nothing had been seen, with their test metrics.

The tangled versions have no loss in common, so they are chosen by DILATE itself (alpha 0.5) on the validation set,
with DILATE's learning rate, patience and clipping: the weighted one, with the paper's Omega, by its alpha, the band
version by its T; alpha is 1 there, since it would only rescale gamma.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import NamedTuple

from experiments.jobs import Job
from experiments.protocol import DATASETS, MODELS, Command, job
from experiments.store import Result
from experiments.table1 import LOSSES
from experiments.tables import captioned, write

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
PATIENCES = (5, 10, 20, 40)
LOST_BY_STOPPING = 0.001
LONG = {("traffic", "seq2seq"): (5, 15)}  # patience, epochs at most
TANGLED = {
    "tangled_weighted": [{"alpha": alpha} for alpha in (0.1, 0.3, 0.5, 0.7, 0.9)],
    "tangled_band": [{"alpha": 1.0, "band": band} for band in (1, 2, 3, 5)],
}
SEEDS = (100, 101, 102)
CLIP_NORM = 1.0
GAINED_BY_CLIPPING = 0.01

Settings = dict[str, float | None]


class Clipping(NamedTuple):
    """Means of the lowest validation losses over all seeds, and their difference in parts of the whole gain."""

    free: float
    clipped: float
    share: float


def main(argv: Sequence[str] | None = None) -> None:
    """Train the missing jobs, print the comparison, and write results/choices.json and results/choices.md."""
    command = Command.parse("choose", __doc__, argv, has_runs=False)
    report = replace(command, report_only=True)  # of the other datasets, which may have been trained before
    chosen, compared, clipping = {}, [], {}
    for dataset in DATASETS:
        of_dataset, results, of_clipping = _choose_for(dataset, command if dataset in command.datasets else report)
        chosen |= of_dataset
        compared += results
        clipping |= of_clipping
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(settings)}" for name, settings in chosen.items())
    text = f"{_comparison(compared, chosen)}\n{_clipping_in_words(clipping)}"
    write(command.results, "choices", json=f"{{\n{lines}\n}}\n", md=text)
    print(text)


def _choose_for(dataset: str, command: Command) -> tuple[dict[str, Settings], list[Result], dict[str, Clipping]]:
    """One choice after the other, since each needs the earlier ones: the choices, and all results compared."""
    rates = _finished(command, sweep(dataset, command.epochs))
    chosen = choose(rates)
    clipped = _finished(command, sweep_clipped(chosen, command.epochs))
    clipping = compare_clipping(clipped)
    for name, comparison in clipping.items():
        chosen[name]["clip_norm"] = CLIP_NORM if comparison.share > GAINED_BY_CLIPPING else None
    tangled = {}
    if dataset == "synthetic" and "clip_norm" in (settings := chosen.get("synthetic-seq2seq-dilate", {})):
        tangled = _finished(command, sweep_tangled(settings, command.epochs))
        chosen |= choose_tangled(tangled)
    compared = {json.dumps(result["job"]): result for found in (rates, clipped, tangled) for result in found.values()}
    return chosen, list(compared.values()), clipping


def sweep(dataset: str, epochs: int) -> dict[tuple[str, str, str, float], Job]:
    """The long trainings of one dataset: (dataset, model, loss, learning rate) -> job."""
    return {
        (dataset, model, loss, rate): _long_training(dataset, model, loss, SEEDS[0], rate, epochs)
        for model, loss, rate in product(MODELS, LOSSES, LEARNING_RATES)
    }


def choose(results: Mapping[tuple[str, str, str, float], Result]) -> dict[str, Settings]:
    """Learning rates, and the patience that all losses of a dataset and model have in common, of finished sweeps.

    Returns:
        ``dataset-model-loss`` -> ``learning_rate`` and ``patience``.
    """
    chosen = {}
    for dataset, model in dict.fromkeys(cell[:2] for cell in results):
        if any((dataset, model, *other) not in results for other in product(LOSSES, LEARNING_RATES)):
            continue
        best = {
            loss: min((results[dataset, model, loss, rate] for rate in LEARNING_RATES), key=_lowest_loss)
            for loss in LOSSES
        }
        curves = [result["history"]["valid_loss"] for result in best.values()]
        longest = min(result["job"]["patience"] for result in best.values())
        enough = (p for p in PATIENCES if all(lost_by_stopping(curve, p) <= LOST_BY_STOPPING for curve in curves))
        patience = min(next(enough, longest), longest)
        for loss, result in best.items():
            rate = result["job"]["learning_rate"]
            chosen[f"{dataset}-{model}-{loss}"] = {"learning_rate": rate, "patience": patience}
    return chosen


def lost_by_stopping(losses: Sequence[float], patience: int) -> float:
    """How much higher the lowest of these losses would be with that patience, in parts of the whole gain."""
    best = 0
    for look, loss in enumerate(losses):
        if look - 1 - best >= patience:
            break
        if loss < losses[best]:
            best = look
    gain = losses[0] - min(losses)
    return (losses[best] - min(losses)) / gain if gain else 0.0


def sweep_clipped(chosen: Mapping[str, Settings], epochs: int) -> dict[tuple[str, float | None, int], Job]:
    """Trainings at the chosen learning rates with and without clipping: (name of the choice, norm, seed) -> job."""
    return {
        (name, norm, seed): _long_training(*name.split("-"), seed, settings["learning_rate"], epochs, norm)
        for name, settings in chosen.items()
        for norm, seed in product((None, CLIP_NORM), SEEDS)
    }


def compare_clipping(results: Mapping[tuple[str, float | None, int], Result]) -> dict[str, Clipping]:
    """``dataset-model-loss`` -> what clipping does to the validation loss, for finished sweeps."""
    compared = {}
    for name in dict.fromkeys(name for name, _, _ in results):
        trainings = [[results.get((name, norm, seed)) for seed in SEEDS] for norm in (None, CLIP_NORM)]
        if None in (*trainings[0], *trainings[1]):
            continue
        free, clipped = (fmean(map(_lowest_loss, with_seeds)) for with_seeds in trainings)
        gain = fmean(result["history"]["valid_loss"][0] for result in trainings[1]) - clipped
        compared[name] = Clipping(free, clipped, (free - clipped) / gain if gain else 0.0)
    return compared


def sweep_tangled(settings: Settings, epochs: int) -> dict[tuple[str, int], Job]:
    """Trainings with the tangled versions, with learning rate, patience and clipping of DILATE."""
    return {
        (loss, number): job("synthetic", "seq2seq", loss, SEEDS[0], epochs=epochs, **settings, **own)
        for loss, tried in TANGLED.items()
        for number, own in enumerate(tried)
    }


def choose_tangled(results: Mapping[tuple[str, int], Result]) -> dict[str, Settings]:
    """All settings of the tangled versions, by DILATE on the validation set; unfinished versions are left out."""
    chosen = {}
    for loss, tried in TANGLED.items():
        numbers = range(len(tried))
        if all((loss, n) in results for n in numbers):
            best = min((results[loss, n] for n in numbers), key=lambda result: result["valid"]["dilate"])["job"]
            names = ("learning_rate", "patience", "clip_norm", *tried[0])
            chosen[f"synthetic-seq2seq-{loss}"] = {name: best.get(name) for name in names}
    return chosen


def _long_training(
    dataset: str, model: str, loss: str, seed: int, rate: float, epochs: int, clip_norm: float | None = None
) -> Job:
    patience, most = LONG.get((dataset, model), (max(PATIENCES), epochs))
    settings = {"learning_rate": rate, "clip_norm": clip_norm, "patience": patience, "epochs": min(most, epochs)}
    return job(dataset, model, loss, seed, **settings)


def _finished(command: Command, jobs: Mapping[tuple, Job]) -> dict[tuple, Result]:
    found = command.collect({cell: [job] for cell, job in jobs.items()})
    return {cell: results[0] for cell, results in found.items() if results}


def _lowest_loss(result: Result) -> float:
    return min(loss if math.isfinite(loss) else math.inf for loss in result["history"]["valid_loss"])


def _comparison(results: Iterable[Result], chosen: Mapping[str, Settings]) -> str:
    """Every training that was compared, in Markdown, the chosen ones in bold."""
    own = {"seed": "seed", "learning_rate": "learning rate", "clip_norm": "clipped to", "alpha": "alpha", "band": "T"}
    lines = [["trained", *own.values(), "lowest validation loss", "DILATE there", "epoch"]]
    for result in results:
        job, name = result["job"], "{dataset}-{model}-{loss}".format(**result["job"])
        others = {key: value for key, value in chosen.get(name, {}).items() if key != "patience"}
        bold = "**" if others and all(job.get(key) == value for key, value in others.items()) else ""
        lines.append(
            [
                f"{bold}{name}{bold}",
                *(f"{job[key]:g}" if key in job else "" for key in own),
                f"{_lowest_loss(result):.4g}",
                f"{result['valid']['dilate']:.4g}",
                f"{result['best_epoch']} of {result['epochs']}",
            ]
        )
    patiences = sorted({(name.rpartition("-")[0], settings["patience"]) for name, settings in chosen.items()})
    looks = ", ".join(f"{name} {patience}" for name, patience in patiences)
    caption = f"Chosen on validation data by `python -m experiments.choose`, in bold. Patience: {looks}."
    return captioned(caption, lines)


def _clipping_in_words(clipping: Mapping[str, Clipping]) -> str:
    lines = [["trained", "lowest validation loss", "clipped", "lower by, of what was gained"]]
    for name, (free, clipped, share) in clipping.items():
        bold = "**" if share > GAINED_BY_CLIPPING else ""
        lines.append([f"{bold}{name}{bold}", f"{free:.4g}", f"{clipped:.4g}", f"{share:.2%}"])
    return captioned(f"Clipping, means over seeds {', '.join(map(str, SEEDS))}: in bold where it is chosen.", lines)


if __name__ == "__main__":
    main()
