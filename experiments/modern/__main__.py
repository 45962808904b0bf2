"""The command line of the study."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from joblib import cpu_count

from benchmarks.common import count
from experiments.jobs import run_all
from experiments.protocol import RESULTS, data_path
from experiments.store import DamagedStoreError, Result

from . import __doc__ as description
from . import report
from .protocol import DATASETS, TASKS, Protocol
from .trainings import (
    Cell,
    Job,
    Tried,
    baseline_jobs,
    budget,
    budget_jobs,
    candidate_jobs,
    final_jobs,
    run,
    store_in,
)


def parser() -> argparse.ArgumentParser:
    """All flags, those of the protocol with its defaults."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.modern",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    paths = {"nargs": "+", "type": data_path(DATASETS), "default": [], "metavar": "NAME=PATH"}
    add("--data-path", **paths, help=f"where the files of {', '.join(DATASETS)} are")
    at_a_time = "trainings at a time, one thread each (default: all cores, %(default)s)"
    add("--jobs", type=count, default=cpu_count(), metavar="N", help=at_a_time)
    add("--output", type=Path, default=RESULTS / "modern", metavar="FOLDER", help="default: %(default)s")
    add("--report-only", action="store_true", help="train nothing, and render the trainings that are there")
    add = made.add_argument_group("protocol, default: that of the committed results").add_argument
    for setting in fields(Protocol):
        words = " ".join(map(str, setting.default))
        options = dict(setting.metadata) | {"help": f"{setting.metadata['help']} (default: {words})"}
        add(f"--{setting.name}", nargs="+", default=list(setting.default), **options)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, stage by stage, and write the tables and the figure."""
    made = parser()
    args = made.parse_args(argv)
    protocol = Protocol(**{setting.name: tuple(getattr(args, setting.name)) for setting in fields(Protocol)})
    paths = dict(args.data_path)
    missing = [name for name in dict.fromkeys(TASKS[task].dataset for task in protocol.tasks) if name not in paths]
    if not args.report_only and missing:
        made.error(f"--data-path must say where {', '.join(missing)} is: --data-path {missing[0]}=PATH")
    if not args.report_only and find_spec("neuralforecast") is None:
        made.error("neuralforecast is not installed: pip install -r experiments/modern/requirements.txt")
    store = store_in(args.output)

    def results(jobs: Iterable[Job]) -> list[Result]:
        jobs = list(jobs)
        failed = [] if args.report_only else run_all(jobs, store, paths, args.jobs, train=run)
        found = [store.read(job.settings) for job in jobs]
        if failed:
            made.exit(1, f"{len(failed)} trainings failed, see above; the same command runs them again.\n")
        if None in found:
            made.error(f"{store.path} lacks {found.count(None)} trainings: run without --report-only")
        return found

    def in_cells(jobs: dict[Cell, dict[str, list[Job]]]) -> dict[Cell, Tried]:
        results(job for of in jobs.values() for some in of.values() for job in some)
        return {
            cell: {loss: [store.read(job.settings) for job in some] for loss, some in of.items()}
            for cell, of in jobs.items()
        }

    try:
        baselines = results(baseline_jobs(protocol))
        cells = list(product(protocol.tasks, protocol.networks))
        longest = in_cells({cell: budget_jobs(protocol, cell) for cell in cells})
        budgets = {cell: budget(protocol, longest[cell]) for cell in cells}
        tried = in_cells({cell: candidate_jobs(protocol, cell, budgets[cell]) for cell in cells})
        finals = results(final_jobs(protocol, tried))
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        raise SystemExit(130) from None
    except DamagedStoreError as problem:
        made.exit(2, f"{problem}\n")
    print(report.write(args.output, protocol, budgets, tried, [*finals, *baselines]))
    if not missing:
        report.draw(args.output / report.FIGURE, protocol, finals, paths)
    print(f"Everything is in {args.output}")


if __name__ == "__main__":
    main()
