"""How the errors of the loaders call an argument: by its name, or by the flag that gave it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_flags: ContextVar[Mapping[str, str]] = ContextVar("flags", default=MappingProxyType({}))


_fixed: ContextVar[Collection[str]] = ContextVar("fixed", default=())


@contextmanager
def called_by_flags(flags: Mapping[str, str], fixed: Collection[str] = ()) -> Iterator[None]:
    """Within this context errors speak of flags.

    Args:
        flags: Argument -> flag, such as "columns" -> "--csv-columns".
        fixed: The arguments that an earlier training settled, so that no error may advise to give them.
    """
    tokens = _flags.set(flags), _fixed.set(fixed)
    try:
        yield
    finally:
        _flags.reset(tokens[0])
        _fixed.reset(tokens[1])


def is_fixed(argument: str) -> bool:
    """Return whether an earlier training settled an argument."""
    return argument in _fixed.get()


def called(argument: str) -> str:
    """Return what the user calls an argument."""
    return _flags.get().get(argument, argument)


def giving(argument: str, value: object) -> str:
    """Return how the user gives an argument that value."""
    flag = _flags.get().get(argument)
    if flag is None:
        return f"{argument}={value!r}"
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return f"{flag} {shlex.quote(str(value))}"
