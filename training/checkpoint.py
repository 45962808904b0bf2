"""The state of a training in a file: written whole or not at all, read without running code from it."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

__all__ = [
    "CheckpointError",
    "Record",
    "atomic_write",
    "errors_name",
    "load_checkpoint",
    "load_weights",
    "restore",
    "save_checkpoint",
]

Record = dict[str, int | float]

CHECKPOINT_KEYS = frozenset({"net", "optimizer", "epoch", "history", "protocol", "settings"})
# Of a checkpoint's protocol. Training in bf16 was removed, so a checkpoint with bf16=True cannot be continued.
DEFAULTS_OF_MISSING_KEYS = {"clip_norm": None, "bf16": False}


class CheckpointError(ValueError):
    """A file is no checkpoint of ours, or one of another network, of another training or of other data."""


def save_checkpoint(
    path: str | os.PathLike[str],
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    history: list[Record],
    protocol: Mapping[str, int | float],
    settings: Mapping[str, object] | None = None,
    best: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a training's state, whole or not at all: state_dicts and plain values only.

    Args:
        path: File to write; its folder is made if need be.
        net: Its ``state_dict`` is kept.
        optimizer: Its ``state_dict`` is kept.
        epoch: Last finished epoch, counted from 0.
        history: Records of `train_model`.
        protocol: What a continued training must agree with: learning rate, batch size, seed.
        settings: More plain values to keep.
        best: The weights to use, if they are not the last ones; the file then has them as ``net``, and the weights to
            continue from as ``last``.

    Raises:
        OSError: If the file cannot be written.
    """
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "history": history,
        "protocol": dict(protocol),
        "settings": dict(settings or {}),
    }
    if best is not None:
        state |= {"net": dict(best), "last": net.state_dict()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)  # which would hide the reason if it could not write to a file
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def check_plain(name: str, values: Mapping[str, object] | None) -> None:
    """Make sure that a checkpoint with these values could be read again.

    Raises:
        TypeError: If one of them can be brought back by running code only.
    """
    for key, value in (values or {}).items():
        content = io.BytesIO()
        try:
            torch.save({key: value}, content)
            torch.load(io.BytesIO(content.getvalue()), weights_only=True)
        except Exception:  # of many kinds
            raise TypeError(
                f"{name} must hold plain values (numbers, strings, None, lists and dicts of them), "
                f"but {key!r} is a {type(value).__name__}."
            ) from None


def load_checkpoint(path: str | os.PathLike[str]) -> dict:
    """Read what `save_checkpoint` wrote, with all tensors on the CPU, running no code from the file.

    A file that holds nothing but a network's state_dict, such as the released code's weights, is read as a
    checkpoint with only the key ``net``.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        CheckpointError: If it holds something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    if path.is_dir():
        inside = min(path.glob("checkpoints/*.pt"), default=path / "checkpoints" / "mse.pt")
        raise IsADirectoryError(f"{path} is a folder, but a checkpoint is wanted, such as {inside}.")
    content = path.read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:
        # torch raises half a dozen kinds of errors here, and none of their texts says what to do.
        raise CheckpointError(f"{path} is not a checkpoint: it is damaged or holds other things.") from None
    if isinstance(state, dict) and state.keys() >= CHECKPOINT_KEYS and isinstance(net := state["net"], dict) and net:
        return state
    if isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values()):
        return {"net": state}
    raise CheckpointError(f"{path} is not a checkpoint: it holds neither a training nor a network's weights.")


def load_weights(net: nn.Module, checkpoint: Mapping, path: str | os.PathLike[str]) -> None:
    """Copy a checkpoint's weights into a network.

    Args:
        net: The network.
        checkpoint: As read by `load_checkpoint`.
        path: The file of the checkpoint, for the message.

    Raises:
        CheckpointError: If names or shapes of the parameters differ; the network is then unchanged.
    """
    own, given = net.state_dict(), checkpoint["net"]
    odd = sorted(own.keys() ^ given.keys()) or [n for n in own if own[n].shape != given[n].shape]
    if odd:
        raise CheckpointError(
            f"{path} belongs to another network: {odd[0]} is {_shape_of(given, odd[0])} there and "
            f"{_shape_of(own, odd[0])} here."
        )
    net.load_state_dict(given)


def restore(
    checkpoint: str | os.PathLike[str] | None,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    protocol: Mapping[str, int | float],
    validated: bool,
) -> tuple[int, list[Record], dict[str, Tensor] | None]:
    """Bring a network and its optimizer to where a checkpoint left them.

    Args:
        checkpoint: File to continue from; where there is none, everything stays as it is.
        net: The network.
        optimizer: Its optimizer.
        protocol: What both trainings must agree in.
        validated: Whether the training has a validation set to choose its weights by.

    Returns:
        First epoch to train, the records of the epochs before, and, if validated, the best weights so far.

    Raises:
        CheckpointError: As `train_model` says.
        OSError: If the file cannot be read.
    """
    if checkpoint is None or not Path(checkpoint).exists():
        return 0, [], None
    state = load_checkpoint(checkpoint)
    if not state.keys() >= CHECKPOINT_KEYS:
        raise CheckpointError(f"{checkpoint} holds weights only, so no training can be continued from it.")
    for name, value in {**DEFAULTS_OF_MISSING_KEYS, **protocol}.items():
        before = {**DEFAULTS_OF_MISSING_KEYS, **state["protocol"]}.get(name)
        if before != value:
            raise CheckpointError(f"{checkpoint} was trained with {name}={before} and cannot go on with {value}.")
    if validated != ("last" in state):
        before, now = ("without a validation set", "with one") if validated else ("with a validation set", "without")
        raise CheckpointError(f"{checkpoint} was written {before} and cannot go on {now}.")
    load_weights(net, {"net": state.get("last", state["net"])}, checkpoint)
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"] + 1, state["history"], state["net"] if validated else None


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of ``path`` once it is complete, and never before.

    Raises:
        OSError: If ``path``, its ``filename``, cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with errors_name(path, draft):
            with open(draft, "wb") as file:
                yield file
                file.flush()
                # Otherwise a power cut may leave the new name on a file without content.
                os.fsync(file.fileno())
            os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def errors_name(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Let an OSError that names no file, such as that of a full disk, or a draft of this one, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, draft, str(draft)):
            error.filename = str(path)
        raise


def _shape_of(state: Mapping[str, Tensor], name: str) -> str:
    return f"of shape {tuple(state[name].shape)}" if name in state else "missing"
