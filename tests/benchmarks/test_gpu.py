"""The one command for a GPU: each step has a limit and a result, whatever the others do."""

import json

import pytest

from benchmarks import gpu

STEPS = {
    "good": (20, ("-c", "print('all is well')")),
    "bad": (20, ("-c", "raise SystemExit(3)")),
    "slow": (0.5, ("-c", "import time; print('begun', flush=True); time.sleep(60)")),
}


def test_a_step_that_fails_or_hangs_leaves_what_the_others_found(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "STEPS", STEPS)
    with pytest.raises(SystemExit) as end:
        gpu.main(["--output", str(tmp_path)])
    assert end.value.code == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: step["status"] for name, step in found.items()} == {
        "good": 0,
        "bad": 3,
        "slow": "stopped: out of time",
    }
    assert found["good"]["output"] == ["all is well"]
    assert found["slow"]["output"] == ["begun"]


def test_steps_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "STEPS", STEPS)
    gpu.main(["good", "--output", str(tmp_path)])
    assert list(json.loads((tmp_path / "gpu.json").read_text())) == ["good"]


def test_an_unknown_step_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        gpu.main(["tets"])
    assert end.value.code == 2
    assert "STEP must be one of environment, tests, benchmark" in capsys.readouterr().err
