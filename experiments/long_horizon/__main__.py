"""The command line of the experiment."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.common import count, machine, write_csv
from training import DivergenceError

from . import __doc__ as description
from . import quality, report, steps
from .protocol import Protocol

OUTPUT = Path(__file__).parent.parent / "results" / "long_horizon"


def parser() -> argparse.ArgumentParser:
    """All flags, those of the protocol with its defaults."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.long_horizon",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--data-path", required=True, metavar="FILE", help="ETTh1.csv, or another CSV file whose rows are hours")
    only = made.add_mutually_exclusive_group()
    only.add_argument("--steps-only", action="store_true", help="time and memory of a training step, no training")
    only.add_argument("--quality-only", action="store_true", help="training and metrics, no timing")
    add("--original", type=Path, metavar="FOLDER", help="a clone of the released DILATE, to be timed too")
    add("--seconds", type=float, default=20, help="of timing for each network and horizon (default: %(default)s)")
    add("--threads", type=count, default=1, help="of torch (default: %(default)s)")
    add("--output", type=Path, default=OUTPUT, metavar="FOLDER", help="default: %(default)s")

    add = made.add_argument_group("protocol, default: that of the committed results").add_argument
    for setting in fields(Protocol):
        if setting.metadata:
            add(f"--{setting.name.replace('_', '-')}", default=setting.default, **setting.metadata)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part or both, print the results, and write them to files."""
    args = parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    print(machine())
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        protocol = Protocol.of(args)
        if not args.quality_only:
            time_steps(protocol, args)
        if not args.steps_only:
            train_networks(protocol, args.output)
    except (ValueError, TypeError, OSError, DivergenceError) as error:
        raise SystemExit(f"error: {error}") from None
    report.write_tables(args.output)
    print(f"Everything is in {args.output}")


def time_steps(protocol: Protocol, args: argparse.Namespace) -> None:
    """Write steps.csv, as far as it is known after each network and horizon."""
    rows: list[dict[str, object]] = []
    for found in steps.measure(protocol, args.original, args.seconds):
        if not rows:
            print(_aligned(found[0]))
        for row in found:
            print(_aligned(row.values()), flush=True)
        rows += found
        write_csv(args.output / report.STEPS, rows)


def _aligned(cells: Iterable[object]) -> str:
    """Without the last one, which is the machine's name."""
    return "  ".join(f"{cell!s:>20}" if place == 2 else f"{cell!s:>12}" for place, cell in enumerate([*cells][:-1]))


def train_networks(protocol: Protocol, output: Path) -> None:
    """Write quality.csv and quality.png, of trainings that are done now or were done before."""
    results, number = quality.results(protocol, output / "trainings.jsonl"), quality.number_of_results(protocol)
    done = []
    for result in tqdm(results, total=number, unit="training", disable=None):
        tqdm.write(quality.line(result))
        done.append(result)
    rows = report.quality_rows(protocol, done)
    write_csv(output / report.QUALITY, rows)
    report.draw(output / report.FIGURE, protocol, done, rows)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
