import gzip
import io
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data import ecg5000, load
from tests.helpers import SHARED_DATA

REAL = SHARED_DATA / "ecg5000"
COUNTS = {"TRAIN": (292, 177, 10, 19, 2), "TEST": (2627, 1590, 86, 175, 22)}


def written(table: np.ndarray, delimiter: str = "   ") -> bytes:
    buffer = io.StringIO()
    np.savetxt(buffer, table, fmt="%.7e", delimiter=delimiter)
    return buffer.getvalue().encode()


@pytest.fixture(scope="module")
def tables() -> dict[str, np.ndarray]:
    """Both parts with the real shapes and class counts, in random numbers and a random order of classes."""
    rng = np.random.default_rng(0)
    made = {}
    for part, counts in COUNTS.items():
        labels = rng.permutation(np.repeat(np.arange(1, 6), counts))
        series = rng.standard_normal((len(labels), 140))
        series = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
        made[part] = np.column_stack((labels, series.round(3)))
    return made


@pytest.fixture(scope="module")
def contents(tables) -> dict[str, bytes]:
    return {part: written(table) for part, table in tables.items()}


@pytest.fixture(scope="module")
def made(contents, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for part, content in contents.items():
        (folder / f"ECG5000_{part}.txt").write_bytes(content)
    return folder


@pytest.fixture
def no_network(monkeypatch, tmp_path) -> Path:
    """Make tslearn keep its downloads, and look for the archive, in folders that this test owns."""
    import tslearn.datasets.ucr_uea as ucr_uea

    archive = tmp_path / "archive"
    archive.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ucr_uea, "BASE_URL", archive.as_uri() + "/")
    return archive


def zipped(archive: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(archive / "ECG5000.zip", "w", compresslevel=1) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)


def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "tslearn" / "UCR_UEA" / "ECG5000"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def assert_holds(task, tables) -> None:
    assert (task.name, task.input_length, task.horizon) == ("ecg5000", 84, 56)
    assert (task.input_size, task.output_size) == (1, 1)
    assert task.valid is None
    for part, name in ((task.train, "TRAIN"), (task.test, "TEST")):
        np.testing.assert_array_equal(part.inputs[..., 0], tables[name][:, 1:85].astype(np.float32))
        np.testing.assert_array_equal(part.targets[..., 0], tables[name][:, 85:].astype(np.float32))


