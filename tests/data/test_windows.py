import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DATASETS, ForecastData, load
from data.windows import (
    Scaling,
    WindowDataset,
    batches,
    check_count,
    chronological_windows,
    fingerprint,
    split_points,
)


def ramp(steps: int, variables: int = 1) -> np.ndarray:
    """Value 100 t + v at step t of variable v, exact in float32."""
    return 100.0 * np.arange(steps)[:, None] + np.arange(variables)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(2, 60),
    variables=st.integers(1, 3),
    input_length=st.integers(1, 12),
    horizon=st.integers(1, 12),
    stride=st.integers(1, 7),
    data=st.data(),
)
def test_every_window_is_the_slice_of_the_series_that_it_should_be(
    steps, variables, input_length, horizon, stride, data
):
    series = ramp(steps, variables)
    starts = range(0, steps - input_length - horizon + 1, stride)
    if not starts:
        with pytest.raises(ValueError, match="one window needs"):
            WindowDataset.from_series(series, input_length, horizon, stride)
        return
    columns = data.draw(st.one_of(st.none(), st.permutations(range(variables)).map(lambda order: order[:2])))
    dataset = WindowDataset.from_series(series, input_length, horizon, stride, columns)
    forecast = series if columns is None else series[:, columns]
    assert len(dataset) == len(starts)
    for (observed, target), start in zip(dataset, starts, strict=True):
        border = start + input_length
        np.testing.assert_array_equal(observed, series[start:border])
        np.testing.assert_array_equal(target, forecast[border : border + horizon])


def test_items_are_float32_whatever_the_series_was():
    for series in (ramp(9), ramp(9).astype(np.int64), torch.from_numpy(ramp(9)).half()):
        observed, target = WindowDataset.from_series(series, 4, 2)[0]
        assert observed.dtype == target.dtype == torch.float32
        assert observed.shape == (4, 1)
        assert target.shape == (2, 1)


@pytest.mark.parametrize(
    "index",
    [[3, 5, 0, 3], torch.tensor([3, 5, 0, 3]), np.array([3, 5, 0, 3]), slice(1, 6, 2), [-1], []],
    ids=["list", "tensor", "array", "slice", "negative", "empty"],
)
def test_many_indices_give_the_batch_of_their_items(index):
    dataset = WindowDataset.from_series(ramp(20, 2), 5, 3, target_columns=[1])
    rows = np.arange(len(dataset))[np.asarray(index, dtype=int) if isinstance(index, list) else index]
    observed, target = dataset[index]
    assert observed.shape == (len(rows), 5, 2)
    assert target.shape == (len(rows), 3, 1)
    for position, row in enumerate(rows.tolist()):
        assert torch.equal(observed[position], dataset[row][0])
        assert torch.equal(target[position], dataset[row][1])


@pytest.mark.parametrize("index", [13, -14, [0, 13]])
def test_an_index_past_the_end_is_an_index_error(index):
    dataset = WindowDataset.from_series(ramp(20), 5, 3)
    assert len(dataset) == 13
    with pytest.raises(IndexError):
        dataset[index]


@pytest.mark.parametrize("index", [2, torch.tensor(2), slice(1, 4), [1, 2]], ids=str)
def test_changing_what_came_out_does_not_change_the_data(index):
    dataset = WindowDataset.from_series(ramp(20), 5, 3)
    for values in dataset[index]:
        values.fill_(-1)
    assert dataset.inputs.min() >= 0
    assert dataset.targets.min() >= 0


def test_windows_share_the_memory_of_their_series():
    series = torch.from_numpy(ramp(10_000)).float()
    dataset = WindowDataset.from_series(series, 168, 24)
    for windows in (dataset.inputs, dataset.targets):
        assert windows.untyped_storage().data_ptr() == series.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("inputs", "targets", "sentence"),
    [
        ((4, 5), (4, 3, 1), r"inputs must have shape .* given \(4, 5\)"),
        ((4, 5, 1), (4, 0, 1), r"targets must have shape .* given \(4, 0, 1\)"),
        ((4, 5, 1), (3, 5, 1), "equally many windows, given 4 inputs and 3 targets"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(inputs, targets, sentence):
    with pytest.raises(ValueError, match=sentence):
        WindowDataset(np.zeros(inputs), np.zeros(targets))


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"input_length": 0}, ValueError, "input_length must be a whole number of at least 1, given 0"),
        ({"horizon": -1}, ValueError, "horizon must be a whole number of at least 1, given -1"),
        ({"stride": 1.5}, TypeError, "stride must be a whole number of at least 1, given 1.5"),
        ({"input_length": 18}, ValueError, "series has 20 time steps.* 18 [+] 3 = 21"),
    ],
)
def test_window_sizes_out_of_range_are_named(options, error, sentence):
    with pytest.raises(error, match=sentence):
        WindowDataset.from_series(ramp(20), **({"input_length": 5, "horizon": 3} | options))


def test_a_series_without_a_variable_axis_is_refused():
    with pytest.raises(ValueError, match=r"series must have shape \(time steps, variables\), given \(20,\)"):
        WindowDataset.from_series(np.zeros(20), 5, 3)


