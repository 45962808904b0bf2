"""Results of trainings in one file of JSON lines, to which several processes can write at the same time."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from training import atomic_write

__all__ = ["DamagedStoreError", "Result", "Settings", "Store", "Training"]

Settings = dict[str, object]
Result = dict[str, object]


class DamagedStoreError(ValueError):
    """A file of results holds a line that is none, or one that contradicts another."""


@dataclass(frozen=True)
class Training:
    """The base of what is run: attributes are settings, and None stands for one that a training does not have."""

    @staticmethod
    def prefix(settings: Settings) -> str:
        """The readable part of a name."""
        raise NotImplementedError

    @classmethod
    def name_of(cls, settings: Settings) -> str:
        """The name of the training with these settings: readable prefix and a digest of all of them."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"{cls.prefix(settings)}-{digest[:8]}"

    @property
    def settings(self) -> Settings:
        """The settings that it has: one added later does not rename the trainings that do not have it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def name(self) -> str:
        """Of its line in the store, and of its files."""
        return self.name_of(self.settings)


@dataclass(frozen=True)
class Store:
    """Settings of a training -> its result: a file with a line for each, sorted by their names.

    Attributes:
        path: The file.
        entry: The entry of a result that holds the settings.
        name: Gives a training with such settings its name.
    """

    path: Path
    entry: str
    name: Callable[[Settings], str]

    def read(self, settings: Settings) -> Result | None:
        """The result of the training with these settings, whoever wrote it; None if it has not finished.

        Raises:
            DamagedStoreError: If a line of the file is not a result, or two have the same settings.
        """
        if not self.path.exists():
            return None
        file = self.path.stat()
        line = _lines_of_version(self, (file.st_mtime_ns, file.st_size, file.st_ino)).get(self._key(settings))
        return None if line is None else json.loads(line)

    def write(self, result: Result) -> None:
        """Add a result, or put it in the place of the one with the same settings; the other lines stay as they are.

        Raises:
            DamagedStoreError: As `read` does.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            lines = self._lines() | {self._key(result[self.entry]): json.dumps(result).encode()}
            with atomic_write(self.path) as draft:
                draft.writelines(line + b"\n" for _, line in sorted(lines.items()))

    def _lines(self) -> dict[tuple[str, str], bytes]:
        lines = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                key = self._key(json.loads(line)[self.entry])
            except (ValueError, LookupError, TypeError):
                wrong = f"line {number} is not the result of a training: {line[:40].decode(errors='replace')!r}"
                raise DamagedStoreError(f"{self.path}: {wrong}.") from None
            if key in lines:
                raise DamagedStoreError(f"{self.path}: line {number} is a second result of {key[0]}; delete one.")
            lines[key] = line
        return lines

    def _key(self, settings: Settings) -> tuple[str, str]:
        return self.name(settings), json.dumps(settings, sort_keys=True)


@lru_cache(maxsize=4)  # the file is read again when it has changed, not for every one of hundreds of results
def _lines_of_version(store: Store, version: tuple[int, int, int]) -> dict[tuple[str, str], bytes]:
    return store._lines()
