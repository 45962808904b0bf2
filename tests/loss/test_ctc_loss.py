"""CTC against all alignments, PyTorch's own, the probability-space reference and finite differences."""

import copy
import itertools
import math
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import func, nn
from torch.autograd import gradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import ctc_loss as torch_ctc_loss

from loss import CTCLoss, ctc_alignment, ctc_loss, ctc_loss_of_one_sequence
from loss.kernels import ctc as kernels
from loss.kernels import workers
from loss.kernels.ctc import sweep_ctc
from tests.helpers import assert_one_sentence


def random_logits(T, B, C, dtype=torch.float64, seed=0, scale=1.0):
    return scale * torch.randn(T, B, C, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_targets(B, S, C, blank=0, seed=0):
    """(B, S) labels other than the blank; of few classes, so that many are repeated."""
    labels = torch.randint(C - 1, (B, S), generator=torch.Generator().manual_seed(seed))
    return labels + (labels >= blank)


def gradient_by_logits(loss, logits, *labelling, **settings):
    """A loss behind a log_softmax, and its gradient along fixed weights by the logits."""
    leaf = logits.detach().clone().requires_grad_()
    values = loss(leaf.log_softmax(-1), *labelling, **settings)
    weights = torch.linspace(1, 2, values.numel(), dtype=values.dtype).reshape(values.shape)
    (values * weights).sum().backward()
    return values.detach(), leaf.grad


# ----------------------------------------------------------------------- all alignments


def reads_as(alignment, blank):
    return tuple(label for label, _ in itertools.groupby(alignment) if label != blank)


def states_of(alignment, blank):
    """The state at each time: a change from or to a blank leads one state on, one between two labels leads two on."""
    state, before, states = 0, blank, []
    for label in alignment:
        state += 0 if label == before else 1 if blank in (label, before) else 2
        states.append(state)
        before = label
    return states


def enumerate_alignments(log_probs, target, blank):
    """-log p(target) and the posterior (T, 2 L + 1) of one sequence (T, C), alignment by alignment."""
    T, C = log_probs.shape
    total, posterior = torch.zeros(()), torch.zeros(T, 2 * len(target) + 1, dtype=log_probs.dtype)
    for alignment in itertools.product(range(C), repeat=T):
        if reads_as(alignment, blank) == tuple(target):
            p = log_probs[range(T), alignment].sum().exp()
            total = total + p
            posterior[range(T), states_of(alignment, blank)] += p.detach()
    return -total.log(), posterior / total.detach()


TARGETS = ([], [1], [2, 1], [1, 1], [2, 2, 1], [1, 2, 1], [1, 1, 1])


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("target", TARGETS)
def test_value_gradient_and_alignment_equal_the_sum_over_all_alignments(target, blank):
    T, C = 6, 3
    target = [(label + blank) % C for label in target]
    log_probs = random_logits(T, 1, C, seed=len(target))[:, 0].log_softmax(-1).requires_grad_()
    truth, posterior = enumerate_alignments(log_probs, target, blank)
    arguments = (log_probs, torch.tensor(target, dtype=torch.int64), [T], [len(target)], blank)
    value = ctc_loss(*arguments, reduction="none")
    torch.testing.assert_close(value, truth, rtol=1e-12, atol=1e-13)
    gradients = (torch.autograd.grad(v, log_probs)[0] for v in (value, truth))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(ctc_alignment(*arguments).detach(), posterior, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(ctc_loss_of_one_sequence(log_probs.exp().T, target, blank), truth)


@pytest.mark.parametrize(
    "zeros", [[(0, 1)], [(2, 0)], [(3, 2), (1, 1)], [(2, 0), (2, 1)], [(1, 0), (1, 2)], [(t, 0) for t in range(5)]]
)
def test_probabilities_of_zero(zeros):
    logits = random_logits(5, 1, 3)[:, 0]
    for place in zeros:
        logits[place] = -math.inf
    log_probs = logits.log_softmax(-1).requires_grad_()
    truth, posterior = enumerate_alignments(log_probs, [1, 2], 0)
    value = ctc_loss(log_probs, torch.tensor([1, 2]), 5, 2, reduction="none")
    torch.testing.assert_close(value, truth)
    by_class = torch.stack([posterior[:, ::2].sum(1), posterior[:, 1], posterior[:, 3]], 1)
    torch.testing.assert_close(torch.autograd.grad(value, log_probs)[0], -by_class)


def test_a_label_that_is_never_possible_makes_the_loss_infinite():
    logits = random_logits(5, 1, 3)
    logits[..., 2] = -math.inf
    labelling = (torch.tensor([[1, 2]]), [5], [2])
    assert ctc_loss(logits.log_softmax(-1), *labelling) == math.inf
    value, gradient = gradient_by_logits(ctc_loss, logits, *labelling, zero_infinity=True)
    assert value == 0
    assert (gradient == 0).all()


# ----------------------------------------------------------------------- PyTorch's own


@st.composite
def tasks(draw):
    """Logits, targets padded or concatenated, lengths, and settings; some targets have no alignment."""
    T, B, C, S = draw(st.integers(1, 30)), draw(st.integers(1, 6)), draw(st.integers(2, 6)), draw(st.integers(0, 8))
    blank, seed = draw(st.integers(0, C - 1)), draw(st.integers(0, 99))
    n = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    m = draw(st.lists(st.integers(0, S), min_size=B, max_size=B))
    targets = random_targets(B, S, C, blank, seed)
    if draw(st.booleans()):
        targets = torch.cat([target[:length] for target, length in zip(targets, m, strict=True)])
    logits = random_logits(T, B, C, seed=seed, scale=draw(st.sampled_from([0.1, 1.0, 10.0, 1000.0])))
    reduction, zero_infinity = draw(st.sampled_from(["none", "mean", "sum"])), draw(st.booleans())
    return (logits, targets, n, m), {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}


@settings(max_examples=300)
@given(tasks())
def test_values_and_gradients_by_logits_equal_pytorchs(task):
    arguments, keywords = task
    ours, theirs = (gradient_by_logits(loss, *arguments, **keywords) for loss in (ctc_loss, torch_ctc_loss))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-8, atol=1e-11, equal_nan=True)


def test_pytorchs_gradient_by_log_probs_is_exp_log_probs_more():
    log_probs = random_logits(9, 2, 4).log_softmax(-1).requires_grad_()
    arguments = (log_probs, random_targets(2, 3, 4), (9, 9), (3, 2))
    ours, theirs = (torch.autograd.grad(loss(*arguments, reduction="sum"), log_probs)[0] for loss in (ctc_loss, torch_ctc_loss))  # fmt: skip # noqa: E501
    torch.testing.assert_close(ours, theirs - log_probs.exp())
    torch.testing.assert_close(ours.sum(-1), -torch.ones(9, 2, dtype=torch.float64))


@settings(max_examples=8)
@given(
    T=st.integers(1000, 2000),
    C=st.integers(3, 20),
    S=st.integers(100, 450),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.1, 1.0, 20.0]),
)
def test_long_sequences_equal_pytorchs(T, C, S, seed, scale):
    logits, labelling = (
        random_logits(T, 2, C, seed=seed, scale=scale),
        (random_targets(2, S, C, seed=seed), [T] * 2, [S] * 2),
    )
    ours, theirs = (
        gradient_by_logits(loss, logits, *labelling, reduction="none") for loss in (ctc_loss, torch_ctc_loss)
    )
    assert ours[0].isfinite().all()
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=1e-10)
    posterior = ctc_alignment(logits.log_softmax(-1), *labelling)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(2, T, dtype=torch.float64), rtol=0, atol=1e-11)


