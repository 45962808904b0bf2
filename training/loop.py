"""Training and evaluation: the loss is an argument, and every evaluation leaves a checkpoint behind."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from data.windows import batches, check_count
from evaluation.metrics import evaluate_forecasts
from loss import SoftDTWLoss

from . import data_parallel
from .checkpoint import Record, check_plain, load_checkpoint, restore, save_checkpoint
from .run_folder import RunFolder

__all__ = [
    "DivergenceError",
    "EpochBar",
    "TrainSettings",
    "best_record",
    "check_can_record",
    "eval_model",
    "predict",
    "train_model",
    "unfinished",
    "warm_up",
]

Criterion = Callable[[Tensor, Tensor], Tensor]

SECONDS_BETWEEN_LINES = 60  # at most, where there is no progress bar


class DivergenceError(ArithmeticError):
    """A loss is nan or infinite, so there are no weights to go on with."""


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Let the CPU count magnitudes below 1.2e-38 (float32) as 0."""
    # Gradients that vanish over a hundred time steps end there, where CPUs are slow by an order of magnitude:
    # a training step of 168 -> 24 took 960 ms with such numbers and 215 ms without, with the same gradients.
    before = bool(torch.tensor(1e-40, dtype=torch.float32) * 1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@dataclass(frozen=True)
class TrainSettings:
    """The numbers of a training; the defaults are the released code's.

    Attributes:
        learning_rate: Adam's step size.
        clip_norm: Length to which longer gradients are shortened before each step (the Euclidean norm over all
            parameters); no limit, if None.
        epochs: Passes over the training set, with the passes before the checkpoint.
        batch_size: Series per step, of all processes together; the last batch of an epoch holds what is left.
        eval_every: Epochs between two evaluations; 0 evaluates after the last epoch only.
        print_every: Epochs between two printed lines; 0 prints nothing.
        patience: Evaluations in a row without a lower ``valid_loss`` after which the training stops; never, if None.
            A stopped training goes on from its checkpoint if this is raised. Needs ``eval_every`` of at least 1.
        seed: Seeds the order of the batches, at least 0.
        cuda_graph: Record network and loss once, forward and back, and let the GPU play that for every whole batch;
            the numbers are the same. Neither may wait for the GPU, as ``.item()`` does.

    Raises:
        TypeError: If a count is not a whole number.
        ValueError: If a number is out of its range, or ``patience`` has no evaluations on the way to count.
    """

    learning_rate: float = 1e-3
    clip_norm: float | None = None
    epochs: int = 500
    batch_size: int = 100
    eval_every: int = 50
    print_every: int = 50
    patience: int | None = None
    seed: int = 0
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if not (value is None and name == "clip_norm") and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value}.")
            # Plain numbers, whatever NumPy scalar was given: a checkpoint keeps them, and its reader takes no others.
            object.__setattr__(self, name, None if value is None else float(value))
        for name in ("epochs", "batch_size") if self.patience is None else ("epochs", "batch_size", "patience"):
            check_count(name, getattr(self, name))
        for name in ("eval_every", "print_every", "seed"):
            check_count(name, getattr(self, name), at_least=0)
        for name in ("epochs", "batch_size", "eval_every", "print_every", "seed"):
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.patience is not None and self.eval_every == 0:
            raise ValueError(
                f"patience={self.patience} needs evaluations on the way, but eval_every=0 has only the last one: "
                "give eval_every of at least 1."
            )

    @property
    def protocol(self) -> dict[str, int | float | None]:
        """The settings that a continued training must agree in."""
        return {name: getattr(self, name) for name in ("learning_rate", "batch_size", "seed", "clip_norm")}