def test_check_count_takes_whole_numbers_of_any_type():
    assert check_count("n", np.int64(3)) == 3
    assert check_count("n", 0, at_least=0) == 0


# --- the split in time ------------------------------


def test_a_traffic_sized_series_is_cut_where_lstnet_cuts_it():
    assert split_points(17_544, (0.6, 0.2, 0.2), 168, 24) == (10_526, 14_035, 17_544)


def test_a_share_loses_no_step_to_floating_point():
    assert 0.7 + 0.1 < 0.8
    assert split_points(100, (0.7, 0.1, 0.2), 2, 2) == (70, 80, 100)


def test_no_window_reaches_over_a_border():
    parts = chronological_windows(ramp(100), 6, 4, stride=3, split=(0.5, 0.3, 0.2))
    for part, (start, end) in zip(parts, [(0, 50), (50, 80), (80, 100)], strict=True):
        assert part.inputs.min() == 100 * start
        assert part.targets.max() <= 100 * (end - 1)
        assert len(part) == (end - start - 10) // 3 + 1


def test_a_share_of_zero_leaves_out_validation():
    train, valid, test = chronological_windows(ramp(100), 6, 4, split=(0.75, 0, 0.25))
    assert valid is None
    assert (len(train), len(test)) == (75 - 9, 25 - 9)


def test_parts_of_whole_numbers_are_counted_from_the_beginning_and_leave_the_rest_out():
    assert split_points(100, (50, np.int64(20), 25), 6, 4) == (50, 70, 95)
    train, valid, test = chronological_windows(ramp(100), 6, 4, split=(50, 0, 25))
    assert valid is None
    assert len(train) == 50 - 9
    assert (test.inputs.min(), test.targets.max()) == (100 * 50, 100 * 74)


@pytest.mark.parametrize("split", [(50, 20, 25), (50, 3 + 4, 4), (50, 0, 4)])
def test_inputs_that_reach_back_let_every_step_of_a_part_be_forecast_and_no_other(split):
    train_end, valid_end, test_end = split_points(100, split, 6, 4, reach_back=True)
    train, valid, test = chronological_windows(ramp(100), 6, 4, split=split, reach_back=True)
    assert torch.equal(train.targets.unique(), 100 * torch.arange(6.0, train_end))
    for part, start, end in ((valid, train_end, valid_end), (test, valid_end, test_end)):
        if start < end:
            assert torch.equal(part.targets.unique(), 100 * torch.arange(float(start), end))
            assert torch.equal(part.inputs[:, -1] + 100, part.targets[:, 0])
            assert part.inputs.min() == 100 * (start - 6)


def test_a_part_without_room_for_its_targets_is_refused_even_if_inputs_reach_back():
    with pytest.raises(ValueError, match=r"the test part has 3 of the 100 .* needs .* 0 [+] 4 = 4"):
        chronological_windows(ramp(100), 6, 4, split=(50, 20, 3), reach_back=True)


def test_more_time_steps_than_there_are_cannot_be_split():
    with pytest.raises(ValueError, match=r"split asks for 50 [+] 40 [+] 20 time steps, but the series has 100"):
        split_points(100, (50, 40, 20), 6, 4)


@pytest.mark.parametrize(
    "split",
    [
        *((0.6, 0.4), (0.6, 0.2, 0.3), (0, 0.5, 0.5), (0.8, 0.2, 0), (1.2, -0.4, 0.2)),
        *((50, 50), (0, 50, 50), (50, 50, 0), (90, -10, 20), 0.6, "abc"),
    ],
)
def test_shares_that_are_no_split_are_refused(split):
    with pytest.raises(ValueError, match=r"split must be three shares .* that sum to 1"):
        chronological_windows(ramp(100), 6, 4, split=split)


@pytest.mark.parametrize(
    ("split", "part"),
    [((0.05, 0.45, 0.5), "training"), ((0.5, 0.05, 0.45), "validation"), ((0.5, 0.45, 0.05), "test")],
)
def test_a_part_shorter_than_a_window_is_named(split, part):
    with pytest.raises(ValueError, match=f"the {part} part has 5 of the 100 .* needs .* 6 [+] 4 = 10"):
        chronological_windows(ramp(100), 6, 4, split=split)


# --- batches ------------------------------


def test_batches_without_a_generator_keep_the_order_and_the_partial_last_batch():
    dataset = WindowDataset.from_series(ramp(20), 5, 3)
    loader = batches(dataset, 5)
    assert len(loader) == 3
    assert [len(batch[0]) for batch in loader] == [5, 5, 3]
    assert torch.equal(torch.cat([batch[0] for batch in loader]), dataset.inputs)
    assert torch.equal(torch.cat([batch[1] for batch in loader]), dataset.targets)


def first_values(loader) -> list[float]:
    return [value for batch in loader for value in batch[0][:, 0, 0].tolist()]


def test_batches_with_a_generator_visit_every_sample_in_a_new_order_that_its_seed_fixes():
    dataset = WindowDataset.from_series(ramp(60), 5, 3)
    loader = batches(dataset, 16, torch.Generator().manual_seed(7))
    first, second = first_values(loader), first_values(loader)
    assert sorted(first) == sorted(second) == (100.0 * np.arange(53)).tolist()
    assert first != second
    assert first == first_values(batches(dataset, 16, torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)], ids=["in order", "shuffled"])
