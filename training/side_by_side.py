"""Trainings side by side: each in a process of its own, and this one alone prints and shows how far they are."""

import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.process import BaseProcess

from tqdm import tqdm

__all__ = ["LostProcessError", "OnEpoch", "cores", "train_side_by_side"]

OnEpoch = Callable[[int, float], None]  # of epoch and training loss
Train = Callable[[str, OnEpoch], object]

# A copy of this process would inherit locks and thread pools of torch and numba, in whatever state they are. So where
# copies are safe at all, they are those of a process that has done nothing but import what takes seconds to import.
COPIES = sys.platform == "linux"
CONTEXT = multiprocessing.get_context("forkserver" if COPIES else "spawn")
IMPORTS = ["torch", "torch._dynamo", "numba"]  # _dynamo is imported by the first optimizer
SECONDS_TO_LEAVE = 5  # for a process whose training is over


class LostProcessError(RuntimeError):
    """A process of the run ended without a word: somebody killed it, or memory ran out."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_side_by_side(train: Train, names: Sequence[str], jobs: int, epochs: int) -> Iterator[str]:
    """Call ``train(name, on_epoch)`` for each name, in new processes, and give the names back as they finish.

    What a training prints appears here behind its name, and a progress bar for each where stderr is a terminal.
    One that goes wrong ends the others. Close the iterator (`contextlib.closing`) to end those still at work.

    Args:
        train: Anything that can be pickled. It is to call ``on_epoch(epoch, loss)`` after each epoch.
        names: One training each.
        jobs: How many to run at a time.
        epochs: How many the last epoch makes, for the progress bars.

    Raises:
        LostProcessError: If a process is gone.
        Exception: Whatever a training raises, with its traceback as a note.
    """
    width, waiting, running = max(map(len, names)), list(names), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                training = _Training(train, waiting.pop(0), width, epochs)
                running[training.connection] = training
            for connection in wait(list(running)):
                if running[connection].listen():
                    yield running.pop(connection).name
    finally:
        for training in running.values():
            training.end()


class _Training:
    """One of the processes, seen from here."""

    def __init__(self, train: Train, name: str, width: int, epochs: int) -> None:
        self.name, self.label = name, f"{name:{width}}"
        self.connection, theirs = Pipe(duplex=False)
        # daemon: never to outlive this process.
        self.process = CONTEXT.Process(target=_work, args=(train, name, theirs), name=name, daemon=True)
        _start(self.process)
        theirs.close()  # so that the connection ends with the process
        self.bar = tqdm(desc=self.label, total=epochs, unit="epoch", disable=None)

    def listen(self) -> bool:
        """Take in one message; True if it was the last one."""
        try:
            kind, content = self.connection.recv()
        except EOFError:
            self._let_go()
            message = f"The process that trained {self.name} is gone, with exit code {self.process.exitcode}."
            raise LostProcessError(message) from None
        if kind == "line":
            tqdm.write(f"{self.label}  {content}")
        elif kind == "epoch":
            self._advance(*content)
        elif kind == "error":
            self._let_go()
            tqdm.write(f"{self.label}  ended by an error")
            raise content
        else:
            self._let_go()
        return kind == "done"

    def _advance(self, epoch: int, loss: float) -> None:
        if not self.bar.n:
            self.bar.initial = self.bar.n = epoch  # of a training that is continued
        self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
        self.bar.update()

    def _let_go(self) -> None:
        """Let the process come to its own end."""
        self.process.join(SECONDS_TO_LEAVE)
        self.end()

    def end(self) -> None:
        """End the process, unless it has ended, and wait until it is gone."""
        self.bar.close()
        self.process.terminate()
        self.process.join(SECONDS_TO_LEAVE)
        self.process.kill()  # Python drops the exception of a signal handler that arrives in a destructor
        self.process.join()
        self.connection.close()


def _start(process: BaseProcess) -> None:
    """Start a process that never hears of Ctrl-C, not even before its first line."""
    if not COPIES:
        with _ctrl_c_kept_for_later():
            process.start()
        return
    CONTEXT.set_forkserver_preload(IMPORTS)
    with _ctrl_c_kept_for_later():
        forkserver.ensure_running()  # what it does not hear of, its copies do not
    process.start()  # waits until all is imported, which Ctrl-C must be able to end


@contextmanager
def _ctrl_c_kept_for_later() -> Iterator[None]:
    """Processes started in here never hear of Ctrl-C; this one does, at the end."""
    resource_tracker.ensure_running()  # otherwise it is started in here too, and lets Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------------------------------------ in the other process


def _work(train: Train, name: str, connection: Connection) -> None:
    # An exit, so that files which are being written are cleaned up; Ctrl-C is for the first process to handle.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a copy of a process that somebody else started hears of it
    try:
        with redirect_stdout(_Lines(lambda line: connection.send(("line", line)))):
            train(name, lambda epoch, loss: connection.send(("epoch", (epoch, loss))))
        connection.send(("done", None))
    except Exception as error:
        error.add_note(traceback.format_exc())
        with suppress(BrokenPipeError):  # nobody is left to be told
            connection.send(("error", error))


class _Lines(io.TextIOBase):
    """A file whose every line goes to a function."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self.send, self.rest = send, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.send(line)
        return len(text)