def train_model(
    net: nn.Module,
    criterion: Criterion,
    train_set: Dataset,
    test_set: Dataset | None = None,
    settings: TrainSettings | None = None,
    *,
    valid_set: Dataset | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, object] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    on_eval: Callable[[Record], None] | None = None,
    write: Callable[[str], None] = tqdm.write,
    progress: bool | str = False,
    **changes: object,
) -> list[Record]:
    """Train a network with Adam, in place, and evaluate it on the way (the released code's protocol).

    ``train_model(net, DilateLoss(), task.train, task.test, epochs=50)`` is enough in a notebook. All parts of the
    network are put into training mode, as by ``net.train()``.

    Epochs count from 0, as in the released code: with 500 epochs and ``eval_every=50`` the network is
    evaluated after epochs 0, 50, ..., 450 and after the last one, 499. Every epoch shuffles the training set
    by a generator of its own, seeded by (``seed``, epoch), and so is torch's global one for networks with
    dropout (your global random state is put back afterwards). A training continued from a checkpoint
    therefore gives exactly the numbers of one that was never interrupted. Denormal numbers count as 0.

    In a process group of torch.distributed (see `data_parallel`) all processes train one network: each takes its
    share of every batch, and the gradients are those of the mean over the whole batch. So the numbers are those of
    one process, up to rounding; but for dropout, where each process draws its own, and for layers that take
    statistics over a batch, such as BatchNorm, where each takes those of its share. Rank 0 alone prints, writes and
    calls ``on_eval``; all must see the same files.

    With a validation set the network ends with the weights of the evaluation at which the criterion itself was
    lowest on that set, and with ``patience`` the training stops early (the paper's protocol, which does not say by
    what: the criterion is the one number that every training loss has, and favours none of the metrics). A criterion
    whose gamma or alpha changes on the way has no numbers to compare epochs by: anneal without a validation set.

    Args:
        net: Maps ``(B, N_input, input_size)`` to ``(B, N_output, output_size)``. Batches are brought to the
            dtype and device of its parameters.
        criterion: ``criterion(prediction, target)`` gives the scalar to minimise, a mean over the batch: of a sum
            the losses that are kept are means over the batches' sums. If it also has
            ``components(prediction, target) -> (loss, shape, temporal)``, these terms are printed.
        train_set: Dataset that serves ``dataset[indices]`` as a batch ``(input, target, ...)``.
        test_set: The same, for the evaluations; None leaves their scores out.
        settings: The numbers of the training.
        valid_set: Like ``train_set``, to choose the weights by.
        checkpoint: File to continue from, if it exists, and to write at every evaluation. It does not tell by which
            criterion and on which data the training began: give the same ones, as main.py sees to itself.
        metadata: Plain values (numbers, strings, None, lists and dicts of them) to keep in the checkpoint.
        on_epoch: Called after each epoch with its number and its mean training loss.
        on_eval: Called with each new record, once its checkpoint is written.
        write: Prints a line, or several at once.
        progress: Show a progress bar on stderr, if that is a terminal; a string labels it.
        **changes: Fields of `TrainSettings`, in place of the same fields of ``settings``.

    Returns:
        A record per evaluation, earlier sessions included: ``epoch``, ``train_loss`` (mean over that epoch's
        series), ``valid_loss`` (mean over the validation set), ``mse``, ``dtw``, ``tdi`` (means over the test set)
        and ``seconds`` (of training since epoch 0, without evaluation and the compilation of kernels: network and
        criterion are called once more, on the first batch, before the clock starts). `best_record` tells whose
        weights the network has.

    Raises:
        TypeError: If there is no such setting, a count is not a whole number, or ``metadata`` holds no plain values.
        ValueError: If a number is out of its range, the training set is empty, forecasts have another shape than
            targets, the validation set holds nan or inf, the checkpoint is beyond ``epochs``, ``patience`` comes
            without a validation set, the criterion has parameters to learn (the network alone is trained), or
            ``cuda_graph`` comes without a GPU or with several processes.
        CheckpointError: If the checkpoint is unreadable, or of another network, learning rate, batch size, seed,
            or limit of the gradients, or was written without a validation set and cannot go on with one, or with one
            and cannot go on without.
        DivergenceError: If the training loss becomes nan or infinite, or the one on the validation set is never a
            finite number.
        OSError: If the checkpoint cannot be read or written.
    """
    settings = replace(settings or TrainSettings(), **changes)
    _check_arguments(net, criterion, train_set, valid_set, settings)
    check_plain("metadata", metadata)
    epochs, batch_size = settings.epochs, settings.batch_size
    # In one call for all parameters, which gives the numbers of one after the other.
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, foreach=True)
    start, history, best = restore(checkpoint, net, optimizer, settings.protocol, valid_set is not None)
    if start > epochs:
        raise ValueError(f"epochs must be at least {start}, which {checkpoint} already has, got {epochs}.")
    seconds = history[-1]["seconds"] if history else 0.0
    net_with_loss = NetWithLoss(data_parallel.parallel(net), criterion)
    if settings.cuda_graph:
        net_with_loss = _graphed(net_with_loss, next(iter(batches(train_set, batch_size))))
    step = _Step(net, net_with_loss, optimizer, settings.clip_norm)
    shown = bool(progress) and data_parallel.rank() == 0
    write_lines = _Lines(write, settings.print_every > 0)
    bar = EpochBar(progress if isinstance(progress, str) else None, epochs, start, shown)
    with _flushed_denormals(), _kept_random_state(net), bar:
        for epoch in range(start, epochs):
            if _out_of_patience(history, settings.patience):
                if settings.print_every:
                    write_lines([_patience_line(history, settings.patience)])
                break
            if epoch == start:
                _seed_epoch(settings.seed, epoch)
                batch, *_ = next(iter(batches(data_parallel.ShardedDataset(train_set), batch_size)))
                warm_up(net, criterion, batch)  # which may draw random numbers, as training does: seeded again
            batch_order = _seed_epoch(settings.seed, epoch)
            loader = batches(data_parallel.ShardedDataset(train_set), batch_size, batch_order)
            begun = perf_counter()
            summary = _train_epoch(step, write_lines.watch(loader, epoch))
            seconds += perf_counter() - begun
            _check_finite(summary, epoch)
            bar.advance(epoch, summary.mean)
            if on_epoch is not None:
                on_epoch(epoch, summary.mean)
            last = epoch == epochs - 1
            lines = []
            if settings.print_every and _due(epoch, settings.print_every, last):
                lines.append(_training_line(epoch, summary, criterion))
            if not _due(epoch, settings.eval_every, last):
                write_lines(lines)
                continue
            scores = {} if valid_set is None else {"valid_loss": _mean_loss(net, criterion, valid_set, batch_size)}
            if test_set is not None:
                scores |= eval_model(net, test_set, batch_size, share_out=True)
            record = {"epoch": epoch, "train_loss": summary.mean, **scores, "seconds": seconds}
            # Also what depends on the record, such as stopping early, must be the same in all processes.
            history.append(data_parallel.broadcast_from_rank0(lambda record=record: record))
            if valid_set is not None and best_record(history) is history[-1]:
                best = {name: value.clone() for name, value in net.state_dict().items()}
            if checkpoint is not None and data_parallel.rank() == 0:
                save_checkpoint(checkpoint, net, optimizer, epoch, history, settings.protocol, metadata, best)
            if settings.print_every and scores:
                lines.append(_evaluation_line(scores))
            write_lines(lines)  # at once, so that no other training prints between them
            if on_eval is not None and data_parallel.rank() == 0:
                on_eval(history[-1])
            data_parallel.barrier()  # from here on the files are there for all
    if best is not None:
        if not np.isfinite(lowest := best_record(history)["valid_loss"]):
            found = f"The loss on valid_set was {lowest} at every evaluation"
            raise DivergenceError(f"{found}, so it chooses no weights.")
        net.load_state_dict(best)
    return history