def test_batches_leave_the_global_random_state_alone(generator):
    before = torch.get_rng_state()
    list(batches(WindowDataset.from_series(ramp(20), 5, 3), 4, generator))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_is_one_indexing_call():
    calls = []

    class Counting(WindowDataset):
        def __getitem__(self, index):
            calls.append(list(index))
            return super().__getitem__(index)

    list(batches(Counting(np.zeros((10, 2, 1)), np.zeros((10, 2, 1))), 4))
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, given 0"):
        batches(WindowDataset.from_series(ramp(20), 5, 3), 0)


# --- scaling, load ------------------------------


def test_unscaling_undoes_scaling_variable_by_variable_in_the_dtype_given():
    scaling = Scaling(torch.tensor([1.0, -2.0]).double(), torch.tensor([4.0, 0.5]).double())
    values = torch.tensor([[[5.0, -2.0], [1.0, -1.0]]])
    scaled = scaling.scale(values)
    assert torch.equal(scaled, torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
    assert torch.equal(scaling.unscale(scaled), values)
    assert scaled.dtype == torch.float32


def test_sizes_of_a_task_are_read_off_its_training_part():
    part = WindowDataset(np.zeros((7, 5, 3)), np.zeros((7, 2, 1)))
    task = ForecastData("any", part, None, part)
    assert (task.input_length, task.horizon, task.input_size, task.output_size) == (5, 2, 3, 1)


def test_load_passes_its_options_on():
    random.seed(3)
    state = random.getstate()
    task = load("synthetic", n=4, horizon=5)
    assert task.name == "synthetic"
    assert task.train[0][1].shape == (5, 1)
    assert random.getstate() == state


def test_load_lists_the_datasets_when_the_name_is_unknown():
    with pytest.raises(ValueError, match="dataset must be one of synthetic, ecg5000, traffic, csv, given 'ecg'"):
        load("ecg")


@pytest.mark.parametrize("name", list(DATASETS))
def test_load_lists_the_options_when_one_is_unknown(name):
    with pytest.raises(TypeError, match=rf"dataset '{name}' does not take 'colour'; its options are \w+, \w+"):
        load(name, colour="red")


def test_load_names_the_option_that_is_missing():
    with pytest.raises(TypeError, match="dataset 'csv' needs the option 'path'; its options are path, columns"):
        load("csv", horizon=3)


@pytest.mark.parametrize("name", ["traffic", "csv"])
def test_a_series_is_scaled_by_the_scaling_that_is_given(tmp_path, name):
    series = np.random.default_rng(0).integers(1, 4700, 1000) / 10_000
    (tmp_path / "a.csv").write_text("x\n" + "".join(f"{value}\n" for value in series))
    (tmp_path / "b.csv").write_text("x\n" + "".join(f"{value}\n" for value in series / 2 + 0.1))
    own = load(name, path=tmp_path / "a.csv")
    assert torch.equal(load(name, path=tmp_path / "a.csv", scaling=own.input_scaling).test.inputs, own.test.inputs)
    other = load(name, path=tmp_path / "b.csv", scaling=own.input_scaling)
    assert torch.equal(other.target_scaling.mean, own.target_scaling.mean)
    expected = own.input_scaling.scale(torch.tensor(series / 2 + 0.1)[-192:-24, None])
    torch.testing.assert_close(other.test.inputs[-1], expected.float())
    with pytest.raises(ValueError, match="scaling must be of 1 variables, given 2"):
        load(name, path=tmp_path / "a.csv", scaling=Scaling(torch.zeros(2), torch.ones(2)))


@given(st.integers(1, 9), st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_fingerprint_is_of_all_numbers_whatever_their_type_and_memory(rows, columns, random):
    values = np.array([[random.randint(-9, 9) for _ in range(columns)] for _ in range(rows)])
    found = fingerprint(values)
    assert found["rows"] == rows
    assert found == fingerprint(np.asfortranarray(values, dtype=np.float64))
    values[random.randrange(rows), random.randrange(columns)] += 1
    assert fingerprint(values)["sha256"] != found["sha256"]


def test_data_without_a_file_have_no_fingerprint():
    assert load("synthetic", n=4).fingerprint is None


def test_what_is_masked_is_refused_since_windows_have_no_mask():
    series = np.ma.masked_greater(np.arange(20.0).reshape(10, 2), 18)
    for serve in (
        lambda: WindowDataset(series[None], np.zeros((1, 3, 2))),
        lambda: WindowDataset(np.zeros((1, 3, 2)), series[None]),
        lambda: WindowDataset.from_series(series, 3, 2),
        lambda: chronological_windows(series, 1, 1, split=(4, 3, 3)),
    ):
        with pytest.raises(ValueError, match="must not be masked: fill in what is missing"):
            serve()
    assert len(WindowDataset.from_series(np.ma.array(np.zeros((10, 2))), 3, 2)) == 6  # of which nothing is masked
