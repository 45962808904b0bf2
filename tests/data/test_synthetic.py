import hashlib
import math
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data import load
from data.synthetic_dataset import SyntheticDataset, create_synthetic_dataset
from data.windows import batches

# Sum, first values and start of the SHA-256 of the released code's arrays for random.seed(0) and
# (500, 20, 20, 0.01). Not on record, and so ours: three arrays' first values and the last two digests.
RELEASED = {
    "train_input": (506.8373761863205, (0.00844422, 0.83564282, 0.00420572, 0.00258917), "c71517c3bddeafa5"),
    "train_target": (
        -171.97714632882935,
        (0.00310148, 0.00729832, 0.00898838, 0.00683984),
        "e44592dbedb6a79d",
    ),
    "test_input": (504.9084775219166, (0.00935999, 0.07912072, 0.0004375, 0.0034847), "c680748b89bc62d1"),
    "test_target": (-97.7550954303569, (0.00820266, 0.00807818, 0.00349895, 0.00570256), "fa76413828775b1c"),
    "train_breakpoints": (11172, (35, 17, 34, 35), "654fb9a6d3c66705"),
    "test_breakpoints": (11010, (26, 29, 24, 21), "d18c38286c39d745"),
}


@pytest.fixture(scope="module", autouse=True)
def global_random_state():
    state = random.getstate()
    yield
    random.setstate(state)


@pytest.fixture(scope="module")
def released():
    random.seed(0)
    arrays = create_synthetic_dataset(500, 20, 20, 0.01)
    return dict(zip(RELEASED, arrays, strict=True))


@pytest.mark.parametrize("name", list(RELEASED))
def test_seed_0_gives_the_numbers_of_the_released_code(released, name):
    total, start, digest = RELEASED[name]
    array = released[name]
    assert array.sum() == pytest.approx(total, rel=1e-13)
    np.testing.assert_allclose(array.ravel()[: len(start)], start, atol=5e-9)
    assert hashlib.sha256(array.tobytes()).hexdigest().startswith(digest)


def test_arrays_have_the_released_shapes_and_dtypes(released):
    for name, array in released.items():
        assert array.shape == ((500,) if "breakpoints" in name else (500, 20))
        assert array.dtype == (np.int64 if "breakpoints" in name else np.float64)


def test_load_has_the_released_numbers_and_new_ones_to_validate_by(released):
    task = load("synthetic")
    for part, name in ((task.train, "train"), (task.test, "test")):
        assert isinstance(part, SyntheticDataset)
        np.testing.assert_array_equal(part.inputs[..., 0], released[f"{name}_input"].astype(np.float32))
        np.testing.assert_array_equal(part.targets[..., 0], released[f"{name}_target"].astype(np.float32))
        np.testing.assert_array_equal(part.breakpoints, released[f"{name}_breakpoints"])
    assert [len(part) for part in (task.train, task.valid, task.test)] == [500, 500, 500]
    assert (task.input_length, task.horizon, task.input_size, task.output_size) == (20, 20, 1, 1)


def test_validation_series_are_the_next_ones_drawn():
    # The released function called again goes on where the stream stands: its first N series validate.
    rng = random.Random(5)
    create_synthetic_dataset(30, 20, 20, 0.01, rng)
    inputs, targets, _, _, breakpoints, _ = create_synthetic_dataset(30, 20, 20, 0.01, rng)
    valid = load("synthetic", n=30, seed=5).valid
    np.testing.assert_array_equal(valid.inputs[..., 0], inputs.astype(np.float32))
    np.testing.assert_array_equal(valid.targets[..., 0], targets.astype(np.float32))
    np.testing.assert_array_equal(valid.breakpoints, breakpoints)


def test_load_neither_reads_nor_changes_the_global_random_state():
    random.seed(1)
    first = load("synthetic", n=3).train.inputs
    state = random.getstate()
    random.seed(2)
    assert torch.equal(load("synthetic", n=3).train.inputs, first)
    random.seed(1)
    assert random.getstate() == state


def test_another_seed_gives_other_series():
    assert not torch.equal(load("synthetic", n=3, seed=1).train.inputs, load("synthetic", n=3).train.inputs)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 4),
    input_length=st.integers(1, 30),
    horizon=st.integers(39, 50),
)
def test_without_noise_the_step_follows_from_the_two_peaks(seed, count, input_length, horizon):
    arrays = create_synthetic_dataset(count, input_length, horizon, 0.0, random.Random(seed))
    train, test = np.concatenate(arrays[0:2], axis=1), np.concatenate(arrays[2:4], axis=1)
    for series, step in zip(np.vstack((train, test)), np.concatenate(arrays[4:]), strict=True):
        height = series[-1]  # neither a peak nor before the step: peaks end at 18, steps start by 38
        peaks_alone = np.where(np.arange(len(series)) < step, series, series - height)
        peaks = np.flatnonzero(np.abs(peaks_alone) > 1e-12)
        if len(peaks) == 1:  # both were drawn at 10
            assert peaks[0] == 10
            assert 7 <= step <= 13
            assert peaks_alone[10] >= abs(height) - 1e-12
            continue
        i1, i2 = peaks
        assert 1 <= i1 <= 10 <= i2 <= 18
        assert height == pytest.approx(peaks_alone[i2] - peaks_alone[i1], abs=1e-12)
        assert abs(step - (i2 + (i2 - i1))) <= 3


