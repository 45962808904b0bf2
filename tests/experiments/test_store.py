"""Files of results: what several processes write is kept, sorted, and found again."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joblib import Parallel, delayed

from experiments.store import DamagedStoreError, Store
from tests.helpers import ROOT


def name(settings):
    return f"{settings['net']}-{settings['seed']}"


def result_of(seed, net="mlp", score=0.1, **more):
    return {"of": {"seed": seed, "net": net, **more}, "score": score}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "folder" / "results.jsonl", "of", name)


def lines_of(store):
    return [json.loads(line) for line in store.path.read_text().splitlines()]


def test_what_was_not_written_is_not_there(store):
    assert store.read(result_of(0)["of"]) is None
    store.write(result_of(0))
    assert store.read(result_of(1)["of"]) is None
    assert store.read(result_of(0)["of"]) == result_of(0)


@pytest.mark.parametrize("change", [{"seed": 1}, {"net": "gru"}, {"rate": 0.1}, {"rate": None}])
def test_another_setting_is_another_training_even_of_the_same_name(store, change):
    first, second = result_of(0), {"of": {**result_of(0)["of"], **change}, "score": 0.2}
    store.write(first)
    assert store.read(second["of"]) is None
    store.write(second)
    assert (store.read(first["of"]), store.read(second["of"])) == (first, second)


def test_the_order_of_the_settings_makes_no_other_training(store):
    store.write(result_of(0))
    assert store.read(dict(reversed(result_of(0)["of"].items()))) == result_of(0)


@given(st.data())
def test_the_file_is_sorted_by_name_whatever_came_first(tmp_path_factory, data):
    seeds = data.draw(st.lists(st.integers(0, 200), unique=True, min_size=1, max_size=8))
    store = Store(tmp_path_factory.mktemp("sorted") / "results.jsonl", "of", name)
    for seed in data.draw(st.permutations(seeds)):
        store.write(result_of(seed))
    in_order = sorted((result_of(seed) for seed in seeds), key=lambda result: name(result["of"]))
    assert store.path.read_text() == "".join(f"{json.dumps(result)}\n" for result in in_order)


def test_a_new_result_adds_one_line_and_leaves_the_others_as_they_are(store):
    store.path.parent.mkdir()
    by_hand = '{"score":1e-1,   "of": {"net": "mlp", "seed": 5}}\n'
    store.path.write_text(by_hand)
    store.write(result_of(7))
    store.write(result_of(3))
    assert store.path.read_text() == f"{json.dumps(result_of(3))}\n{by_hand}{json.dumps(result_of(7))}\n"


def test_the_same_settings_have_one_line_with_the_last_result(store):
    for score in (0.1, 0.2):
        store.write(result_of(0, score=score))
    assert lines_of(store) == [result_of(0, score=0.2)]


def test_what_was_read_can_be_changed_without_harm(store):
    store.write(result_of(0))
    store.read(result_of(0)["of"])["score"] = "changed"
    assert store.read(result_of(0)["of"]) == result_of(0)


def test_hundreds_of_reads_read_the_file_once_and_see_what_others_write(store, monkeypatch):
    for seed in range(5):
        store.write(result_of(seed))
    opened, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read_bytes(path))
    assert [store.read(result_of(seed % 5)["of"]) for seed in range(100)] == [result_of(s % 5) for s in range(100)]
    assert opened == [store.path]
    Store(store.path, "of", name).write(result_of(5))
    assert store.read(result_of(5)["of"]) == result_of(5)


def write_all(path, seeds):
    for seed in seeds:
        Store(path, "of", name).write(result_of(seed))


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_writers_at_the_same_time_lose_nothing(store, backend):
    seeds = list(range(60))
    random.Random(0).shuffle(seeds)
    Parallel(n_jobs=3, backend=backend)(delayed(write_all)(store.path, seeds[part::3]) for part in range(3))
    assert lines_of(store) == sorted(map(result_of, seeds), key=lambda result: name(result["of"]))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.experiments.test_store import name, result_of
from experiments.store import Store
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
Store(Path(sys.argv[1]), "of", name).write(result_of(1))
"""


def test_a_writer_that_is_killed_loses_only_its_own_line_and_blocks_nobody(store):
    store.write(result_of(0))
    before = store.path.read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, store.path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert store.path.read_bytes() == before
    store.write(result_of(2))
    assert lines_of(store) == [result_of(0), result_of(2)]


@pytest.mark.parametrize(
    "line", ["<<<<<<< HEAD", "{", "[]", '{"score": 1}', '{"of": 1}', '{"of": {"net": "mlp"}}', ""]
)
def test_a_line_that_is_no_result_is_refused_and_nothing_is_written(store, line):
    store.write(result_of(0))
    content = f"{store.path.read_text()}{line}\n"
    store.path.write_text(content)
    for attempt in (lambda: store.read(result_of(0)["of"]), lambda: store.write(result_of(1))):
        with pytest.raises(DamagedStoreError, match=r"results\.jsonl: line 2 is not the result of a training: "):
            attempt()
    assert store.path.read_text() == content


def test_two_results_of_one_training_are_refused(store):
    store.write(result_of(0))
    with store.path.open("a") as file:
        file.write(json.dumps(result_of(0, score=0.2)) + "\n")
    with pytest.raises(DamagedStoreError, match=r"results\.jsonl: line 2 is a second result of mlp-0; delete one\."):
        store.read(result_of(0)["of"])
