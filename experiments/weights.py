"""Keep the weights of Table 1's synthetic Seq2Seq networks of seed 0, so that a clone can measure them.

    python -m experiments.weights
    python main.py --evaluate experiments/weights/dilate.pt

Three networks in float32 are 1.2 MB. Rounded to 16 of their 24 significant bits and compressed they are below 1 MB,
and no metric changes in the four digits that main.py prints.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.jobs import JobStore
from experiments.protocol import Command
from experiments.table1 import LOSSES
from training import atomic_write

FOLDER = Path(__file__).parent / "weights"
LOST_BITS = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Write the state_dicts of the three networks, which are trained now if they were not yet.

    A clone of the project has the results of their trainings but not these large weights, so the small ones stay.
    """
    command = Command.parse("weights", __doc__, argv, ["synthetic"], has_runs=False)
    store = JobStore(command.results)
    FOLDER.mkdir(exist_ok=True)
    for loss in LOSSES:
        path, (job,) = FOLDER / f"{loss}.pt", command.jobs("synthetic", "seq2seq", loss)
        command.collect({(loss,): [job]})
        if store.weights(job).exists():
            with atomic_write(path) as file:
                file.write(compressed(torch.load(store.weights(job), weights_only=True)))
            print(path)
        elif path.exists():
            print(f"{path} stays as it is: {job.name} was not trained here")
        else:
            raise SystemExit(
                f"{path} cannot be made: {job.name} was not trained here; delete its line in {store.path.name}."
            )


def compressed(state: dict[str, Tensor]) -> bytes:
    """A file that `torch.load` reads, of float32 tensors whose last bits are rounded to 0."""
    torch.save({name: rounded(value) for name, value in state.items()}, plain := io.BytesIO())
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return packed.getvalue()


def rounded(values: Tensor) -> Tensor:
    """To the nearest float32 with the last bits 0."""
    bits = values.contiguous().view(torch.int32) + (1 << LOST_BITS - 1)  # a carry into the exponent is right, too
    return (bits >> LOST_BITS << LOST_BITS).view(torch.float32)


if __name__ == "__main__":
    main()
