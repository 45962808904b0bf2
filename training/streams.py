"""Stdout and stderr that never end a run with a traceback: closed, full, or of another alphabet."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

__all__ = ["ReaderGone", "say", "usable_streams"]


class ReaderGone(KeyboardInterrupt):
    """Nobody reads stdout any more, as in ``python main.py | head -1``: like Ctrl-C, this ends the run."""

    exit_code = 141  # what a shell gives for a process that SIGPIPE ended


class _Stdout(io.FileIO):
    """The file descriptor of stdout; its errors name it."""

    def write(self, data: bytes) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderGone("Nobody reads the output any more, so the run ends") from None
        except OSError as error:
            error.filename = "stdout"
            raise


@contextmanager
def usable_streams() -> Iterator[None]:
    """Make stdout and stderr of the process fit to print to, whatever they are.

    A stream that was closed before the start takes everything and keeps nothing. What stdout's encoding lacks becomes
    a question mark. Each line is written at once: piped into a file or tee, lines would otherwise come minutes late.

    Raises:
        ReaderGone: From a print, if the other end of stdout's pipe is closed.
        OSError: From a print, with ``filename`` "stdout", if stdout cannot be written to.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = _nowhere() if sys.stdout is None else _named(sys.stdout)
    sys.stderr = sys.stderr or _nowhere()
    try:
        yield
    finally:
        # What could not be written would be tried again when Python ends, with a message and another exit code.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ReaderGone):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    stream = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
    os.set_inheritable(stream.fileno(), True)  # in other processes, too, no file may take the number of a stream
    return stream


def _named(stdout: TextIO) -> TextIO:
    binary = io.BufferedWriter(_Stdout(stdout.fileno(), "w", closefd=False))
    return io.TextIOWrapper(binary, stdout.encoding, errors="replace", line_buffering=True)


def say(message: str) -> None:
    """Print to stderr; where that takes nothing, the exit code has to do."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
