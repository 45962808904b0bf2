"""The loss on a GPU: the CPU's numbers, torch's streams, graphs and compiler, and little memory.

Skipped where there is none; tests/loss/test_cuda_executed.py holds the kernels to the CPU's without one.
"""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from data.synthetic_dataset import SyntheticDataset, create_synthetic_dataset
from loss import AsymmetricOmega, DilateLoss, SoftDTWLoss, TangledDilateLoss, kernels, soft_dtw, soft_path
from loss.dilate_loss import dilate_sweep
from loss.soft_dtw import soft_dtw_sweep
from models.seq2seq import DecoderRNN, EncoderRNN, Net_GRU
from tests.helpers import EVERY_LOSS, arguments, costs, drawn_sweep, log_delannoy, series
from training import train_model

GPU = torch.device("cuda")


def _reason() -> str:
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return kernels._missing_for_cuda()


pytestmark = pytest.mark.skipif(bool(_reason()), reason=_reason() or "there is one")


def value_and_gradients(criterion, x, y, *lengths):
    x, y = (s.detach().clone().requires_grad_() for s in (x, y))
    values = criterion(x, y, *lengths)
    return [t.cpu() for t in (values.detach(), *torch.autograd.grad(values.sum(), (x, y)))]


def assert_alike(ours, theirs, relative):
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        largest = b.nan_to_num().abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=relative * max(largest, 0.1), equal_nan=True)


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


# ------------------------------------------------------------------------------------ the CPU's numbers


@pytest.mark.parametrize("criterion", EVERY_LOSS, ids=repr)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("lengths", [(), ([6, 3, 1, 5], [5, 4, 2, 2])], ids=["whole", "padded"])
def test_every_loss_equals_the_cpus(criterion, dtype, lengths):
    x, y = series(4, 6, 5, d=2, dtype=dtype)
    theirs = value_and_gradients(criterion, x, y, *lengths)
    ours = value_and_gradients(copy.deepcopy(criterion).to(GPU), x.to(GPU), y.to(GPU), *lengths)
    assert_alike(ours, theirs, TOLERANCE[dtype])


SHAPES = [
    (1, 1, 1, 1),
    (3, 1, 40, 1),
    (100, 20, 20, 1),
    (3, 33, 31, 2),
    (5000, 8, 9, 1),  # more pairs than blocks
    (40, 200, 170, 3),
    (2, 512, 512, 1),  # the longest one of a single segment
    (2, 1025, 1100, 1),
    (1, 3000, 50, 4),
]


