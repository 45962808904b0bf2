"""What the flags --bf16, --clip-norm and --compile do to a training: the synthetic task, Seq2Seq, DILATE.

    python -m experiments.flags                            # 200 epochs, 3 seeds; writes results/flags.csv and .md
    python -m experiments.flags --epochs 500 --seeds 10

Each setting trains from the same seeds as the one without flags, so that the standard deviation between seeds tells
which differences count. Interrupted, it goes on where it was. The seconds are of training alone, and those of
torch.compile have the compilation in them.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from arguments import parse_args
from benchmarks.common import machine, write_csv
from experiments.tables import Summary, in_words, pipes, summary
from main import main as train
from run_folder import METRICS, RunFolder

RESULTS = Path(__file__).parent / "results"
FLAGS = {
    "none": (),
    "--bf16": ("--bf16",),
    "--clip-norm 1": ("--clip-norm", "1"),  # the norms of this training are about 2, so most are shortened
    "--compile": ("--compile",),
    "all three": ("--bf16", "--clip-norm", "1", "--compile"),
}
COLUMNS = (*METRICS, "seconds")


def run(flags: Sequence[str], seed: int, epochs: int, folder: RunFolder) -> Mapping[str, float]:
    """The last record of one training, which is continued if the folder already holds it."""
    if folder.config.exists():
        words = ["--resume", folder.path, "--epochs", epochs]
    else:
        settings = ("--losses", "dilate", "--epochs", epochs, "--seed", seed, "--no-plots", "--output", folder.path)
        words = [*flags, *settings]
    return train(parse_args([str(word) for word in words]))["dilate"]


def markdown(rows: Mapping[str, Mapping[str, Summary]], epochs: int) -> str:
    """One line per setting: mean and standard deviation over the seeds."""
    lines = [[name, *(in_words(row[column], 1, bold=False) for column in COLUMNS)] for name, row in rows.items()]
    seeds = next(iter(rows.values()))["mse"].runs
    caption = f"Synthetic, Seq2Seq trained with DILATE for {epochs} epochs, {seeds} seeds; {machine()}."
    return f"{caption}\n\n{pipes([['flags', 'MSE', 'DTW', 'TDI', 'seconds'], *lines])}\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table, and write results/flags.*."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, ... (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "flags", help="folder (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: %(default)s)")
    args = parser.parse_args(argv)
    records = []
    for seed in range(args.seeds):  # seed by seed, so that all settings meet the same noise of the machine
        for name, flags in FLAGS.items():
            folder = RunFolder(args.runs / f"{name.replace('-', '').replace(' ', '-')}-seed{seed}")
            record = run(flags, seed, args.epochs, folder)
            records.append({"flags": name, "seed": seed, **record})
    rows = {
        name: {column: summary([r[column] for r in records if r["flags"] == name]) for column in COLUMNS}
        for name in FLAGS
    }
    write_csv(args.results / "flags.csv", [{**record, "machine": machine()} for record in records])
    (args.results / "flags.md").write_text(table := markdown(rows, args.epochs))
    print(f"\n{table}")


if __name__ == "__main__":
    main()
