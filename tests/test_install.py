"""What `pip install .` installs, with which versions, and where its kernels are cached if its folder is read-only."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

import loss
from tests.helpers import ROOT

LOSS = ROOT / "loss"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Compiles one small kernel, or loads it, and says where its cache is and how often it was found there.
ONE_KERNEL = """
import numpy as np
from dilate_loss.kernels.lattice import copy
numbers = np.zeros(5)
copy(np.arange(5.0), 1, numbers, 2, 3)
assert numbers.tolist() == [0, 0, 1, 2, 3]
print(copy.stats.cache_path)
print(sum(copy.stats.cache_hits.values()))
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
    others = {"llvmlite", "cuda"}  # of numba, and of numba-cuda
    assert imported - declared - sys.stdlib_module_names <= others


def pinned(file):
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return {name: Version(version) for name, version in (line.split("==") for line in lines if "==" in line)}


def test_the_lowest_versions_that_are_tried_are_those_that_are_allowed():
    tried = pinned("requirements-lowest.txt")
    for requirement in map(Requirement, PROJECT["project"]["dependencies"]):
        (bound,) = requirement.specifier
        assert (bound.operator, Version(bound.version)) == (">=", tried[requirement.name])
    (python,) = re.findall(r"^\t(python\S+) -m venv", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert PROJECT["project"]["requires-python"] == python.replace("python", ">=")


def test_all_tests_of_the_loss_alone_are_run_with_the_lowest_versions():
    command = ["make", "--no-print-directory", "-n", "test-lowest"]
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m pytest tests/loss tests/test_install.py --ignore-glob='*cuda*'" in planned
    clone = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    for path in (ROOT / "tests" / "loss").glob("test_*.py"):
        assert "cuda" in path.name or clone & set(absolute_imports(path)) <= {"loss", "tests"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `pip install .` makes, of a copy: setuptools builds within the folder."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(LOSS, folder / "loss", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE", PROJECT["project"]["readme"]):
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "built", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "built").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_the_wheel_holds_the_loss_and_says_that_it_is_typed(wheel):
    files = {Path(name) for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {Path("dilate_loss") / path.relative_to(LOSS) for path in LOSS.rglob("*.py")}
    assert files == ours | {Path("dilate_loss/py.typed")}


def test_the_long_description_needs_nothing_of_the_clone(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    description = metadata.get_payload(decode=True).decode()
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    links = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)|^\[[^]]*\]:\s*(\S+)", description, re.MULTILINE)
    for link in map("".join, links):
        assert link.startswith(("https://", "#")), link
    names = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", description, re.MULTILINE)))
    assert len(names) > 5
    assert set(names) <= set(loss.__all__)
    codes = re.findall(r"```python\n(.*?)```", description, flags=re.DOTALL)
    for code in codes:
        exec(code.replace("from dilate_loss import", "from loss import"), scope := {})
        assert torch.isfinite(scope["prediction"].grad).all()
    assert codes


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
        assert list(Path(folder).glob("lattice.dilate_loss_kernels_*_copy*.nbc"))


def test_without_any_place_for_a_cache_the_kernels_still_work_and_say_so_once(read_only, tmp_path):
    (tmp_path / "file").touch()
    done = read_only(tmp_path / "file" / "home")  # which nobody can make
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["None", "0"]
    assert done.stderr.count("set NUMBA_CACHE_DIR") == 1