@pytest.mark.parametrize(("B", "N", "M", "d"), SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_any_shape_equals_the_cpus(B, N, M, d, dtype):
    x, y = series(B, N, M, d, dtype)
    args = arguments(x, y, gamma=0.1)
    ours = dilate_sweep(*(a.to(GPU) if isinstance(a, torch.Tensor) else a for a in args))
    assert_alike([r.cpu() for r in ours], dilate_sweep(*args), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("of_costs", [False, True])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize(("wanted", "by_gamma"), [(False, False), (True, False), (True, True)])
def test_drawn_problems_equal_the_cpus(dtype, of_costs, dual, wanted, by_gamma):
    for seed in range(40):
        args = drawn_sweep(seed, dtype, of_costs, dual, wanted, by_gamma, longest=300)
        args = args if dual else (*args[:6], *args[8:])
        operator = dilate_sweep if dual else soft_dtw_sweep
        ours = operator(*(a.to(GPU) if isinstance(a, torch.Tensor) else a for a in args))
        assert_alike([r.cpu() for r in ours], operator(*args), TOLERANCE[dtype])


@pytest.mark.parametrize("band", [0, 1, 7])
def test_a_band_and_a_matrix_for_omega_equal_the_cpus(band):
    x, y = series(3, 60, 60)
    criterion = DilateLoss(0.4, 0.1, omega=torch.rand(60, 60, dtype=torch.float64), band=band)
    theirs = value_and_gradients(criterion, x, y)
    assert_alike(value_and_gradients(criterion.to(GPU), x.to(GPU), y.to(GPU)), theirs, 1e-10)


def test_costs_and_paths_equal_the_cpus():
    D = costs(5, 40, 33)
    for function in (soft_dtw, soft_path):
        torch.testing.assert_close(function(D.to(GPU), 0.1).cpu(), function(D, 0.1), rtol=1e-11, atol=1e-12)


def test_horizon_ten_thousand_trains():
    ones = torch.ones(1, 10_000, 1, device=GPU)
    x = torch.randn(1, 10_000, 1, device=GPU, requires_grad=True)
    ours = DilateLoss(0.5, 1.0)
    (gradient,) = torch.autograd.grad(ours(x, ones), x)
    assert gradient.isfinite().all()
    assert ours.components(ones, ones).shape.item() == pytest.approx(-log_delannoy(9_999), rel=1e-6)


def test_a_spoilt_pair_is_nan_and_leaves_the_others_alone():
    x, y = (s.to(GPU) for s in series(4, 30, 30))
    x[2, 7] = torch.nan
    value, by_x, _ = value_and_gradients(DilateLoss(reduction="none"), x, y)
    assert value.isnan().tolist() == [False, False, True, False]
    assert by_x[2].isnan().all()
    assert by_x[[0, 1, 3]].isfinite().all()


def test_results_are_the_same_every_time():
    x, y = (s.to(GPU) for s in series(50, 100, 100, d=3, dtype=torch.float32))
    first = value_and_gradients(DilateLoss(), x, y)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(value_and_gradients(DilateLoss(), x, y), first, strict=True))


# ------------------------------------------------------------------------------------ what PyTorch can do


def test_derivatives_of_all_orders_and_by_gamma_and_omega():
    x, y = (s.to(GPU).requires_grad_() for s in series(2, 5, 4))
    gamma = torch.tensor(0.4, dtype=torch.float64, device=GPU, requires_grad=True)
    learned = torch.rand(5, 4, dtype=torch.float64)
    lengths = {"prediction_lengths": [5, 2], "target_lengths": [4, 2]}

    def terms(x, y, gamma):
        return tuple(DilateLoss(0.3, gamma, "none").components(x, y, **lengths))

    assert gradcheck(terms, (x, y, gamma))
    assert gradgradcheck(lambda x, y: SoftDTWLoss(0.4, "none")(x, y, **lengths), (x, y))
    D = costs(2, 5, 4).to(GPU).requires_grad_()
    assert gradgradcheck(lambda D: soft_dtw(D, 0.4), D)
    by_omega = []
    for device in ("cpu", GPU):
        criterion = DilateLoss(0.3, 0.4, "sum", omega=nn.Parameter(learned.clone())).to(device)
        criterion(x.detach().to(device), y.detach().to(device)).backward()
        by_omega.append(criterion.omega.grad.cpu())
    torch.testing.assert_close(*by_omega)


@pytest.mark.parametrize("criterion", EVERY_LOSS, ids=repr)
def test_compiles_into_one_graph(criterion):
    torch._dynamo.reset()
    x, y = (s.to(GPU) for s in series(3, 6, 5, d=2))
    compiled = torch.compile(criterion, fullgraph=True)
    assert_alike(value_and_gradients(compiled, x, y), value_and_gradients(criterion, x, y), 1e-12)


def test_opcheck():
    x, y = series(2, 6, 5)
    args = [a.to(GPU) if isinstance(a, torch.Tensor) else a for a in arguments(x, y)]
    torch.library.opcheck(dilate_sweep, args)
    D, Z = torch.rand(2, 6, 5, device=GPU), torch.rand(2, 6, 5, dtype=torch.float64, device=GPU)
    wants = (False, False, True, True)
    torch.library.opcheck(dilate_sweep, (None, None, D, args[3], None, None, Z, None, -1, wants))
    torch.library.opcheck(soft_dtw_sweep, (None, None, D, args[3], None, None, -1, wants))


def test_vmap_joins_the_batch():
    x, y = (s.to(GPU).unflatten(0, (2, 3)) for s in series(6, 6, 5))
    criterion = DilateLoss(0.3, 0.2, "none")
    expected = criterion(x.flatten(0, 1), y.flatten(0, 1))
    torch.testing.assert_close(torch.func.vmap(criterion)(x, y).flatten(), expected)


def test_autocast_computes_in_float32():
    layer = nn.Linear(2, 2).to(GPU)
    x, y = (s.to(GPU) for s in series(4, 6, 5, d=2, dtype=torch.float32))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        prediction = layer(x)
        value = DilateLoss()(prediction, y)
    assert (prediction.dtype, value.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(value, DilateLoss()(prediction.float(), y))
    value.backward()
    assert layer.weight.grad.isfinite().all()


def test_views_that_are_not_contiguous():
    x, y = (s.to(GPU) for s in series(3, 12, 10, d=4, dtype=torch.float32))
    views = x[:, ::2, 1:3], y.transpose(0, 2)[1:3].transpose(0, 2)[:, 1::2]
    expected = value_and_gradients(DilateLoss(), *(v.contiguous() for v in views))
    for a, b in zip(value_and_gradients(DilateLoss(), *views), expected, strict=True):
        assert torch.equal(a, b)


# ------------------------------------------------------------------------------------ streams, graphs, devices


def test_the_host_never_waits():
    x, y = (s.to(GPU).requires_grad_() for s in series(20, 30, 30, d=2, dtype=torch.float32))
    gamma = nn.Parameter(torch.tensor(0.1, device=GPU))
    losses = [SoftDTWLoss(gamma), DilateLoss(0.5, 0.1, band=9), TangledDilateLoss(0.5, 0.1, divergence=True)]
    for criterion in losses:
        criterion(x, y).backward()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            criterion(x, y).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_side_stream_sees_what_it_wrote_itself():
    x, y = (s.to(GPU) for s in series(20, 50, 50, dtype=torch.float32))
    expected = value_and_gradients(DilateLoss(), x, y)
    stream, late = torch.cuda.Stream(), torch.full_like(x, torch.nan)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # a kernel on another stream would run before this one is over
        late.copy_(x)
        results = value_and_gradients(DilateLoss(), late, y)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_a_training_step_in_a_cuda_graph_gives_the_same_weights():
    def training(captured):
        torch.manual_seed(0)
        net = nn.Linear(8, 20).to(GPU)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, capturable=True)
        inputs, targets = torch.randn(5, 100, 8, device=GPU), torch.randn(5, 100, 20, device=GPU)
        x, y = inputs[0].clone(), targets[0].clone()
        criterion = DilateLoss()

        def step():
            optimizer.zero_grad(set_to_none=True)
            criterion(net(x), y).backward()
            optimizer.step()

        kept = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                step()
        with torch.no_grad():  # undo the steps that warmed up
            for name, parameter in net.named_parameters():
                parameter.copy_(kept[0][name])
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()
        for a, b in zip(inputs, targets, strict=True):
            x.copy_(a)
            y.copy_(b)
            graph.replay() if captured else step()
        return net.weight.detach().clone()

    assert torch.equal(training(captured=True), training(captured=False))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU only")
def test_the_second_of_two_devices():
    x, y = series(5, 40, 30, d=2)
    theirs = value_and_gradients(DilateLoss(), x, y)
    second = torch.device("cuda", 1)
    with torch.cuda.device(0):
        assert_alike(value_and_gradients(DilateLoss(), x.to(second), y.to(second)), theirs, 1e-10)


def test_a_size_that_is_new_in_inference_mode_or_in_a_graph_trains_afterwards():
    for horizon, context in ((61, torch.inference_mode), (62, None)):
        x, y = (s.to(GPU) for s in series(3, horizon, horizon, dtype=torch.float32))
        theirs = value_and_gradients(DilateLoss(), x.cpu(), y.cpu())
        if context:
            with context():
                DilateLoss()(x, y)
        else:
            DilateLoss()(x[:, :5], y[:, :5])  # a kernel cannot be loaded while a graph is captured
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                value = DilateLoss()(x, y)
            graph.replay()
            assert_alike([value.cpu()], theirs[:1], 1e-5)
        assert_alike(value_and_gradients(DilateLoss(), x, y), theirs, 1e-5)


# ------------------------------------------------------------------------------------ memory, training


def bytes_beyond_inputs(criterion, batch, horizon, variables):
    x, y = torch.randn(2, batch, horizon, variables, device=GPU)
    x.requires_grad_()
    criterion(x, y).backward()
    x.grad = None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    criterion(x, y).backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize(
    ("batch", "horizon", "variables", "most"),
    [(32, 512, 64, 230e6), (32, 512, 1, 190e6), (1, 10_000, 1, 150e6), (256, 720, 1, 1.1e9)],
)
def test_memory(batch, horizon, variables, most):
    assert bytes_beyond_inputs(DilateLoss(omega=AsymmetricOmega(1, 2)), batch, horizon, variables) <= most


def test_a_network_trains_as_on_the_cpu():
    windows = create_synthetic_dataset(40, 20, 20, 0.01)
    train, test = SyntheticDataset(*windows[:2], windows[4]), SyntheticDataset(*windows[2:4], windows[5])
    losses = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        net = Net_GRU(EncoderRNN(1, 16, 1), DecoderRNN(1, 16, 1, 8, 1), 20, device)
        history = train_model(net, DilateLoss(), train, test, epochs=3, batch_size=20, eval_every=1, print_every=0)
        losses[device] = [record["train_loss"] for record in history]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


@pytest.mark.parametrize("criterion", [nn.MSELoss(), SoftDTWLoss(), DilateLoss()], ids=repr)
def test_a_training_that_is_recorded_has_the_numbers_of_one_that_is_not(criterion):
    windows = create_synthetic_dataset(50, 20, 20, 0.01)  # batches of 20, 20 and 10
    train, test = SyntheticDataset(*windows[:2], windows[4]), SyntheticDataset(*windows[2:4], windows[5])

    def trained(cuda_graph):
        torch.manual_seed(0)
        net = Net_GRU(EncoderRNN(1, 16, 1), DecoderRNN(1, 16, 1, 8, 1), 20, "cuda")
        options = {"epochs": 3, "batch_size": 20, "eval_every": 1, "print_every": 0}
        history = train_model(net, criterion, train, test, cuda_graph=cuda_graph, **options)
        return [{name: record[name] for name in ("train_loss", "mse", "dtw", "tdi")} for record in history]

    assert trained(cuda_graph=True) == trained(cuda_graph=False)
