"""Processes end as their trainings do, and none is left behind."""

import os
import signal
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from training import side_by_side
from training.interruption import LostProcessError
from training.side_by_side import train_side_by_side

SECONDS = 600  # a test waits at most so long for another process, on a busy machine too


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


# --- trainings: they run in other processes, which import this file


def prints(name, on_epoch, write):
    on_epoch(0, 0.5)
    write("this is")
    write(name)
    on_epoch(1, 0.25)


def continues(name, on_epoch, write):
    on_epoch(7, 0.5)
    on_epoch(8, 0.5)


def meets(folder, name, on_epoch, write):
    """Ends once there are two of its kind."""
    (folder / name).touch()
    until(lambda: len(list(folder.iterdir())) >= 2)


def counts(folder, name, on_epoch, write):
    """Prints how many there are at its time."""
    (folder / name).touch()
    time.sleep(0.1)
    write(str(len(list(folder.iterdir()))))
    (folder / name).unlink()


def fails_or_waits(folder, how, name, on_epoch, write):
    """The first one waits until it is ended, and cleans up; the second one comes to its end in some way."""
    if name == "first":
        draft, file = folder / "draft", folder / "first"
        draft.write_text(str(os.getpid()))
        try:
            draft.rename(file)  # from now on the second one may end, and with it this one
            until(lambda: False)
        finally:
            file.rename(folder / "ended")
    until((folder / "first").exists)
    how()


def does_not_listen(folder, name, on_epoch, write):
    """The first one loses every SIGTERM; the second one ends."""
    if name == "first":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        draft = folder / "draft"
        draft.write_text(str(os.getpid()))
        draft.rename(folder / "first")
        until(lambda: False)
    until((folder / "first").exists)


def fail():
    raise FileNotFoundError(2, "No such file", "data.csv")


def fill():
    error = OSError(28, "No space left on device")
    error.filename = "mse.pt"
    raise error


def die():
    os.kill(os.getpid(), signal.SIGKILL)


# --- tests


def test_every_training_is_done_and_its_lines_stand_behind_its_name(capsys):
    names = ["mse", "soft_dtw"]
    assert sorted(train_side_by_side(prints, names, 2, 2)) == names
    captured = capsys.readouterr()
    assert sorted(captured.out.splitlines()) == [
        "mse       mse",
        "mse       this is",
        "soft_dtw  soft_dtw",
        "soft_dtw  this is",
    ]
    assert captured.err == ""


def test_trainings_run_at_the_same_time(tmp_path):
    assert set(train_side_by_side(partial(meets, tmp_path), ["a", "b"], 2, 1)) == {"a", "b"}


def test_there_are_not_more_at_a_time_than_asked_for(tmp_path, capsys):
    assert len(list(train_side_by_side(partial(counts, tmp_path), ["a", "b", "c"], 1, 1))) == 3
    assert capsys.readouterr().out.split() == ["a", "1", "b", "1", "c", "1"]


def test_a_terminal_gets_a_bar_for_each(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    list(train_side_by_side(prints, ["mse", "dilate"], 2, 2))
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("mse   : 2/2 epochs", "dilate: 2/2 epochs", "loss 0.25"))


def test_the_bar_of_a_continued_training_begins_where_that_does(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    list(train_side_by_side(continues, ["mse"], 1, 9))
    assert "mse: 9/9 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        (fail, FileNotFoundError, "data.csv"),
        (fill, OSError, "No space left on device: 'mse.pt'"),
        (die, LostProcessError, "The process that trained second is gone"),
    ],
)
def test_a_training_that_goes_wrong_ends_the_others(tmp_path, how, error, text):
    with pytest.raises(error, match=text) as caught:
        list(train_side_by_side(partial(fails_or_waits, tmp_path, how), ["first", "second"], 2, 1))
    assert not alive((tmp_path / "ended").read_text())
    if how is fail:
        assert "in fail" in caught.value.__notes__[0]
        assert caught.value.filename == "data.csv"


def test_a_training_that_does_not_listen_to_sigterm_is_ended_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(side_by_side, "SECONDS_TO_LEAVE", 0.1)
    with closing(train_side_by_side(partial(does_not_listen, tmp_path), ["first", "second"], 2, 1)) as done:
        assert next(done) == "second"
    assert not alive((tmp_path / "first").read_text())


def test_closing_ends_those_that_are_still_at_work(tmp_path):
    with closing(train_side_by_side(partial(fails_or_waits, tmp_path, print), ["first", "second"], 2, 1)) as done:
        assert next(done) == "second"
    assert not alive((tmp_path / "ended").read_text())
    assert list(Path(tmp_path).iterdir()) == [tmp_path / "ended"]