@pytest.mark.parametrize("suffix", [".txt", ".tsv", ".txt.gz", ".tsv.gz", ""])
@pytest.mark.parametrize("folder", ["", "ECG5000"], ids=["directly", "sub-folder"])
def test_every_form_of_the_files_is_read(tmp_path, tables, contents, suffix, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for part, content in contents.items():
        mark = b"\t" if suffix.startswith(".tsv") else b"," if not suffix else b"   "
        content = b"\n".join(mark.join(line.split()) for line in content.splitlines())
        content = gzip.compress(content, 1) if suffix.endswith(".gz") else content
        (tmp_path / folder / f"ECG5000_{part}{suffix}").write_bytes(content)
    assert_holds(load("ecg5000", path=tmp_path), tables)


def test_windows_line_ends_are_read(tmp_path, tables, contents):
    for part, content in contents.items():
        (tmp_path / f"ECG5000_{part}.txt").write_bytes(content.replace(b"\n", b"\r\n"))
    assert_holds(load("ecg5000", path=tmp_path), tables)


# --- where the files are looked for ------------------------------


@pytest.mark.parametrize("data_home", [None, "", "/some/where"])
def test_tslearn_keeps_its_downloads_where_we_look(monkeypatch, data_home):
    from tslearn.datasets.ucr_uea import _check_root_dir

    if data_home is None:
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert ecg5000._tslearn_folder() == _check_root_dir() / "UCR_UEA" / "ECG5000"


def test_a_pair_in_the_cache_is_read_without_a_download(tmp_path, tables, made, no_network):
    cache(tmp_path).parent.mkdir(parents=True)
    cache(tmp_path).symlink_to(made)
    assert_holds(load("ecg5000"), tables)
    assert sorted(os.listdir(cache(tmp_path).parent)) == ["ECG5000"]


def test_without_a_cache_the_archive_is_downloaded_once_and_kept(tmp_path, tables, contents, no_network):
    zipped(no_network, {f"ECG5000_{part}.txt": content for part, content in contents.items()})
    assert_holds(load("ecg5000"), tables)
    assert snapshot(cache(tmp_path)) == {f"ECG5000_{part}.txt": content for part, content in contents.items()}
    assert os.listdir(cache(tmp_path).parent) == ["ECG5000"]
    (no_network / "ECG5000.zip").unlink()
    assert_holds(load("ecg5000"), tables)


def one_sentence(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def assert_guides(message: str, *places: Path) -> None:
    for word in ("ECG5000_TRAIN", "ECG5000_TEST", "timeseriesclassification.com", "path", *map(str, places)):
        assert word in message


def test_offline_the_sentence_says_what_where_and_how(tmp_path, no_network):
    before = socket.getdefaulttimeout()
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as error:
        load("ecg5000")
    assert_guides(one_sentence(error), cache(tmp_path))
    assert os.listdir(cache(tmp_path).parent) == []
    assert socket.getdefaulttimeout() == before


def test_nothing_is_downloaded_when_that_is_not_wanted(tmp_path, contents, no_network):
    zipped(no_network, {f"ECG5000_{part}.txt": content for part, content in contents.items()})
    with pytest.raises(FileNotFoundError, match="does not exist") as error:
        load("ecg5000", download=False)
    assert_guides(one_sentence(error), cache(tmp_path))
    assert not cache(tmp_path).exists()


@pytest.mark.parametrize("damage", ["no archive", "one part", "wrong numbers"])
def test_a_bad_download_is_not_kept(tmp_path, contents, no_network, damage):
    if damage == "no archive":
        (no_network / "ECG5000.zip").write_bytes(b"<html>not found</html>")
    elif damage == "one part":
        zipped(no_network, {"ECG5000_TRAIN.txt": contents["TRAIN"]})
    else:
        zipped(no_network, {"ECG5000_TRAIN.txt": b"1 2 3\n", "ECG5000_TEST.txt": b"1 2 3\n"})
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as error:
        load("ecg5000")
    assert_guides(one_sentence(error), cache(tmp_path))
    assert os.listdir(cache(tmp_path).parent) == []


INCOMPLETE = {
    "one part": {"ECG5000_TRAIN.txt": b"mine\n"},
    "forms that tslearn does not read": {"ECG5000_TRAIN.ts": b"mine\n", "ECG5000_TEST.ts": b"mine too\n"},
    "notes": {"notes.md": b"mine\n", "deep/er/ECG5000_TEST.txt": b"mine\n"},
}


@pytest.fixture(params=list(INCOMPLETE))
def incomplete(request):
    def fill(folder: Path) -> dict[str, bytes]:
        for name, content in INCOMPLETE[request.param].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return INCOMPLETE[request.param]

    return fill


def test_a_users_folder_with_an_incomplete_pair_is_left_untouched(tmp_path, contents, no_network, incomplete):
    zipped(no_network, {f"ECG5000_{part}.txt": content for part, content in contents.items()})
    mine = tmp_path / "mine" / "ECG5000"
    files = incomplete(mine)
    for path in (mine, mine.parent):
        with pytest.raises(FileNotFoundError) as error:
            load("ecg5000", path=path)
        assert_guides(one_sentence(error), path)
        assert snapshot(mine) == files


def test_a_cache_folder_with_an_incomplete_pair_is_left_untouched(tmp_path, contents, no_network, incomplete):
    zipped(no_network, {f"ECG5000_{part}.txt": content for part, content in contents.items()})
    files = incomplete(cache(tmp_path))
    with pytest.raises(FileNotFoundError, match="left as it is") as error:
        load("ecg5000")
    assert_guides(one_sentence(error), cache(tmp_path))
    assert snapshot(cache(tmp_path)) == files


def test_a_missing_folder_says_what_where_and_how(tmp_path):
    with pytest.raises(FileNotFoundError, match="which hold neither") as error:
        load("ecg5000", path=tmp_path / "absent")
    assert_guides(one_sentence(error), tmp_path / "absent")


def test_held_out_series_are_a_seeded_draw_from_the_training_part(made, tables):
    task = load("ecg5000", path=made, held_out=100)
    assert (len(task.train), len(task.valid), len(task.test)) == (400, 100, 4500)
    whole = tables["TRAIN"][:, 1:].astype(np.float32)
    parts = [np.concatenate([part.inputs, part.targets], axis=1)[..., 0] for part in (task.train, task.valid)]
    np.testing.assert_array_equal(np.unique(np.concatenate(parts), axis=0), np.unique(whole, axis=0))
    again, other = (load("ecg5000", path=made, held_out=100, seed=seed).valid.inputs for seed in (0, 1))
    assert again.equal(task.valid.inputs)
    assert not other.equal(again)


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"held_out": 500}, ValueError, "held_out must leave one of the 500 training series, given 500"),
        ({"held_out": -1}, ValueError, "held_out must be .* at least 0, given -1"),
        ({"held_out": 0.2}, TypeError, "held_out must be a whole number"),
        ({"held_out": 1, "seed": -1}, ValueError, "seed must be .* at least 0, given -1"),
    ],
)
def test_a_number_of_held_out_series_that_cannot_be_is_refused(made, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        load("ecg5000", path=made, **options)


def test_a_file_instead_of_its_folder_is_refused(made):
    with pytest.raises(NotADirectoryError, match=r"path must be the folder .* is a file"):
        load("ecg5000", path=made / "ECG5000_TRAIN.txt")


# --- what the files hold ------------------------------


def relabelled(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[np.argmax(table[:, 0] == 1), 0] = 3
    return table


def with_thousandfold(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[6, 9] = 1017.0
    return table


def with_nan(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[6, 9] = np.nan
    return table


MALFORMED = {
    "a row too few": (lambda t: written(t[1:]), r"\(500, 141\) rows and columns, but holds \(499, 141\)"),
    "a column too few": (lambda t: written(t[:, 1:]), r"holds \(500, 140\)"),
    "another class count": (
        lambda t: written(relabelled(t)),
        r"have \(292, 177, 10, 19, 2\) .* have \(291",
    ),
    "a missing value": (lambda t: written(with_nan(t)), "row 7, column 10 is not a finite number"),
    "a lost decimal point": (lambda t: written(with_thousandfold(t)), "mean 0 and deviation 1, but row 7 has mean"),
    "a comma beside tabs": (lambda t: written(t, "\t").replace(b"\t", b",", 1), "could not convert|columns changed"),
    "rows of two lengths": (lambda t: written(t) + b"1 2 3\n", "columns changed"),
    "words": (lambda t: b"label value\n", "could not convert"),
    "nothing": (lambda t: b"", r"holds \(0, 1\)"),
    "binary": (lambda t: bytes(range(128, 256)), "damaged or not a text file"),
    "half a gzip": (lambda t: gzip.compress(written(t))[:5000], "damaged or not a text file"),
}


@pytest.mark.parametrize("damage", list(MALFORMED))
@pytest.mark.filterwarnings("error")
def test_a_malformed_file_is_one_clear_sentence(tmp_path, tables, made, damage):
    spoil, sentence = MALFORMED[damage]
    (tmp_path / "ECG5000_TRAIN.txt").write_bytes(spoil(tables["TRAIN"]))
    (tmp_path / "ECG5000_TEST.txt").symlink_to(made / "ECG5000_TEST.txt")
    with pytest.raises(ValueError, match=sentence) as error:
        load("ecg5000", path=tmp_path)
    assert str(tmp_path / "ECG5000_TRAIN.txt") in one_sentence(error)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not there")
def test_the_real_files_have_the_ranges_and_the_normalisation_of_the_archive():
    task = load("ecg5000", path=REAL)
    for part, count, lowest, highest in (
        (task.train, 500, -5.7976446, 4.0581274),
        (task.test, 4500, -7.0903741, 7.4021031),
    ):
        series = np.concatenate((part.inputs, part.targets), axis=1)[..., 0].astype(np.float64)
        assert series.shape == (count, 140)
        assert series.min() == pytest.approx(lowest, abs=1e-6)
        assert series.max() == pytest.approx(highest, abs=1e-6)
        np.testing.assert_allclose(series.mean(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(series.std(axis=1, ddof=1), 1, atol=1e-6)
