"""What `pip install .` installs, and where its kernels are cached if its own folder cannot be written to."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOSS = ROOT / "loss"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Compiles one small kernel, or loads it, and says where its cache is and how often it was found there.
ONE_KERNEL = """
import dilate_loss
from dilate_loss.kernels import tile
assert tile._shifted((1, 2, 3, 4, 5), 1) == (2, 3, 4, 5, 6)
print(tile._shifted.stats.cache_path)
print(sum(tile._shifted.stats.cache_hits.values()))
"""


def absolute_imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_each_folder_of_the_loss_is_installed_and_nothing_else():
    folders = [path.parent.relative_to(LOSS).parts for path in LOSS.rglob("__init__.py")]
    setuptools = PROJECT["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == sorted(".".join(("dilate_loss", *folder)) for folder in folders)
    assert setuptools["package-dir"] == {"dilate_loss": "loss"}


def test_the_loss_imports_itself_relatively_and_what_is_installed_with_it():
    declared = {re.match(r"\w+", line)[0] for line in PROJECT["project"]["dependencies"]}
    imported = {name for file in LOSS.rglob("*.py") for name in absolute_imports(file)}
    assert declared <= imported
    assert imported - declared - sys.stdlib_module_names <= {"llvmlite"}  # numba's own, of the version it needs


@pytest.fixture
def read_only(tmp_path):
    """An installation without room for caches: where the folder should be lies a file, which binds even root."""
    shutil.copytree(LOSS, tmp_path / "site" / "dilate_loss", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("", "kernels"):
        (tmp_path / "site" / "dilate_loss" / folder / "__pycache__").touch()

    def run(home):
        environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        environment |= {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(home), "XDG_CACHE_HOME": str(home)}
        command = [sys.executable, "-c", ONE_KERNEL]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_kernels_of_a_read_only_installation_are_cached_for_the_user(read_only, tmp_path):
    for hits in ("0", "1"):
        done = read_only(tmp_path / "home")
        assert done.returncode == 0, done.stderr
        folder, found = done.stdout.splitlines()
        assert Path(folder).is_relative_to(tmp_path / "home")
        assert found == hits
        assert list(Path(folder).glob("tile.dilate_loss_kernels_*__shifted*.nbc"))


def test_without_any_place_for_a_cache_the_kernels_still_work_and_say_so_once(read_only, tmp_path):
    (tmp_path / "file").touch()
    done = read_only(tmp_path / "file" / "home")  # which nobody can make
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["None", "0"]
    assert done.stderr.count("set NUMBA_CACHE_DIR") == 1