def test_noise_is_uniform_between_zero_and_sigma():
    inputs, *_ = create_synthetic_dataset(400, 10, 30, 0.5, random.Random(0))
    first = inputs[:, 0]  # no peak at position 0, and no step before 7
    assert first.min() >= 0
    assert 0.49 < first.max() < 0.5
    assert first.mean() == pytest.approx(0.25, abs=0.03)


def test_peaks_up_to_position_18_set_the_shortest_series():
    create_synthetic_dataset(20, 10, 9, 0.01, random.Random(0))
    with pytest.raises(ValueError, match=r"needs at least 19 steps, given input_length \+ horizon = 10 \+ 8 = 18"):
        create_synthetic_dataset(20, 10, 8, 0.01)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"n": 0}, ValueError, "n must be a whole number of at least 1, given 0"),
        ({"n": 2.5}, TypeError, "n must be a whole number of at least 1, given 2.5"),
        ({"input_length": 0}, ValueError, "input_length must be"),
        ({"horizon": -3}, ValueError, "horizon must be"),
    ],
)
def test_load_names_the_option_that_is_out_of_range(options, error, sentence):
    with pytest.raises(error, match=sentence):
        load("synthetic", **options)


def test_an_item_is_input_target_and_breakpoint(released):
    dataset = SyntheticDataset(released["train_input"], released["train_target"], released["train_breakpoints"])
    observed, target, breakpoint_ = dataset[2]
    assert observed.shape == target.shape == (20, 1)
    assert observed.dtype == target.dtype == torch.float32
    assert breakpoint_.dtype == torch.int64
    assert breakpoint_ == 34
    np.testing.assert_array_equal(target[:, 0], released["train_target"][2].astype(np.float32))


def test_a_plain_data_loader_and_batches_serve_the_same(released):
    dataset = SyntheticDataset(released["test_input"], released["test_target"], released["test_breakpoints"])
    for plain, ours in zip(DataLoader(dataset, batch_size=150), batches(dataset, 150), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, ours, strict=True))


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (((4, 5, 1), (4, 3), (4,)), r"X_input must have shape \(series, time steps\), given \(4, 5, 1\)"),
        (((4, 5), (4,), (4,)), r"X_target must have shape"),
        (((4, 5), (4, 3), (3,)), r"breakpoints must be one per series, shape \(4,\), given \(3,\)"),
        (((4, 5), (3, 3), (4,)), "given 4 inputs and 3 targets"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(shapes, sentence):
    with pytest.raises(ValueError, match=sentence):
        SyntheticDataset(*(np.zeros(shape) for shape in shapes))


NUMBERS = [math.nan, -1, -1e-9, math.inf, -math.inf]


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        *(("sigma", value, ValueError) for value in NUMBERS),
        *(("sigma", value, TypeError) for value in ("0.1", None, [0.1], 1j)),
        *(("seed", value, TypeError) for value in (None, 1.5, "0", [0])),
        *(("seed", value, ValueError) for value in (-1, -(10**30))),
    ],
)
def test_an_odd_sigma_or_seed_is_named(option, value, kind):
    with pytest.raises(kind, match=rf"^{option} must be a .*number of at least 0, given {re.escape(repr(value))}$"):
        load("synthetic", n=2, **{option: value})


@pytest.mark.parametrize("sigma", NUMBERS)
def test_odd_noise_is_named_where_series_are_drawn(sigma):
    with pytest.raises(ValueError, match=r"^sigma must be a finite number of at least 0"):
        create_synthetic_dataset(2, 20, 20, sigma)


@given(sigma=st.floats(0, 1e6), seed=st.integers(0, 10**30))
def test_any_noise_and_seed_give_the_same_finite_series_each_time(sigma, seed):
    first, second = (load("synthetic", n=2, sigma=sigma, seed=seed).train for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)
    assert first.inputs.isfinite().all()


def test_numbers_of_numpy_are_seeds():
    own, numpys = (load("synthetic", n=2, seed=seed).train for seed in (3, np.int64(3)))
    assert torch.equal(own.inputs, numpys.inputs)