def test_where_probabilities_underflow_logarithms_do_not():
    logits, target = random_logits(2000, 1, 30)[:, 0], random_targets(1, 200, 30)[0]
    assert ctc_loss_of_one_sequence(logits.softmax(-1).T, target) == math.inf
    arguments = (logits.log_softmax(-1), target, (2000,), (200,))
    value = ctc_loss(*arguments, reduction="none")
    assert value > 1000
    torch.testing.assert_close(value, torch_ctc_loss(*arguments, reduction="none"), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sureness", [20.0, 100.0, 1e4, 1e30])
def test_a_network_that_is_sure_of_blanks(sureness):
    """The one alignment that counts is behind others by far more than any floating-point probability can hold."""
    T, L = 120, 40
    log_probs = torch.full((T, 1, 2), -sureness, dtype=torch.float64)
    log_probs[..., 0] = 0.0
    value = ctc_loss(log_probs, torch.ones(1, L, dtype=torch.int64), [T], [L])
    # L labels that are all the same need L - 1 blanks between them; stretching a label is e ** -sureness as likely
    expected = sureness - math.log(math.comb(T - L + 1, L)) / L
    assert value.item() == pytest.approx(expected, rel=1e-7)


def test_the_notes_form_is_the_mean_of_a_batch_of_one():
    P = random_logits(12, 1, 5)[:, 0].softmax(-1).T
    target = torch.tensor([2, 2, 4])
    theirs = nn.CTCLoss(blank=0)(P.T.log().unsqueeze(1), target.unsqueeze(0), [12], [3])
    torch.testing.assert_close(ctc_loss_of_one_sequence(P, target) / 3, theirs)
    torch.testing.assert_close(CTCLoss(blank=0)(P.T.log().unsqueeze(1), target.unsqueeze(0), [12], [3]), theirs)


def test_gradient_of_the_reference_is_ours():
    log_probs = random_logits(10, 1, 4)[:, 0].log_softmax(-1).requires_grad_()
    values = (
        ctc_loss_of_one_sequence(log_probs.exp().T, [3, 1, 1]),
        ctc_loss(log_probs, torch.tensor([3, 1, 1]), 10, 3),
    )
    (theirs,), (ours,) = (torch.autograd.grad(value, log_probs) for value in values)
    torch.testing.assert_close(ours * 3, theirs)


def test_gradcheck_by_log_probs():
    log_probs = random_logits(7, 4, 4).log_softmax(-1).requires_grad_()
    labelling = (torch.tensor([[1, 1, 2], [3, 2, 3], [1, 2, 3], [2, 2, 2]]), [7, 4, 7, 5], [3, 3, 0, 3])
    assert gradcheck(lambda x: ctc_loss(x, *labelling, reduction="none"), (log_probs,))
    assert gradcheck(lambda x: ctc_loss(x, *labelling, reduction="mean"), (log_probs,))


# ----------------------------------------------------------------------- forms of input


def test_every_form_of_targets_and_lengths_gives_the_same():
    log_probs, n, m = random_logits(12, 3, 5).log_softmax(-1), [12, 7, 9], [3, 2, 0]
    padded = random_targets(3, 4, 5)
    concatenated = torch.cat([padded[b, : m[b]] for b in range(3)])
    expected = ctc_loss(log_probs, padded, n, m)
    spoilt = padded.clone()
    spoilt[0, 3:], spoilt[1, 2:], spoilt[2] = 0, -1, 99  # what lies beyond a target's length may be anything
    for targets in (padded, spoilt, concatenated, padded.int(), concatenated.int(), padded.tolist()):
        for kind in (tuple, list, torch.tensor, lambda k: torch.tensor(k, dtype=torch.int32)):
            assert torch.equal(ctc_loss(log_probs, targets, kind(n), kind(m)), expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_one_sequence_without_a_batch(reduction):
    log_probs, target = random_logits(8, 1, 4)[:, 0].log_softmax(-1), torch.tensor([1, 3, 3])
    expected = torch_ctc_loss(log_probs, target, (8,), (3,), reduction=reduction)
    for targets in (target, target.unsqueeze(0)):
        for n, m in ((8, 3), ((8,), (3,)), (torch.tensor(8), torch.tensor([3]))):
            ours = ctc_loss(log_probs, targets, n, m, reduction=reduction)
            assert ours.shape == ()
            torch.testing.assert_close(ours, expected)


def test_inputs_and_targets_of_no_length():
    log_probs = random_logits(4, 4, 3).log_softmax(-1)
    arguments = (log_probs, torch.tensor([[1, 2]] * 4), (0, 0, 4, 1), (0, 1, 0, 2))
    value = ctc_loss(*arguments, reduction="none")
    assert value[:2].tolist() == [0.0, math.inf]
    assert value[2] == pytest.approx(-log_probs[:, 2, 0].sum().item())
    assert value[3] == math.inf
    torch.testing.assert_close(ctc_loss(log_probs, torch.zeros(4, 0, dtype=torch.int64), [4] * 4, [0] * 4),
                               -log_probs[..., 0].sum(0).mean())  # fmt: skip


@pytest.mark.parametrize(("target", "least"), [([1, 2, 1], 3), ([1, 1, 2], 4), ([2, 2, 2], 5)])
def test_a_target_needs_a_step_for_each_label_and_for_each_blank_between_equal_ones(target, least):
    logits = random_logits(6, 1, 3)
    for T in range(1, 7):
        arguments = (logits, torch.tensor([target]), [T], [3])
        value, gradient = gradient_by_logits(ctc_loss, *arguments)
        mild_value, mild_gradient = gradient_by_logits(ctc_loss, *arguments, zero_infinity=True)
        if least > T:
            assert value == math.inf
            assert gradient[:T].isnan().all()
            assert mild_value == 0
            assert (mild_gradient == 0).all()
        else:
            assert value.isfinite()
            assert gradient.isfinite().all()
            assert mild_value == value
            assert torch.equal(mild_gradient, gradient)


def test_padding_of_the_input_has_no_influence_and_no_gradient():
    log_probs, targets, n = random_logits(9, 3, 4).log_softmax(-1), random_targets(3, 2, 4), [9, 5, 4]
    expected = [ctc_loss(log_probs[: n[b], b], targets[b], n[b], 2, reduction="none") for b in range(3)]
    for b in range(3):
        log_probs[n[b] :, b] = math.nan
    log_probs.requires_grad_()
    value = ctc_loss(log_probs, targets, n, [2] * 3, reduction="none")
    assert torch.equal(value, torch.stack(expected))
    value.sum().backward()
    for b in range(3):
        assert (log_probs.grad[n[b] :, b] == 0).all()
        torch.testing.assert_close(log_probs.grad[: n[b], b].sum(-1), -torch.ones(n[b], dtype=torch.float64))


def test_inputs_are_not_written_to_and_need_not_be_contiguous():
    log_probs, targets = random_logits(9, 3, 4).log_softmax(-1), random_targets(3, 2, 4)
    before = log_probs.clone(), targets.clone()
    turned = (log_probs.transpose(0, 1).contiguous().transpose(0, 1), targets.T.contiguous().T)
    assert torch.equal(ctc_loss(*turned, [9] * 3, [2] * 3), ctc_loss(log_probs, targets, [9] * 3, [2] * 3))
    assert torch.equal(log_probs, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    log_probs = random_logits(9, 3, 4).log_softmax(-1).to(dtype).requires_grad_()
    labelling = (random_targets(3, 2, 4), [9] * 3, [2] * 3)
    value = ctc_loss(log_probs, *labelling)
    assert value.dtype == ctc_alignment(log_probs, *labelling).dtype == torch.float32
    assert torch.equal(value, ctc_loss(log_probs.float(), *labelling))
    value.backward()
    assert log_probs.grad.dtype == dtype


def test_float32_keeps_its_digits_on_long_sequences():
    log_probs = random_logits(2000, 1, 10).log_softmax(-1).float()
    labelling = (random_targets(1, 300, 10), [2000], [300])
    ours = gradient_by_logits(ctc_loss, log_probs, *labelling)
    exact = gradient_by_logits(ctc_loss, log_probs.double(), *labelling)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=0, atol=2e-6 * exact[1].abs().max().item())
    sums = ctc_alignment(log_probs, *labelling).double().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1.5e-7)


# ----------------------------------------------------------------------- the alignment


def test_the_alignment_is_a_distribution_at_each_time_and_minus_the_gradient():
    log_probs = random_logits(15, 3, 5).log_softmax(-1).requires_grad_()
    targets, n, m, blank = random_targets(3, 4, 5, blank=2), [15, 10, 4], [4, 3, 0], 2
    posterior = ctc_alignment(log_probs, targets, n, m, blank).detach()
    assert posterior.shape == (3, 15, 9)
    assert (posterior >= 0).all()
    (gradient,) = torch.autograd.grad(ctc_loss(log_probs, targets, n, m, blank, "sum"), log_probs)
    for b in range(3):
        assert (posterior[b, n[b] :] == 0).all()
        assert (posterior[b, :, 2 * m[b] + 1 :] == 0).all()
        by_class = torch.zeros(n[b], 5, dtype=torch.float64)
        by_class[:, blank] = posterior[b, : n[b], ::2].sum(1)
        for k in range(m[b]):
            by_class[:, targets[b, k]] += posterior[b, : n[b], 2 * k + 1]
        torch.testing.assert_close(by_class, -gradient[: n[b], b], rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(by_class.sum(1), torch.ones(n[b], dtype=torch.float64))


def test_alignments_of_concatenated_targets_and_of_one_sequence():
    log_probs, targets = random_logits(10, 2, 4).log_softmax(-1), random_targets(2, 5, 4)
    padded = ctc_alignment(log_probs, targets, [10, 8], [2, 3])
    concatenated = ctc_alignment(log_probs, torch.cat([targets[0, :2], targets[1, :3]]), [10, 8], [2, 3])
    assert torch.equal(padded[..., :7], concatenated)
    assert torch.equal(ctc_alignment(log_probs[:, 1], targets[1, :3], 8, 3), concatenated[1])


def test_a_target_without_alignment_has_none():
    posterior = ctc_alignment(random_logits(5, 2, 3).log_softmax(-1), torch.tensor([[1, 1], [1, 2]]), [2, 2], [2, 2])
    assert posterior[0, :2].isnan().all()
    assert (posterior[0, 2:] == 0).all()
    torch.testing.assert_close(posterior[1, :2, [1, 3]], torch.eye(2, dtype=torch.float64))


# ----------------------------------------------------------------------- batches and threads


def batch_of_many(dtype=torch.float32):
    """Sequences of all lengths, enough of them for several threads."""
    generator = torch.Generator().manual_seed(1)
    log_probs, targets = random_logits(120, 40, 12, dtype).log_softmax(-1), random_targets(40, 50, 12)
    n, m = (torch.randint(0, longest + 1, (40,), generator=generator) for longest in (120, 50))
    assert (n * (2 * m + 1)).sum() > kernels._PARALLEL_CELLS
    return log_probs, targets, n, m


def value_and_gradient(log_probs, *labelling):
    leaf = log_probs.clone().requires_grad_()
    value = ctc_loss(leaf, *labelling, reduction="none", zero_infinity=True)
    value.sum().backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_equals_its_sequences_one_by_one(dtype):
    log_probs, targets, n, m = batch_of_many(dtype)
    value, gradient = value_and_gradient(log_probs, targets, n, m)
    for b in range(40):
        alone = value_and_gradient(log_probs[:, b], targets[b, : m[b]], n[b], m[b])
        assert torch.equal(alone[0], value[b])
        assert torch.equal(alone[1], gradient[:, b])


@contextmanager
def torch_threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def on_one_thread():
    with torch_threads(1):
        return value_and_gradient(*batch_of_many())


def assert_all_equal(results, expected):
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_results_do_not_depend_on_the_number_of_threads(threads, on_one_thread):
    with torch_threads(threads):
        assert_all_equal(value_and_gradient(*batch_of_many()), on_one_thread)


def test_a_helper_that_is_still_at_work_is_waited_for(monkeypatch, on_one_thread):
    sweep, begun = kernels._sweep_sequences, threading.Event()

    def sweep_slowly(*arguments):
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(60)
        else:
            begun.set()
            time.sleep(0.1)
        sweep(*arguments)

    monkeypatch.setattr(kernels, "_sweep_sequences", sweep_slowly)
    with torch_threads(2):
        assert_all_equal(value_and_gradient(*batch_of_many()), on_one_thread)


def test_a_helper_that_does_not_come_to_run_is_not_waited_for(monkeypatch, on_one_thread):
    pool, over = workers.Pool(), threading.Event()
    (busy,) = pool.submit(1, lambda share: over.wait(20))
    monkeypatch.setattr(workers, "POOL", pool)
    with torch_threads(2):
        assert_all_equal(value_and_gradient(*batch_of_many()), on_one_thread)
    assert not busy.done()
    over.set()


@given(cells=st.lists(st.integers(0, 50), min_size=1, max_size=20), count=st.integers(1, 20))
def test_every_sequence_is_in_one_of_the_runs_that_threads_share(cells, count):
    runs = kernels._runs(torch.tensor(cells).numpy(), count)
    assert [b for first, last in runs for b in range(first, last)] == list(range(len(cells)))
    assert len(runs) == count
    even = sum(cells) / count
    assert all(sum(cells[first:last]) <= even + max(cells) for first, last in runs)


def test_calls_from_several_python_threads_do_not_disturb_each_other(on_one_thread):
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: value_and_gradient(*batch_of_many()), range(12)):
            assert_all_equal(results, on_one_thread)


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_a_spoilt_sequence_is_nan_and_spoils_no_other(zero_infinity):
    log_probs, targets = random_logits(20, 5, 4).log_softmax(-1), random_targets(5, 6, 4)
    clean, spoilt = log_probs.clone().requires_grad_(), log_probs.clone()
    spoilt[7, 1, targets[1, 2]] = math.nan
    spoilt.requires_grad_()
    settings = {"reduction": "none", "zero_infinity": zero_infinity}
    values, expected = (ctc_loss(x, targets, [20] * 5, [6, 6, 5, 1, 6], **settings) for x in (spoilt, clean))
    values.sum().backward()
    expected.sum().backward()
    others = [0, 2, 3, 4]
    assert values[1].isnan()
    assert spoilt.grad[:, 1].isnan().all()
    assert torch.equal(values[others], expected[others])
    assert torch.equal(spoilt.grad[:, others], clean.grad[:, others])
    posterior = ctc_alignment(spoilt, targets, [20] * 5, [6, 6, 5, 1, 6])
    assert posterior[1].isnan().all()
    assert posterior[others].isfinite().all()


@pytest.mark.parametrize("target", TARGETS)
def test_only_what_an_alignment_can_visit_is_looked_at(target):
    T, C = 5, 4
    log_probs = random_logits(T, 1, C)[:, 0].log_softmax(-1)
    arguments = (torch.tensor(target, dtype=torch.int64), T, len(target))
    expected = ctc_loss(log_probs, *arguments)
    posterior = enumerate_alignments(log_probs, target, 0)[1]
    for t, k in itertools.product(range(T), range(C)):
        states = [s for s in range(2 * len(target) + 1) if (target[s // 2] if s % 2 else 0) == k]
        spoilt = log_probs.clone()
        spoilt[t, k] = math.nan
        value, gradient = value_and_gradient(spoilt, *arguments)
        if posterior[t, states].sum() > 0:
            assert value.isnan()
            assert gradient.isnan().all()
        else:
            assert value / max(1, len(target)) == expected
            assert gradient.isfinite().all()


# ----------------------------------------------------------------------- autograd, compilation, modules


LABELLING = (torch.tensor([[1, 1, 2], [3, 2, 3], [1, 2, 3]]), torch.tensor([9, 4, 7]), torch.tensor([3, 3, 0]))


def behind_log_softmax(logits, *labelling):
    return ctc_loss(logits.log_softmax(-1), *(labelling or LABELLING))


def test_compiles_into_one_graph_with_the_same_numbers():
    logits = random_logits(9, 3, 4, torch.float32).requires_grad_()
    compiled = torch.compile(behind_log_softmax, fullgraph=True, backend="aot_eager")
    same = torch.tensor([2, 3, 1])
    forms = (LABELLING, (LABELLING[0], same, same), (torch.tensor([1, 1, 2, 3]), (9, 4, 7), (3, 1, 0)))
    for labelling in forms:
        assert torch.equal(compiled(logits, *labelling), behind_log_softmax(logits, *labelling))
        gradients = (torch.autograd.grad(f(logits, *labelling), logits)[0] for f in (compiled, behind_log_softmax))
        assert torch.equal(*(gradient.nan_to_num(99) for gradient in gradients))
    with pytest.raises(RuntimeError, match="input_lengths must lie between 0 and 9"):
        compiled(logits, LABELLING[0], torch.tensor([9, 10, 7]), LABELLING[2])
    with pytest.raises(RuntimeError, match="targets must be classes from 0 to 3 other than the blank, 0"):
        compiled(logits, LABELLING[0] - 1, *LABELLING[1:])


def test_works_under_torch_func_grad():
    logits = random_logits(9, 3, 4)
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(behind_log_softmax(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(behind_log_softmax)(logits), expected)


def test_works_under_vmap():
    logits = torch.stack([random_logits(9, 3, 4, seed=seed) for seed in range(5)])
    for axis in range(4):
        moved = logits.movedim(0, axis)
        values = torch.func.vmap(behind_log_softmax, axis)(moved)
        torch.testing.assert_close(values, torch.stack([behind_log_softmax(x) for x in logits]))
        gradients = torch.func.vmap(torch.func.grad(behind_log_softmax), axis)(moved)
        torch.testing.assert_close(gradients, torch.stack([torch.func.grad(behind_log_softmax)(x) for x in logits]))
        posterior = torch.func.vmap(lambda x: ctc_alignment(x, *LABELLING), axis)(moved)
        torch.testing.assert_close(posterior, torch.stack([ctc_alignment(x, *LABELLING) for x in logits]))


def test_vmap_over_lengths_is_refused():
    log_probs, spans = random_logits(9, 3, 4), torch.tensor([[9, 4, 7], [0, 3, 6], [3, 3, 0]])
    with pytest.raises(NotImplementedError, match="targets and lengths cannot be mapped over by vmap"):
        torch.func.vmap(lambda s: kernels.sweep_ctc(log_probs, LABELLING[0].flatten(), s, 0, False, False, 0))(
            spans[None]
        )


def test_a_second_derivative_is_refused():
    logits = random_logits(9, 3, 4).requires_grad_()
    (first,) = torch.autograd.grad(behind_log_softmax(logits), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="CTC can be differentiated once only"):
        torch.autograd.grad(first.square().sum(), logits)
    posterior = ctc_alignment(logits.log_softmax(-1), *LABELLING)
    with pytest.raises(NotImplementedError, match="and its alignment not at all"):
        torch.autograd.grad(posterior.sum(), logits)


class Aligned(nn.Module):
    """CTC of scaled logits, and a weighted sum of the alignment."""

    def __init__(self, detached):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.register_buffer("weight", random_logits(3, 9, 7, seed=1))
        self.detached = detached

    def forward(self, logits, *labelling):
        log_probs = (logits * self.scale).log_softmax(-1)
        posterior = ctc_alignment(log_probs.detach() if self.detached else log_probs, *labelling)
        return ctc_loss(log_probs, *labelling) + (posterior * self.weight).sum()


def traced_symbolically(net, arguments):
    """What make_fx records of a module, as a function of the same arguments."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    traced = make_fx(lambda tensors, *given: func.functional_call(net, tensors, given), tracing_mode="symbolic")
    recorded = traced(tensors, *arguments)
    return lambda *given: recorded(tensors, *given)


RECORDERS = {
    "export": lambda net, arguments: torch.export.export(net, arguments, strict=False).module(),
    "strict export": lambda net, arguments: torch.export.export(net, arguments, strict=True).module(),
    "jit.trace": lambda net, arguments: torch.jit.trace(net, arguments),
    "make_fx": traced_symbolically,
    "compile": lambda net, arguments: torch.compile(net, backend="aot_eager"),
}


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.6", reason="exported by torch 2.5, a loss refuses to be differentiated")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("recorder", RECORDERS)
@pytest.mark.parametrize("required", [True, False])
def test_a_recorded_alignment_is_no_constant_to_its_gradient(recorder, required):
    logits, labelling = random_logits(9, 3, 4), (*LABELLING[:2], torch.tensor([3, 3, 2]))
    for detached in (False, True):
        net = Aligned(detached)
        value = net(logits, *labelling)
        net.scale.requires_grad_(required)
        recorded = RECORDERS[recorder](net, (logits, *labelling))
        leaf = logits.clone().requires_grad_()
        found = recorded(leaf, *labelling)
        torch.testing.assert_close(found, value)
        if detached:
            expected = torch.autograd.grad(net(leaf, *labelling), leaf)
            torch.testing.assert_close(torch.autograd.grad(found, leaf), expected)
        else:
            with pytest.raises(NotImplementedError, match="alignment not at all"):
                found.backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_loss_does_not_read_on_into_the_next_target():
    logits, (targets, n, m) = random_logits(9, 3, 4), (*LABELLING[:2], torch.tensor([3, 3, 2]))
    traced = torch.jit.trace(ctc_loss, (logits.log_softmax(-1), targets, n, m))
    shorter = (logits.log_softmax(-1), targets, n, torch.tensor([1, 0, 3]))
    torch.testing.assert_close(traced(*shorter), ctc_loss(*shorter))
    with pytest.raises(RuntimeError, match="targets lie among 9 labels"):
        traced(logits.log_softmax(-1), targets, n, torch.tensor([4, 3, 2]))


def test_the_derivative_along_another_input_is_differentiable():
    logits = random_logits(9, 3, 4).requires_grad_()
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(weight * behind_log_softmax(logits), logits, create_graph=True)
    (by_weight,) = torch.autograd.grad(first.sum(0)[0, 0], weight)
    torch.testing.assert_close(by_weight, first.sum(0)[0, 0] / 2)


def test_backward_twice_gives_the_same_gradient():
    logits = random_logits(9, 3, 4).requires_grad_()
    loss = behind_log_softmax(logits)
    assert torch.equal(*(torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2)))


def test_no_grad_gives_the_same_value_without_a_graph():
    logits = random_logits(9, 3, 4).requires_grad_()
    with torch.no_grad():
        quiet = behind_log_softmax(logits)
    assert not quiet.requires_grad
    assert torch.equal(quiet, behind_log_softmax(logits).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("want_gradient", [True, False])
def test_opcheck(dtype, want_gradient):
    log_probs, spans = random_logits(9, 3, 4, dtype).log_softmax(-1), torch.tensor([[9, 4, 7], [0, 3, 6], [3, 3, 0]])
    torch.library.opcheck(kernels.sweep_ctc, (log_probs, LABELLING[0].flatten(), spans, 0, True, want_gradient, 7))
    torch.library.opcheck(kernels.sweep_ctc, (log_probs, LABELLING[0].flatten(), spans, 0, False, want_gradient, 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_is_pytorchs_own():
    logits = random_logits(9, 3, 4)
    ours = gradient_by_logits(ctc_loss, logits.cuda(), *LABELLING, zero_infinity=True)
    for a, b in zip(ours, gradient_by_logits(ctc_loss, logits, *LABELLING, zero_infinity=True), strict=True):
        torch.testing.assert_close(a.cpu(), b)
    posterior = ctc_alignment(logits.log_softmax(-1).cuda(), *LABELLING)
    assert posterior.is_cuda
    torch.testing.assert_close(posterior.cpu(), ctc_alignment(logits.log_softmax(-1), *LABELLING), equal_nan=True)


def test_the_module_is_the_function_with_settings_and_can_be_copied_and_pickled():
    log_probs = random_logits(9, 3, 4).log_softmax(-1)
    labelling = (random_targets(3, 3, 4, blank=2), [9, 9, 1], [3, 2, 3])
    criterion = CTCLoss(2, "sum", True)
    expected = ctc_loss(log_probs, *labelling, 2, "sum", True)
    for twin in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(twin(log_probs, *labelling), expected)
    torch.testing.assert_close(expected, nn.CTCLoss(2, "sum", True)(log_probs, *labelling))
    assert criterion.state_dict() == {}
    assert repr(criterion) == "CTCLoss(blank=2, reduction='sum', zero_infinity=True)"


# ----------------------------------------------------------------------- bad arguments


GOOD = {
    "log_probs": torch.zeros(6, 2, 4),
    "targets": torch.tensor([[1, 2], [3, 3]]),
    "input_lengths": [6, 6],
    "target_lengths": [2, 2],
    "blank": 0,
}
X = GOOD["log_probs"]
BAD = [
    ({"log_probs": X.numpy()}, TypeError, "log_probs must be a tensor, but it is a ndarray"),
    ({"log_probs": X.long()}, TypeError, "log_probs must be a floating-point tensor, but its type is torch.int64"),
    ({"log_probs": X[0, 0]}, ValueError, r"log_probs must have shape \(T, batch, classes\) or \(T, classes\), but"),
    ({"log_probs": X[:0]}, ValueError, r"log_probs must not be empty, but its shape is \(0, 2, 4\)"),
    ({"log_probs": X[:, :0]}, ValueError, "log_probs must not be empty"),
    ({"targets": X[0, :, :2]}, TypeError, "targets must be whole numbers, but their type is torch.float32"),
    ({"targets": "ab"}, TypeError, "targets must be a tensor or a sequence of whole numbers, but it is 'ab'"),
    ({"targets": [[1, 2]]}, ValueError, r"targets must have shape \(2, S\), padded, or .* shape is \(1, 2\)"),
    ({"targets": [[[1]], [[2]]]}, ValueError, r"targets must have shape .*, but their shape is \(2, 1, 1\)"),
    ({"targets": 3}, ValueError, r"targets must have shape .*, but their shape is \(\)"),
    ({"targets": [1, 2, 3]}, ValueError, "target_lengths must sum to .* targets, 3, but they sum to 4"),
    ({"targets": [[1, 2], [3, 4]]}, ValueError, "classes from 0 to 3 other than the blank, 0, but 4 is among"),
    ({"targets": [[1, -1], [3, 2]]}, ValueError, "classes from 0 to 3 other than the blank, 0, but -1 is among"),
    ({"targets": [1, 2, 3, 0]}, ValueError, "classes from 0 to 3 other than the blank, 0, but 0 is among"),
    ({"blank": 3}, ValueError, "classes from 0 to 3 other than the blank, 3, but 3 is among"),
    ({"blank": 4}, ValueError, "blank must be a class from 0 to 3, but it is 4"),
    ({"blank": -1}, ValueError, "blank must be a class from 0 to 3, but it is -1"),
    ({"blank": 0.0}, TypeError, "blank must be a class, a whole number, but it is 0.0"),
    ({"blank": True}, TypeError, "blank must be a class, a whole number, but it is True"),
    ({"input_lengths": [6, 7]}, ValueError, "input_lengths must lie between 0 and 6, but they range from 6 to 7"),
    ({"input_lengths": [-1, 6]}, ValueError, "input_lengths must lie between 0 and 6, but they range from -1 to 6"),
    ({"input_lengths": [6]}, ValueError, r"input_lengths must have shape \(2,\), one for each pair, but .* \(1,\)"),
    ({"input_lengths": 6}, ValueError, r"input_lengths must have shape \(2,\), .*, but its shape is \(\)"),
    ({"input_lengths": [5.5, 6]}, TypeError, "input_lengths must be whole numbers, but their type is torch.float32"),
    ({"input_lengths": None}, TypeError, "input_lengths must be a tensor or a sequence .*, but it is None"),
    ({"target_lengths": [2, 3]}, ValueError, "target_lengths must lie between 0 and 2, but they range from 2 to 3"),
    ({"target_lengths": [-1, 2]}, ValueError, "target_lengths must lie between 0 and 2, but they range from -1 to 2"),
    ({"target_lengths": [[2], [2]]}, ValueError, r"target_lengths must have shape \(2,\), .* \(2, 1\)"),
    ({"target_lengths": None}, TypeError, "target_lengths must be a tensor or a sequence .*, but it is None"),
]


@pytest.mark.parametrize(("changes", "kind", "match"), BAD)
@pytest.mark.parametrize("function", [ctc_loss, ctc_alignment])
def test_bad_arguments(function, changes, kind, match):
    assert_one_sentence(kind, match, lambda: function(**(GOOD | changes)))


@pytest.mark.parametrize(
    ("settings", "kind", "match"),
    [
        ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', but it is 'average'"),
        ({"zero_infinity": 1}, TypeError, "zero_infinity must be True or False, but it is 1"),
        ({"blank": -1}, ValueError, "blank must be a class .*, but it is -1"),
        ({"blank": "a"}, TypeError, "blank must be a class, a whole number, but it is 'a'"),
    ],
)
def test_bad_settings(settings, kind, match):
    assert_one_sentence(kind, match, lambda: CTCLoss(**settings))
    assert_one_sentence(kind, match, lambda: ctc_loss(**(GOOD | settings)))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"spans": torch.tensor([[6, 7], [0, 2], [2, 2]])}, "Input lengths must be at most 6"),
        ({"spans": torch.tensor([[6, 6], [0, 3], [2, 2]])}, "among 4 labels"),
        ({"spans": torch.tensor([[6, 6], [0, 2], [2, -1]])}, "among 4 labels"),
        ({"spans": torch.tensor([[6, 6], [-1, 2], [2, 2]])}, "among 4 labels"),
        ({"spans": torch.tensor([[6], [0], [2]])}, r"spans must have shape \(3, 2\)"),
        ({"targets": torch.tensor([1, 2, 3, 4])}, "targets must be classes from 0 to 3"),
        ({"targets": torch.tensor([1, 2, 3, -1])}, "targets must be classes from 0 to 3"),
        ({"blank": 4}, "blank be a class"),
        ({"states": 4}, "twice the longest and one more"),
    ],
)
def test_the_operator_refuses_what_its_kernel_would_read_beyond(changes, match):
    fine = {"log_probs": torch.zeros(6, 2, 4), "targets": torch.tensor([1, 2, 3, 1]),
            "spans": torch.tensor([[6, 6], [0, 2], [2, 2]]), "blank": 0, "zero_infinity": False,
            "want_gradient": True, "states": 5}  # fmt: skip
    sweep_ctc(**fine)
    with pytest.raises(ValueError, match=match):
        sweep_ctc(**(fine | changes))
