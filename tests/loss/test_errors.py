"""Every bad argument of the loss gives one sentence that names it, what was given and what is allowed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from loss import (
    AsymmetricOmega,
    CTCLoss,
    DilateLoss,
    PathDTWBatch,
    SoftDTWBatch,
    SoftDTWLoss,
    TangledDilateLoss,
    dilate_loss,
    pairwise_distances,
    soft_dtw,
    soft_path,
    squared_omega,
)
from tests.helpers import assert_one_sentence

MODULES = [SoftDTWLoss, DilateLoss, TangledDilateLoss]
PAIR_FUNCTIONS = [SoftDTWLoss(), DilateLoss(), DilateLoss().components, TangledDilateLoss(), dilate_loss]
COST_FUNCTIONS = [soft_dtw, soft_path, SoftDTWBatch.apply, PathDTWBatch.apply]
X = torch.zeros(3, 5, 2)


BAD_PAIRS = [
    ([1.0, 2.0], X, TypeError, "prediction must be a tensor, but it is a list"),
    (X, X.numpy(), TypeError, "target must be a tensor, but it is a ndarray"),
    (X, None, TypeError, "target must be a tensor, but it is a NoneType"),
    (X, X.long(), TypeError, "target must be a floating-point tensor, but its type is torch.int64"),
    (X.to(torch.float8_e4m3fn), X, TypeError, "prediction must have 16, 32 or 64 bits a number, .*float8_e4m3fn"),
    (X.to_sparse(), X, TypeError, "prediction must be a dense tensor, but its layout is torch.sparse_coo"),
    (X.to(torch.complex64), X, TypeError, "prediction must be a floating-point tensor, .* torch.complex64"),
    (X[0, 0], X, ValueError, r"prediction must have shape \(batch, horizon\) or .*, but its shape is \(2,\)"),
    (X, X[None], ValueError, r"target must have shape .*, but its shape is \(1, 3, 5, 2\)"),
    (X[..., 0], X, ValueError, "prediction and target must have the same number of dimensions"),
    (X, X[:2], ValueError, r"the same batch size, but their shapes are \(3, 5, 2\) and \(2, 5, 2\)"),
    (X, X[..., :1], ValueError, r"same number of variables, but their shapes are \(3, 5, 2\) and \(3, 5, 1\)"),
    (X, X.double(), ValueError, "must share one dtype, but they have torch.float32 and torch.float64"),
    (X, X.to("meta"), ValueError, "must share one device, but they have cpu and meta"),
    (X[:0], X[:0], ValueError, r"prediction must not be empty, but its shape is \(0, 5, 2\)"),
    (X[:, :0], X, ValueError, r"prediction must not be empty, but its shape is \(3, 0, 2\)"),
    (X, X[:, :0], ValueError, r"target must not be empty, but its shape is \(3, 0, 2\)"),
    (X[..., :0], X[..., :0], ValueError, r"prediction must not be empty, but its shape is \(3, 5, 0\)"),
]


@pytest.mark.parametrize("function", PAIR_FUNCTIONS)
@pytest.mark.parametrize(("prediction", "target", "kind", "match"), BAD_PAIRS)
def test_bad_series(function, prediction, target, kind, match):
    assert_one_sentence(kind, match, lambda: function(prediction, target))


@pytest.mark.parametrize("function", COST_FUNCTIONS)
@pytest.mark.parametrize(
    ("D", "kind", "match"),
    [
        ([[1.0]], TypeError, "D must be a tensor, but it is a list"),
        (X.long(), TypeError, "D must be a floating-point tensor, but its type is torch.int64"),
        (X[0], ValueError, r"D must have shape \(batch, N, M\), but its shape is \(5, 2\)"),
        (X[:0], ValueError, r"D must not be empty, but its shape is \(0, 5, 2\)"),
        (X[:, :0], ValueError, r"D must not be empty, but its shape is \(3, 0, 2\)"),
    ],
)
def test_bad_costs(function, D, kind, match):
    assert_one_sentence(kind, match, lambda: function(D, 0.1))


@pytest.mark.parametrize(
    ("x", "y", "kind", "match"),
    [
        ([1.0], None, TypeError, "x must be a tensor, but it is a list"),
        (X.int(), None, TypeError, "x must be a floating-point tensor, but its type is torch.int32"),
        (X[0, 0], None, ValueError, r"x must have shape \(N, variables\) or \(batch, N, variables\)"),
        (X, "y", TypeError, "y must be a tensor, but it is a str"),
        (X, X[0], ValueError, "x and y must have the same number of dimensions"),
        (X, X[:2], ValueError, "x and y must have the same batch size"),
        (X[0], X[0, :, :1], ValueError, "x and y must have the same number of variables"),
        (X, X.double(), ValueError, "x and y must share one dtype"),
        (X[:, :0], X, ValueError, "x must not be empty"),
    ],
)
def test_bad_arguments_of_pairwise_distances(x, y, kind, match):
    assert_one_sentence(kind, match, lambda: pairwise_distances(x, y))


BAD_GAMMAS = [
    (0, ValueError, "gamma must be a positive finite number, but it is 0"),
    (-0.5, ValueError, "but it is -0.5"),
    (math.nan, ValueError, "but it is nan"),
    (math.inf, ValueError, "but it is inf"),
    (10**400, ValueError, "gamma must be a positive finite number, but it is inf"),
    (np.float32(-2), ValueError, "gamma must be a positive finite number"),
    (True, TypeError, "gamma must be a positive number or a tensor with one, but it is True"),
    ("0.1", TypeError, "but it is '0.1'"),
    (None, TypeError, "but it is None"),
    (1j, TypeError, "but it is 1j"),
    (torch.ones(2), ValueError, r"gamma must be one positive number, but it is a tensor of shape \(2,\)"),
    (torch.tensor(1), TypeError, "gamma must be a number or a floating-point tensor, .* torch.int64"),
    (torch.tensor(True), TypeError, "torch.bool"),
]


@pytest.mark.parametrize(("gamma", "kind", "match"), BAD_GAMMAS)
def test_bad_gamma(gamma, kind, match):
    for module in MODULES:
        assert_one_sentence(kind, match, lambda module=module: module(gamma=gamma))
        assert_one_sentence(kind, match, lambda module=module: setattr(module(), "gamma", gamma))
    assert_one_sentence(kind, match, lambda: dilate_loss(X, X, 0.5, gamma))
    for function in COST_FUNCTIONS:
        assert_one_sentence(kind, match, lambda function=function: function(X, gamma))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan, math.inf])
def test_a_tensor_with_a_bad_gamma_is_refused_when_a_loss_is_made(module, gamma):
    assert_one_sentence(ValueError, "gamma must be a positive finite", lambda: module(gamma=torch.tensor(gamma)))


@pytest.mark.parametrize(
    ("alpha", "kind", "match"),
    [
        (-0.1, ValueError, "alpha must lie between 0 .* and 1 .*, but it is -0.1"),
        (1.5, ValueError, "but it is 1.5"),
        (math.nan, ValueError, "but it is nan"),
        (True, TypeError, "alpha must be a number from 0 to 1, but it is True"),
        ("0.5", TypeError, "but it is '0.5'"),
        (torch.tensor(0.5), TypeError, "alpha must be a number from 0 to 1"),
    ],
)
def test_bad_alpha(alpha, kind, match):
    for module in (DilateLoss, TangledDilateLoss):
        assert_one_sentence(kind, match, lambda module=module: module(alpha))
    assert_one_sentence(kind, match, lambda: dilate_loss(X, X, alpha))


BAD_SETTINGS = pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', but it is 'average'"),
        ({"reduction": None}, ValueError, "reduction must be one of .*, but it is None"),
        ({"reduction": ["mean"]}, ValueError, "reduction must be one of"),
        ({"band": -1}, ValueError, "band must be None or a number of steps of at least 0, but it is -1"),
        ({"band": 2.0}, TypeError, "band must be None or a whole number of steps, but it is 2.0"),
        ({"band": True}, TypeError, "band must be None or a whole number of steps, but it is True"),
        ({"per_channel": 1}, TypeError, "per_channel must be True or False, but it is 1"),
        ({"divergence": "yes"}, TypeError, "divergence must be True or False, but it is 'yes'"),
    ],
)


@pytest.mark.parametrize("module", MODULES)
@BAD_SETTINGS
def test_bad_settings(module, options, kind, match):
    assert_one_sentence(kind, match, lambda: module(**options))


@pytest.mark.parametrize("module", MODULES)
@BAD_SETTINGS
def test_a_bad_setting_is_refused_when_it_is_changed_and_changes_nothing(module, options, kind, match):
    criterion, ((name, value),) = module(), options.items()
    before, settings = criterion(X + 1, X), repr(criterion)
    assert_one_sentence(kind, match, lambda: setattr(criterion, name, value))
    assert repr(criterion) == settings
    assert torch.equal(criterion(X + 1, X), before)


@pytest.mark.parametrize("module", [DilateLoss, TangledDilateLoss])
@pytest.mark.parametrize(
    ("name", "value", "kind", "match"),
    [
        ("alpha", 3, ValueError, "alpha must lie between 0 .* and 1 .*, but it is 3"),
        ("alpha", math.nan, ValueError, "alpha must lie between"),
        ("alpha", "half", TypeError, "alpha must be a number from 0 to 1"),
        ("omega", "nonsense", ValueError, "omega must be one of 'squared', 'absolute', .*, but it is 'nonsense'"),
        ("omega", torch.ones(5), ValueError, r"omega must have shape \(N, M\)"),
    ],
)
def test_a_bad_alpha_or_omega_is_refused_when_it_is_changed(module, name, value, kind, match):
    assert_one_sentence(kind, match, lambda: setattr(module(), name, value))


@pytest.mark.parametrize("module", [DilateLoss, TangledDilateLoss])
def test_changed_settings_count_as_those_of_the_constructor(module):
    x, y = torch.randn(3, 5, 2), torch.randn(3, 5, 2)
    matrix = torch.rand(5, 5, dtype=torch.float64)
    for changes in (
        {"alpha": 0.9, "gamma": 0.3},
        {"omega": "absolute", "band": 2},
        {"omega": AsymmetricOmega(1, 2), "reduction": "none"},
        {"omega": matrix, "gamma": torch.tensor(0.2)},
        {"per_channel": True, "divergence": True},
    ):
        changed = module()
        for name, value in changes.items():
            setattr(changed, name, value)
        made = module(**changes)
        assert torch.equal(changed(x, y), made(x, y))
        assert repr(changed) == repr(made)
        assert changed.state_dict().keys() == made.state_dict().keys()


def test_gamma_may_turn_from_a_number_into_a_tensor_and_back():
    criterion = DilateLoss(gamma=0.1)
    expected = criterion(X + 1, X)
    criterion.gamma = torch.tensor(0.1)
    assert "gamma" in criterion.state_dict()
    torch.testing.assert_close(criterion(X + 1, X), expected)
    criterion.gamma = 0.1
    assert "gamma" not in criterion.state_dict()
    assert torch.equal(criterion(X + 1, X), expected)


@pytest.mark.parametrize("band", [100, 2**31, 2**62, 2**63 - 1, 2**63, 10**30])
def test_a_band_wider_than_the_lattice_is_no_band(band):
    x, y = torch.randn(3, 5, 2), torch.randn(3, 6, 2)
    for module in MODULES:
        assert torch.equal(module(band=band)(x, y), module()(x, y))
        assert torch.equal(module(band=band)(x, y, [5, 4, 2], [6, 1, 3]), module()(x, y, [5, 4, 2], [6, 1, 3]))
    D = torch.rand(3, 5, 6)
    for function in (soft_dtw, soft_path):
        assert torch.equal(function(D, 0.1, band=band), function(D, 0.1))


@pytest.mark.parametrize(("N", "M", "kind"), [(0, 0, ValueError), (5, -1, ValueError), (2.0, 3, TypeError)])
def test_bad_lengths_of_an_omega(N, M, kind):
    assert_one_sentence(kind, "N|M must be a", lambda: squared_omega(N, M))


@pytest.mark.parametrize("function", [soft_dtw, soft_path])
def test_bad_band_of_costs(function):
    assert_one_sentence(TypeError, "band must be None or a whole", lambda: function(X, 0.1, band="2"))
    assert_one_sentence(ValueError, "band is 1, .* at least 3", lambda: function(X, 0.1, band=1))


@pytest.mark.parametrize("module", MODULES)
def test_band_that_leaves_no_path(module):
    criterion = module(band=2)
    match = "band is 2, but to align a prediction of 5 steps with a target of 1 it must be at least 4"
    assert_one_sentence(ValueError, match, lambda: criterion(X, X[:, :1]))
    match = "band is 2, but to align a prediction of 2 steps with a target of 5 it must be at least 3"
    assert_one_sentence(ValueError, match, lambda: criterion(X, X, [5, 2, 4], [5, 5, 4]))
    assert_one_sentence(
        ValueError, "prediction of 5 steps with a target of 2", lambda: criterion(X, X, None, [5, 2, 4])
    )


BAD_LENGTHS = [
    ([5, 0, 3], ValueError, "must lie between 1 and 5, but they range from 0 to 5"),
    (torch.tensor([6, 1, 3]), ValueError, "must lie between 1 and 5, but they range from 1 to 6"),
    ([5, 5], ValueError, r"must have shape \(3,\), one for each pair, but its shape is \(2,\)"),
    (torch.full((3, 1), 5), ValueError, r"but its shape is \(3, 1\)"),
    (5, ValueError, r"but its shape is \(\)"),
    (torch.full((3,), 5.0), TypeError, "must be whole numbers, but their type is torch.float32"),
    ([4.5, 5, 5], TypeError, "must be whole numbers"),
    ([True, True, False], TypeError, "must be whole numbers, but their type is torch.bool"),
    ("abc", TypeError, "must be a tensor or a sequence of whole numbers, but it is 'abc'"),
    ([[1, 2], 3, 4], TypeError, "must be a tensor or a sequence of whole numbers"),
    ([2**63, 1, 1], TypeError, "must be a tensor or a sequence of whole numbers, but it is .*9223372036854775808"),
    (torch.tensor([6, 1, 3], dtype=torch.uint16), ValueError, "but they range from 1 to 6"),
]


@pytest.mark.parametrize(("lengths", "kind", "match"), BAD_LENGTHS)
@pytest.mark.parametrize("name", ["prediction_lengths", "target_lengths"])
def test_bad_lengths(name, lengths, kind, match):
    for criterion in (SoftDTWLoss(), DilateLoss(), DilateLoss().components, TangledDilateLoss()):
        assert_one_sentence(kind, f"{name} .*{match}", lambda criterion=criterion: criterion(X, X, **{name: lengths}))
    for function in (soft_dtw, soft_path):
        D = torch.zeros(3, 5, 5)
        assert_one_sentence(kind, f"{name} .*{match}", lambda function=function, D=D: function(D, **{name: lengths}))


NO_OMEGA = "omega must be one of 'squared', 'absolute', an AsymmetricOmega or an \\(N, M\\) tensor, but it is "


@pytest.mark.parametrize("module", [DilateLoss, TangledDilateLoss])
@pytest.mark.parametrize(
    ("omega", "kind", "match"),
    [
        ("cubic", ValueError, NO_OMEGA + "'cubic'"),
        (2.0, TypeError, NO_OMEGA + "2.0"),
        (abs, TypeError, NO_OMEGA + "<built-in function abs>"),
        ([[0.0]], TypeError, NO_OMEGA),
        (torch.ones(5, 5, dtype=torch.int64), TypeError, "omega must be a floating-point tensor, .* torch.int64"),
        (torch.ones(5), ValueError, r"omega must have shape \(N, M\), but its shape is \(5,\)"),
        (torch.ones(2, 5, 5), ValueError, r"omega must have shape \(N, M\), but its shape is \(2, 5, 5\)"),
        (torch.ones(0, 5), ValueError, r"omega must have shape \(N, M\), but its shape is \(0, 5\)"),
        (torch.full((5, 5), math.inf), ValueError, "omega must be finite, but .*; to forbid cells use band"),
        (torch.full((5, 5), math.nan), ValueError, "omega must be finite"),
    ],
)
def test_bad_omega(module, omega, kind, match):
    assert_one_sentence(kind, match, lambda: module(omega=omega))


def test_omega_none_needs_a_band_and_belongs_to_the_tangled_loss():
    assert_one_sentence(TypeError, "omega must be one of .*, but it is None", lambda: DilateLoss(omega=None))
    assert_one_sentence(ValueError, "omega may be None only beside a band", lambda: TangledDilateLoss(omega=None))
    x = torch.ones(2, 4, 1)
    for name in ("band", "omega"):
        criterion = TangledDilateLoss(omega=None if name == "band" else "squared", band=2 if name == "band" else None)
        setattr(criterion, name, None)
        match = "omega may be None only beside a band"
        assert_one_sentence(ValueError, match, lambda criterion=criterion: criterion(x, x))


@pytest.mark.parametrize("module", [DilateLoss, TangledDilateLoss])
def test_omega_that_does_not_fit_the_series(module):
    match = r"omega has shape \(5, 4\), but to compare series of 5 and 5 steps it must have \(5, 5\)"
    assert_one_sentence(ValueError, match, lambda: module(omega=torch.ones(5, 4))(X, X))
    omega = nn.Parameter(torch.ones(5, 5, device="meta"))
    assert_one_sentence(ValueError, "omega is on meta, but the series are on cpu", lambda: module(omega=omega)(X, X))
    match = r"omega must be square where divergence=True, .*, but its shape is \(5, 4\)"
    assert_one_sentence(ValueError, match, lambda: module(omega=torch.ones(5, 4), divergence=True))


@pytest.mark.parametrize("name", ["early", "late", "power"])
@pytest.mark.parametrize(
    ("value", "kind", "match"),
    [
        (-1, ValueError, "must be a number from 0 to .*, but it is -1"),
        (math.inf, ValueError, "must be a number from 0 to .*, but it is inf"),
        (10**400, ValueError, "must be a number from 0 to .*, but it is inf"),
        (1e101, ValueError, "must be a number from 0 to .*, but it is 1e.101"),
        (math.nan, ValueError, "but it is nan"),
        ("1", TypeError, "must be a number of at least 0, but it is '1'"),
        (True, TypeError, "must be a number of at least 0, but it is True"),
    ],
)
def test_bad_weights_of_an_asymmetric_omega(name, value, kind, match):
    assert_one_sentence(kind, f"{name} .*{match}", lambda: AsymmetricOmega(**{name: value}))


@pytest.mark.parametrize("N", [20, 10_000])
@pytest.mark.parametrize("weights", [(1, 1, 30), (1e100, 0, 30), (0, 1e100, 30)])
def test_the_largest_weights_of_an_asymmetric_omega_are_finite(N, weights):
    assert AsymmetricOmega(*weights).by_lag(N, N).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint64])
def test_short_lengths_of_any_type_of_whole_numbers_are_taken_beside_long_series(dtype):
    x, y = torch.randn(2, 2, 300)
    n, m = torch.tensor([20, 100], dtype=dtype), torch.tensor([120, 7], dtype=dtype)
    assert torch.equal(SoftDTWLoss()(x, y, n, m), SoftDTWLoss()(x, y, n.tolist(), m.tolist()))
    log_probs = torch.randn(300, 2, 4).log_softmax(-1)
    targets, lengths = torch.randint(1, 4, (190,), dtype=torch.int64), torch.tensor([100, 90])
    expected = CTCLoss()(log_probs, targets, [120, 100], lengths)
    given = CTCLoss()(log_probs, targets, torch.tensor([120, 100]).to(dtype), lengths.to(dtype))
    assert torch.equal(given, expected)


def test_a_nested_tensor_is_refused():
    nested = torch.nested.nested_tensor([torch.ones(3, 1), torch.ones(2, 1)])
    with pytest.raises(TypeError, match="prediction must be a dense tensor"):
        DilateLoss()(nested, torch.ones(2, 3, 1))


def test_gamma_that_vmap_maps_is_refused():
    for criterion in (SoftDTWLoss, lambda gamma: DilateLoss(gamma=gamma)):
        with pytest.raises(NotImplementedError, match="gamma cannot be mapped over by vmap"):
            torch.func.vmap(lambda gamma, make=criterion: make(gamma)(X, X))(torch.rand(3) + 0.1)


def test_lengths_are_copied_and_may_not_be_masked():
    x, y = torch.rand(2, 4, 1, requires_grad=True), torch.rand(2, 4, 1)
    buffer, found = np.array([4, 3]), []
    for lengths in (buffer, torch.from_numpy(buffer), torch.tensor([4, 3]), [4, 3]):
        buffer[:] = 4, 3
        value = SoftDTWLoss(0.2)(x, y, lengths, [4, 4])
        buffer[:] = 1  # of the next batch
        if isinstance(lengths, torch.Tensor):
            lengths.fill_(2)
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        found.append([gradient, *torch.autograd.grad(gradient.square().sum(), x)])
    for mine in found:
        torch.testing.assert_close(mine, found[-1])
    with pytest.raises(TypeError, match="prediction_lengths must be whole numbers without a mask"):
        SoftDTWLoss(0.2)(x, y, np.ma.array([4, 3], mask=[0, 1]))
