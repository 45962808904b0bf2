"""Two real processes (gloo, started by torchrun) must give the numbers of one with the same global batch.

Forecasts of equal weights are equal to the last bit. Gradients are summed in another order, so everything that comes
after a step is compared to 1e-6 of its size (1e-7 was seen), and weights, whose steps Adam divides by the size of the
gradients, to 5e-6 (1.4e-6 was seen).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from data.windows import WindowDataset, batches
from main import main
from tests.helpers import ROOT, records, results, untimed, weights, write_waves
from training import data_parallel, load_checkpoint, train_model
from training.experiment import resolve_device
from training.settings import parse_args

LOSSES = ["mse", "dilate"]
SECONDS = 600  # a test waits at most so long for another process, on a busy machine too

# The criterion ends process 1 as the system does that runs out of memory, in epoch 2 of 5.
KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from torch import nn
from training import data_parallel, losses
from training.settings import parse_args
from main import main

class KilledInEpoch2(nn.MSELoss):
    steps = 0
    def forward(self, prediction, target):
        self.steps += torch.is_grad_enabled()  # and not on the validation part
        if data_parallel.rank() == 1 and self.steps == 3 * 2 + 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(prediction, target)

losses.LOSSES["mse"] = lambda args: KilledInEpoch2()
with data_parallel.process_group():
    main(parse_args())
"""

# The threads of gloo are left with tensors of Python's, for which they need an interpreter that still lives.
BUSY_AT_THE_END = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch, torch.distributed
from torch import nn
from training import data_parallel

def work():
    data_parallel.parallel(nn.Linear(1, 1))(torch.ones(1, 1)).sum().backward()
    for _ in range(3000):
        torch.distributed.all_reduce(torch.ones(30), async_op=True)

with data_parallel.process_group():
    work()
"""


# Each process has statistics of its own after a step; the last ones must be those of the network that is kept.
WITH_STATISTICS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
import torch
from torch import nn
from data import WindowDataset
from training import data_parallel, eval_model, load_checkpoint, predict, train_model

torch.manual_seed(1)
net = nn.Sequential(nn.Flatten(1), nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))
net.append(nn.Unflatten(1, (5, 1)))
series = np.random.default_rng(0).normal(size=(200, 1)).cumsum(0)
train, test = (WindowDataset.from_series(part, 8, 5) for part in (series[:150], series[150:]))
with data_parallel.process_group():
    settings = dict(epochs=2, batch_size=16, eval_every=1, print_every=0, checkpoint="statistics.pt")
    history = train_model(net, nn.MSELoss(), train, test, **settings)
    # A process of its own mind: the network and the windows of each are others.
    own = nn.Sequential(nn.Flatten(1), nn.Linear(8, 5), nn.Unflatten(1, (5, 1)))
    nn.init.constant_(own[1].weight, 1.0 + data_parallel.rank())
    share = torch.utils.data.Subset(test, range(data_parallel.rank(), len(test), 2))
    forecast, target = predict(own, share, batch_size=4)
    batch = test[list(share.indices)]
    assert torch.equal(target, batch[1])
    assert torch.allclose(forecast, own(batch[0]))
if data_parallel.rank() == 0:
    net.load_state_dict(load_checkpoint("statistics.pt")["net"])
    kept = eval_model(net, test)
    assert all(abs(history[-1][name] / kept[name] - 1) < 1e-5 for name in kept), (history[-1], kept)
"""


def torchrun(program, *flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(word) for word in (*command, program, *flags)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS, check=False)


def run(*flags):
    """The same in this process, which keeps its number of threads."""
    threads = torch.get_num_threads()
    try:
        args = parse_args([str(flag) for flag in flags])
        args.jobs = 1
        return main(args)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Flags of a small run: 63 series in batches of 31, 31 and 1, shares of 16 and 15, and at last 1 and none."""
    table = write_waves(tmp_path_factory.mktemp("data") / "waves.csv")
    return [
        *(
            "--dataset",
            "csv",
            "--data-path",
            str(table),
            "--csv-time",
            "none",
            "--input-length",
            "6",
            "--horizon",
            "4",
        ),
        *(
            "--hidden-size",
            "6",
            "--batch-size",
            "31",
            "--learning-rate",
            "0.01",
            "--epochs",
            "5",
            "--eval-every",
            "1",
        ),
        *("--clip-norm", "0.2", "--losses", *LOSSES, "--no-plots", "--no-show"),
    ]


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """The same run in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    run(*small, "--gru", "fused", "--output", folder / "one")
    finished = torchrun(ROOT / "main.py", *small, "--gru", "fused", "--output", folder / "two")
    assert finished.returncode == 0, finished.stderr
    return folder / "one", folder / "two", finished.stdout


def assert_close(folder, other, losses=LOSSES):
    ours, theirs = untimed(records(folder)), untimed(records(other))
    for record, truth in zip(ours, theirs, strict=True):
        assert record.pop("loss") == truth.pop("loss")
        assert record == pytest.approx(truth, rel=1e-6)
    for loss in losses:
        for name, value in weights(other, loss).items():
            torch.testing.assert_close(weights(folder, loss)[name], value, rtol=1e-6, atol=5e-6)


def test_two_processes_have_the_loss_curve_and_the_weights_of_one(runs):
    one, two, _ = runs
    assert [record["epoch"] for record in records(two)] == [*range(5)] * len(LOSSES)
    assert_close(two, one)


