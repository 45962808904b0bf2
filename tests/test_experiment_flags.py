import csv

import pytest
import torch

from experiments import flags


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Run the experiment for one epoch with two of its settings, and read its CSV."""
    monkeypatch.setattr(flags, "FLAGS", {name: flags.FLAGS[name] for name in ("none", "--clip-norm 1")})

    def run(*words):
        threads = torch.get_num_threads()
        flags.main([*words, "--seeds", "2", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
        torch.set_num_threads(threads)
        with open(tmp_path / "flags.csv", newline="") as file:
            return list(csv.DictReader(file))

    return run


def test_every_setting_is_trained_from_every_seed_and_a_second_call_trains_nothing(rows, tmp_path):
    first = rows("--epochs", "1")
    assert [(row["flags"], row["seed"]) for row in first] == [
        *(("none", "0"), ("--clip-norm 1", "0")),
        *(("none", "1"), ("--clip-norm 1", "1")),
    ]
    assert len({row["mse"] for row in first}) == 4
    assert rows("--epochs", "1") == first
    table = (tmp_path / "flags.md").read_text().splitlines()
    assert "for 1 epochs, 2 seeds" in table[0]
    mean = sum(float(row["mse"]) for row in first if row["flags"] == "none") / 2
    assert table[4].startswith(f"| none | {mean:#.3g} ± ")
