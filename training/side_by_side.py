"""Trainings side by side, each in a process of its own; this process alone prints and draws the bars."""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from tqdm import tqdm

from .interruption import LostProcessError, sigint_blocked
from .loop import EpochBar

# Processes are forked, where that is safe, from a server that has imported torch and trains nothing.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
SECONDS_TO_LEAVE = 5


def train_side_by_side(train: Callable, names: Sequence[str], jobs: int, epochs: int) -> Iterator[str]:
    """Call ``train(name, on_epoch, write)`` for each name, ``jobs`` at a time, and yield the names as they finish.

    ``train`` can be pickled; its ``on_epoch(epoch, loss)`` advances a bar of so many epochs, ``write(line)`` prints.
    An error in one of the trainings is raised here and ends all, and so does closing the iterator.

    Raises:
        LostProcessError: If a process is gone.
    """
    width, waiting, running, processes = max(map(len, names)), list(names), {}, []
    bars = {name: EpochBar(f"{name:{width}}", epochs) for name in names}
    CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "numba"])  # the first optimizer imports _dynamo
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, (ours, theirs) = waiting.pop(0), CONTEXT.Pipe(duplex=False)
                process = CONTEXT.Process(target=_work, args=(train, name, theirs), daemon=True)
                with sigint_blocked():  # the process inherits this: Ctrl-C is for this one to handle
                    process.start()
                    processes.append(process)
                theirs.close()  # so that the connection ends with the process
                running[ours] = name
            for connection in wait(list(running)):
                name = running[connection]
                try:
                    kind, *content = connection.recv()
                except EOFError:
                    raise LostProcessError(f"The process that trained {name} is gone.") from None
                if kind == "epoch":
                    bars[name].advance(*content)
                elif kind == "line":
                    tqdm.write("\n".join(f"{name:{width}}  {line}" for line in content[0].splitlines()))
                elif kind == "error":
                    raise content[0]
                else:
                    yield running.pop(connection)
    finally:
        for bar in bars.values():
            bar.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(SECONDS_TO_LEAVE)
            process.kill()  # Python drops the exception of a signal handler that arrives in a destructor
            process.join()


def _work(train: Callable, name: str, connection: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # files being written are cleaned up
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(name, lambda *epoch: connection.send(("epoch", *epoch)), lambda line: connection.send(("line", line)))
        connection.send(("done",))
    except Exception as error:
        error.add_note(traceback.format_exc())
        with suppress(BrokenPipeError):  # the first process is gone
            connection.send(("line", "ended by an error"))
            connection.send(("error", error))