def test_the_first_process_alone_prints_and_writes(runs):
    one, two, printed = runs
    assert printed.count("in 2 processes") == printed.count("Everything is in") == 1
    assert printed.count("\nepoch  0  ") == len(LOSSES)
    files = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_the_scores_of_two_processes_with_batch_norm_are_those_of_the_network_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(WITH_STATISTICS)
    finished = torchrun(tmp_path / "program.py")
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_one_of_one_and_the_other_way_round(runs, tmp_path):
    one, two, _ = runs
    for loss in LOSSES:
        assert run("--evaluate", two / "checkpoints" / f"{loss}.pt")[loss] == results(two)[loss]
    shutil.copytree(two, tmp_path / "two")
    shutil.copytree(one, tmp_path / "one")
    run("--resume", tmp_path / "two", "--epochs", 7)
    finished = torchrun(ROOT / "main.py", "--resume", tmp_path / "one", "--epochs", 7)
    assert finished.returncode == 0, finished.stderr
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_evaluation_in_two_processes_prints_the_table_of_one(runs, capsys):
    checkpoint = runs[0] / "checkpoints" / "dilate.pt"
    run("--evaluate", checkpoint)
    # Of the batches of 6, 6 and 3, the first process has two and the second one.
    finished = torchrun(ROOT / "main.py", "--evaluate", checkpoint, "--batch-size", 6)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_sentence_and_it_resumes_from_the_last_checkpoint(small, runs, tmp_path):
    script, folder = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(KILLED)
    flags = [*small, "--gru", "fused", "--losses", "mse", "--output", folder]
    killed = torchrun(script, *flags)
    assert killed.returncode != 0
    sentence = r"^(Another process of this run is gone, so it ends|Interrupted); only the work .* continues: (.*)"
    command = shlex.split(re.search(sentence, killed.stderr, re.M)[2])
    assert command[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    assert "[rank0]: Traceback" not in killed.stderr
    assert load_checkpoint(folder / "checkpoints" / "mse.pt")["epoch"] == 1
    assert [record["epoch"] for record in records(folder)] == [0, 1]

    resumed = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert resumed.returncode == 0, resumed.stderr
    whole = [record for record in untimed(records(runs[1])) if record["loss"] == "mse"]
    assert untimed(records(folder)) == whole
    assert all(torch.equal(value, weights(runs[1], "mse")[name]) for name, value in weights(folder, "mse").items())


@pytest.mark.slow
def test_a_process_does_not_end_before_the_threads_of_gloo(tmp_path):
    script = tmp_path / "busy.py"
    script.write_text(BUSY_AT_THE_END)
    finished = torchrun(script)
    assert finished.returncode == 0, finished.stderr


def test_a_mistake_is_said_once():
    finished = torchrun(ROOT / "main.py", "--device", "gpu")
    assert finished.returncode != 0
    assert finished.stderr.count("main.py: error: --device must be auto, cpu, cuda, cuda:1, ... or mps") == 1


class Process:
    """Stands in for one process of several."""

    def __init__(self, monkeypatch, rank, processes):
        monkeypatch.setattr(data_parallel, "rank", lambda: rank)
        monkeypatch.setattr(data_parallel, "world_size", lambda: processes)
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_the_shares_of_a_batch_are_the_batch(monkeypatch, processes):
    windows = WindowDataset(torch.arange(11.0).reshape(11, 1, 1), torch.zeros(11, 1, 1))
    served = []
    for rank in range(processes):
        Process(monkeypatch, rank, processes)
        order = torch.Generator().manual_seed(3)
        served.append(list(batches(data_parallel.ShardedDataset(windows), 4, order)))
    whole = [batch[0] for batch in batches(windows, 4, torch.Generator().manual_seed(3))]
    for inputs, *shares in zip(whole, *served, strict=True):
        assert [size for _, _, size in shares] == [len(inputs)] * processes
        assert sum(count for _, count, _ in shares) == len(inputs)
        counted = torch.cat([batch[0][:count] for batch, count, _ in shares])
        assert torch.equal(counted.sort(0).values, inputs.sort(0).values)
        assert all(len(batch[0]) == max(count, 1) for batch, count, _ in shares)


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in (0, 1):
        Process(monkeypatch, rank, 2)
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", rank)
        assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device cuda:1 is one device, and 2 processes cannot share it"):
        resolve_device("cuda:1")
    Process(monkeypatch, 0, 3)
    with pytest.raises(ValueError, match="--device cuda: 3 processes need a GPU each, and torch finds 2"):
        resolve_device("auto")


def test_dropout_differs_between_processes(monkeypatch):
    windows = WindowDataset(torch.ones(8, 4, 1), torch.ones(8, 4, 1))

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.drawn = nn.Parameter(torch.ones(())), []

        def forward(self, x):
            self.drawn.append(torch.rand(()).item())
            return x * self.weight

    drawn = []
    for rank in (0, 1, 0):
        monkeypatch.setattr(data_parallel, "rank", lambda rank=rank: rank)
        spy = Spy()
        train_model(spy, nn.MSELoss(), windows, None, epochs=2, batch_size=8, print_every=0, eval_every=5)
        drawn.append(spy.drawn)
    assert drawn[0] == drawn[2]
    assert not set(drawn[0]) & set(drawn[1])