class EpochBar(tqdm):
    """A progress bar over epochs on stderr, where that is a terminal.

    Args:
        label: Stands before the bar.
        epochs: Number of epochs after which the bar is full.
        start: Epochs of earlier sessions.
        shown: False hides the bar everywhere.
    """

    def __init__(self, label: str | None, epochs: int, start: int = 0, shown: bool = True) -> None:
        # The loss stands before the bar, so that a narrow terminal cuts off the times.
        form = "{desc}{n_fmt}/{total_fmt} epochs{postfix} |{bar}| {elapsed}<{remaining}, {rate_fmt}"
        label = f"{label}: " if label else ""
        hidden = None if shown else True
        super().__init__(desc=label, total=epochs, initial=start, unit="epoch", bar_format=form, disable=hidden)

    def advance(self, epoch: int, loss: float) -> None:
        """Show that an epoch, counted from 0, is finished, and its training loss."""
        if not self.disable:
            if not self.n:
                self.initial = self.n = epoch  # a training that is continued
            self.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self.update()


def warm_up(net: nn.Module, criterion: Criterion, batch: Sequence[Tensor]) -> Tensor:
    """Do what a training step does, but for the step, so that all kernels are compiled and kept on disk.

    Weights, buffers and gradients stay as they are; dropout draws from torch's global random state.

    Args:
        net: The network.
        criterion: The loss.
        batch: ``(input, target, ...)``.

    Returns:
        The forecast, without its history.
    """
    like, buffers = next(net.parameters()), [buffer.clone() for buffer in net.buffers()]
    net.train()
    loss, prediction = NetWithLoss(net, criterion)(batch[0].to(like), batch[1].to(like))
    torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
    with torch.no_grad():
        for buffer, before in zip(net.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return prediction


def check_can_record(name: str, device: torch.device) -> None:
    """Find out whether a training can be recorded as a CUDA graph.

    Args:
        name: Name of the setting, for the message.
        device: Where the network is.

    Raises:
        ValueError: If it is not on a GPU, or several processes train it.
    """
    if device.type != "cuda":
        raise ValueError(f"{name} needs a CUDA device, got {device}.")
    if data_parallel.world_size() > 1:
        raise ValueError(f"{name} needs a single process, got {data_parallel.world_size()}.")


def best_record(history: list[Record]) -> Record:
    """The record whose weights a training with these records ends with.

    Args:
        history: As `train_model` returns it.

    Returns:
        The first one with the lowest ``valid_loss``; without a validation set the last one.
    """
    if "valid_loss" not in history[-1]:
        return history[-1]
    # nan is neither below nor above any number, so it is sorted behind all of them, as infinities are.
    return min(history, key=lambda record: (not np.isfinite(record["valid_loss"]), record["valid_loss"]))


def eval_model(
    net: nn.Module,
    dataset: Dataset,
    batch_size: int = 100,
    *,
    return_predictions: bool = False,
    share_out: bool = False,
) -> dict[str, float] | tuple[dict[str, float], Tensor]:
    """Forecast a whole dataset without autograd, and measure the forecasts (section 4.1).

    Args:
        net: Maps ``(B, N_input, input_size)`` to ``(B, N_output, output_size)``.
        dataset: Dataset that serves ``dataset[indices]`` as a batch ``(input, target, ...)``.
        batch_size: Series per call of the network.
        return_predictions: Also return the forecasts.
        share_out: See `predict`.

    Returns:
        ``{"mse": ..., "dtw": ..., "tdi": ...}``, means over the dataset, and on request the forecasts,
        ``(S, N_output, output_size)``, on the CPU.
    """
    prediction, target = predict(net, dataset, batch_size, share_out=share_out)
    scores = evaluate_forecasts(prediction, target)
    return (scores, prediction) if return_predictions else scores


@torch.no_grad()
@_flushed_denormals()
def predict(
    net: nn.Module, dataset: Dataset, batch_size: int = 100, *, share_out: bool = False
) -> tuple[Tensor, Tensor]:
    """Forecast a whole dataset, in its order, in evaluation mode and without autograd.

    Args:
        net: Maps ``(B, N_input, input_size)`` to ``(B, N_output, output_size)``.
        dataset: Dataset that serves ``dataset[indices]`` as a batch ``(input, target, ...)``.
        batch_size: Series per call of the network.
        share_out: In a process group, whose processes all call this with the same network and dataset, each computes
            some of the batches, and gets the forecasts of all.

    Returns:
        Forecasts and targets, both ``(S, N_output, output_size)``, on the CPU.

    Raises:
        ValueError: If the dataset is empty, or forecasts have another shape than targets.
    """
    if not len(dataset):
        raise ValueError("dataset must hold at least one series to forecast, got 0.")
    like, modes = next(net.parameters(), None), [(module, module.training) for module in net.modules()]
    processes, own = (data_parallel.world_size(), data_parallel.rank()) if share_out else (1, 0)
    net.eval()
    try:
        predictions, targets = [], []
        for number, batch in enumerate(batches(dataset, batch_size)):
            # Whole batches go round the processes, so that every number is that of one process, to the last bit.
            if number % processes == own:
                inputs = batch[0] if like is None else batch[0].to(like)
                predictions.append(net(inputs).to("cpu", copy=True))
                _check_shapes(predictions[-1], batch[1])
            targets.append(batch[1].to("cpu", copy=True))  # networks and datasets may fill one buffer again and again
    finally:
        for module, mode in modes:  # one by one: a part that is frozen may be in evaluation mode for good
            module.training = mode
    predictions = data_parallel.gather_round_robin(predictions) if share_out else predictions
    return torch.cat(predictions), torch.cat(targets)


class _EpochSummary(NamedTuple):
    mean: float  # over the epoch's series
    # Of the last batch, which the released code prints, or of this process's share of it:
    last: float
    prediction: Tensor  # before the step
    target: Tensor
    count: int  # of series


class NetWithLoss(nn.Module):
    """A network and its loss in one module, of which a CUDA graph can be made."""

    def __init__(self, net: nn.Module, criterion: Criterion) -> None:
        super().__init__()
        self.net, self.criterion = net, criterion

    def forward(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and prediction without its history."""
        prediction = self.net(inputs)
        _check_shapes(prediction, target)
        loss = self.criterion(prediction, target)
        if loss.dim():
            reduced = 'reduction="mean" or "sum"'
            raise ValueError(
                f"criterion must give one number, as with {reduced}, but gave shape {tuple(loss.shape)}."
            )
        return loss, prediction.detach()


def _graphed(eager: NetWithLoss, batch: Sequence[Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Network and loss as a CUDA graph for batches of the shape of this one, and as they are for others."""
    like = next(eager.parameters())
    sample = batch[0].to(like), batch[1].to(like)
    # make_graphed_callables replaces forward in place, so it gets a copy.
    copy = NetWithLoss(eager.net, eager.criterion).train()
    graph = torch.cuda.make_graphed_callables(copy, sample, allow_unused_input=True)
    return lambda *batch: (graph if batch[0].shape == sample[0].shape else eager)(*batch)


class _Step(NamedTuple):
    """One step of the training, with network, loss and optimizer."""

    net: nn.Module
    net_with_loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    optimizer: torch.optim.Optimizer
    clip_norm: float | None

    def __call__(self, inputs: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Go down the gradient of ``weight`` times the loss, and return loss and prediction."""
        self.optimizer.zero_grad()
        loss, prediction = self.net_with_loss(inputs, target)
        (loss * weight).backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss.detach(), prediction.detach()


def _train_epoch(step: _Step, loader: Iterable) -> _EpochSummary:
    step.net.train()
    like = next(step.net.parameters())
    loss_sum, seen = 0.0, 0
    for batch, count, whole in loader:
        inputs, target = batch[0].to(like), batch[1].to(like)
        # DDP takes the mean over the processes: with this weight, it is the mean over the series of the whole batch.
        loss, prediction = step(inputs, target, data_parallel.world_size() * count / whole)
        loss_sum += loss.to(torch.promote_types(loss.dtype, torch.float32)) * count  # bfloat16 counts to 256
        seen += count
    loss_sum, seen = data_parallel.all_reduce_sum([float(loss_sum), seen])
    for buffer in step.net.buffers() if data_parallel.world_size() > 1 else ():
        torch.distributed.broadcast(buffer, 0)  # DDP does so before a step; evaluation needs those after the last one
    return _EpochSummary(loss_sum / seen, float(loss), prediction, target, count)


def _mean_loss(net: nn.Module, criterion: Criterion, dataset: Dataset, batch_size: int) -> float:
    """Mean of the training criterion over the series of a dataset."""
    like = next(net.parameters())
    prediction, target = predict(net, dataset, batch_size, share_out=True)
    total = 0.0
    with torch.no_grad():
        for forecasts, truths in zip(prediction.split(batch_size), target.split(batch_size), strict=True):
            total += float(criterion(forecasts.to(like), truths.to(like))) * len(forecasts)
    return total / len(prediction)


def _seed_epoch(seed: int, epoch: int) -> torch.Generator:
    """Seed torch's global generator, differently in each process, and return that of the order of the batches."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    torch.manual_seed((mixed + data_parallel.rank()) % 2**64)
    return torch.Generator().manual_seed(mixed)


@contextmanager
def _kept_random_state(net: nn.Module) -> Iterator[None]:
    devices = {parameter.device for parameter in net.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=sorted(device.index for device in devices)):
        yield


def _check_arguments(
    net: nn.Module, criterion: Criterion, train_set: Dataset, valid_set: Dataset | None, settings: TrainSettings
) -> None:
    if not len(train_set):
        raise ValueError("train_set must hold at least one series, got 0.")
    if settings.patience is not None and valid_set is None:
        raise ValueError(f"patience needs a valid_set to look at, got patience={settings.patience} without one.")
    if data_parallel.world_size() > 1 and getattr(criterion, "reduction", "mean") != "mean":
        raise ValueError(f'criterion must have reduction="mean" in several processes, got {criterion.reduction!r}.')
    if settings.cuda_graph:
        check_can_record("cuda_graph", next(net.parameters()).device)
    trained = {id(parameter) for parameter in net.parameters()}
    own = [*criterion.named_parameters(), *criterion.named_buffers()] if isinstance(criterion, nn.Module) else []
    for name, tensor in own:
        if tensor.requires_grad and id(tensor) not in trained:
            raise ValueError(
                f"criterion must have nothing to learn, for the network alone learns, but its {name} requires grad."
            )
    for batch in [] if valid_set is None else batches(valid_set, settings.batch_size):
        for name, values in zip(("inputs", "targets"), batch, strict=False):
            if not values.isfinite().all():
                raise ValueError(f"valid_set must not hold nan or inf in its {name}, or it could choose no weights.")


def _check_shapes(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:  # a loss would broadcast them without a word
        shapes = f"{tuple(prediction.shape)} for targets of shape {tuple(target.shape)}"
        raise ValueError(f"net must forecast in the shape of the targets, but its forecast has shape {shapes}.")


def _out_of_patience(history: list[Record], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    return len(history) - 1 - history.index(best_record(history)) >= patience


def unfinished(path: str | os.PathLike[str]) -> list[str]:
    """A line on a checkpoint of `main.py` whose training was to go on; none where it ended, or does not tell.

    In the folder of its run the run's settings count, which may have been continued with more epochs or patience.

    Raises:
        OSError, CheckpointError: As `load_checkpoint` says.
    """
    checkpoint, place = load_checkpoint(path), Path(path).resolve().parent
    settings, run = checkpoint.get("settings", {}), RunFolder(place.parent)
    if settings and place == run.checkpoints:
        with suppress(OSError, ValueError):  # a run without readable settings cannot go on, but its networks forecast
            settings = run.read_settings()
    epochs, patience = (n if isinstance(n, int) else None for n in map(settings.get, ("epochs", "patience")))
    done = checkpoint.get("epoch", 0) + 1
    if epochs is None or done >= epochs or _out_of_patience(checkpoint["history"], patience):
        return []
    return [f"{path} is of a training that is not finished: it holds {done} of {epochs} epochs"]


def _patience_line(history: list[Record], patience: int) -> str:
    lowest, last = best_record(history)["epoch"], history[-1]["epoch"]
    return f"stopped after epoch  {last}: no lower valid_loss than that of epoch  {lowest} in {patience} evaluations"


def _check_finite(summary: _EpochSummary, epoch: int) -> None:
    if not np.isfinite(summary.mean):
        raise DivergenceError(
            f"The training loss became {summary.mean} in epoch {epoch}: try a smaller learning rate, "
            "a larger gamma, or standardised data."
        )


def _due(epoch: int, every: int, last: bool) -> bool:
    return last or (every > 0 and epoch % every == 0)


class _Lines:
    """The lines of one training; where stderr is no terminal, and so has no bar, at least one a minute."""

    def __init__(self, write: Callable[[str], None], wanted: bool) -> None:
        self._write, self._last = write, perf_counter()
        self._watches = wanted and not (sys.stderr and sys.stderr.isatty())

    def __call__(self, lines: list[str]) -> None:
        """Print lines together."""
        if lines:
            self._write("\n".join(lines))
            self._last = perf_counter()

    def watch(self, loader: Iterable, epoch: int) -> Iterator:
        """The batches of an epoch, with a line where none was printed for a minute."""
        for number, batch in enumerate(loader):
            if self._watches and perf_counter() - self._last >= SECONDS_BETWEEN_LINES:
                self([f"epoch  {epoch}  {number} batches done"])
            yield batch


def _training_line(epoch: int, summary: _EpochSummary, criterion: Criterion) -> str:
    terms = {"loss": summary.last}
    with torch.no_grad():
        if hasattr(criterion, "components"):
            _, shape, temporal = criterion.components(summary.prediction, summary.target)
            terms |= {"loss shape": float(shape), "loss temporal": float(temporal)}
        elif isinstance(criterion, SoftDTWLoss):
            terms["loss shape"] = summary.last
    *sums, count = data_parallel.all_reduce_sum([*(term * summary.count for term in terms.values()), summary.count])
    said = "  ".join(f"{name}  {value / count:.6g}" for name, value in zip(terms, sums, strict=True))
    return f"epoch  {epoch}  {said}  (last batch; mean loss of the epoch  {summary.mean:.6g})"


def _evaluation_line(scores: Mapping[str, float]) -> str:
    return " Eval " + " ".join(f"{name}=  {value:.6g}" for name, value in scores.items())
