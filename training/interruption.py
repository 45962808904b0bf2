"""Signals and lost processes: how they end a run, and the command that continues it."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import NoReturn

from . import data_parallel
from .run_folder import RunFolder
from .streams import say

__all__ = ["LostProcessError", "Terminated", "continuation", "interruptible", "sigint_blocked"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""

    exit_code = 143


class LostProcessError(RuntimeError):
    """A process of the run ended without a result: somebody killed it, or memory ran out."""


def continuation(folder: RunFolder, program: str) -> str:
    """The command that continues a run of a program, a file."""
    command = [sys.executable]
    if data_parallel.world_size() > 1:  # the module behind torchrun, whether torchrun is on the PATH or not
        command += ["-m", "torch.distributed.run", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    # As it was started; where another program imports this one, it is not its own file.
    started_here = os.path.realpath(sys.argv[0]) == os.path.realpath(program)
    return shlex.join([*command, sys.argv[0] if started_here else program, "--resume", str(folder.path)])


@contextmanager
def interruptible(continued_by: str) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and the loss of another process end a run with a sentence on how to continue it.

    Raises:
        SystemExit: 130 and 143 for the signals, 141 if nobody reads stdout any more, 1 for a lost process.
    """

    def terminate(signum: int, frame: object) -> NoReturn:
        raise Terminated

    # Python allows signal handlers in the main thread only.
    handles_signals = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if handles_signals else None
    lost = f"only the work since the last evaluation is lost, and this continues: {continued_by}"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if data_parallel.rank() == 0:
            say(f"\n{str(interrupt) or 'Interrupted'}; {lost}")
        raise SystemExit(getattr(interrupt, "exit_code", 130)) from None
    except RuntimeError as error:
        if not (isinstance(error, LostProcessError) or data_parallel.lost_a_process(error)):
            raise
        say(f"\nAnother process of this run is gone, so it ends; {lost}")
        raise SystemExit(1) from None
    finally:
        if handles_signals:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Hold Ctrl-C back; processes started inside never get it."""
    resource_tracker.ensure_running()  # otherwise it starts inside, and unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
