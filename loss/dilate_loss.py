"""DILATE, a shape and time distortion loss (Le Guen & Thome, NeurIPS 2019).

The page to read beside the paper::

    Omega(h, j)   = (h - j)**2 / k**2                                   time distortion      loss.omega
    L_shape       = DTW_gamma(Delta)                                    Eq. 2                loss.soft_dtw
    L_temporal    = <A*_gamma, Omega>                                   Eq. 4                loss.path_soft_dtw
    L_DILATE      = alpha * L_shape + (1 - alpha) * L_temporal          Eq. 1                DilateLoss
    L_DILATE^t    = DTW_gamma(alpha * Delta + (1 - alpha) * Omega)      Eq. 5                TangledDilateLoss

Both recursions run over the same rows of the lattice: soft-DTW on dual numbers ``Delta + eps * Omega``, one sweep
forward for the two terms, and one backward for the gradients of both.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels, path_soft_dtw, soft_dtw
from .checks import check_alpha, check_gamma
from .costs import Cost
from .criterion import AlignmentLoss
from .kernels import cpu, lattice, reference
from .kernels.jit import inlined, jit
from .kernels.lattice import BLOCK, CHUNK, MaybeTensor, Wants, allocate, at_V, cells_of, fill, without_padding
from .kernels.operators import (
    Sweep,
    SweepInBackward,
    below_autograd,
    is_differentiated,
    is_exported,
    is_recorded,
    made,
    once_compiled,
    once_differentiable,
    operator,
    register_sweep,
    sweep_on_cuda,
)
from .kernels.simd import SLACK, flush_denormals, restore_denormals
from .omega import Omega, Penalty, check_omega, crop, omega_matrix, penalty
from .pairs import Lattice, Lengths, Pairs, check_pairs, reachable
from .path_soft_dtw import SoftPath
from .soft_dtw import check_costs, soft_dtw_of, soft_dtw_sweep


class DilateTerms(NamedTuple):
    """DILATE and the two terms it is made of."""

    loss: Tensor
    shape: Tensor
    temporal: Tensor


# ----------------------------------------------------------------------- both recursions over the same rows


@inlined
def add_row_to_series(tile, results, d, p, n):
    """(input) E and E_dot of n cells of row d, (output) the sums for the derivatives of both terms by the series."""
    plan, work, lo = tile.plan, tile.work, tile.plan.lo[d]
    for c in range(plan.C):
        at_x, at_y = (c * plan.N + lo) * tile.size + p, (c * plan.M + plan.M - 1 - d + lo) * tile.size + p
        if results.d_x.size > 0:
            arrays = (work.x, work.y, work.E, work.by_x, work.E_dot, work.by_x_dot)
            soft_dtw.add_to_series(arrays, (at_x, at_y, p, at_x), (), n)
        if results.d_y.size > 0:
            arrays = (work.x, work.y, work.E, work.by_y, work.E_dot, work.by_y_dot)
            soft_dtw.add_to_series(arrays, (at_x, at_y, p, at_y), (), n)


@jit
def prepare(tile, problem):
    """V_dot, E_dot and Omega as they are before the first row."""
    plan, work, row = tile.plan, tile.work, tile.plan.longest * tile.size + SLACK
    fill((work.E_dot,), (0,), (0.0,), row)
    fill((work.omega,), (0,), (0.0,), 2 * (problem.omega.size // 2 + 1) * tile.size)
    path_soft_dtw.load_omega(tile, problem)
    fill((work.V_dot, work.E_dot_normalised), (0,), (0.0,), 3 * plan.stride)
    fill((work.by_gamma_dot,), (0,), (0.0,), row if plan.by_gamma else 0)
    fill((work.by_x_dot,), (0,), (0.0,), plan.C * plan.N * tile.size)
    fill((work.by_y_dot,), (0,), (0.0,), plan.C * plan.M * tile.size)


@jit
def forward(tile, problem, results, origin, end):
    """Eq. 2 and Eq. 4: V, q, V_dot, q_dot of the rows from ``origin`` to ``end``, and the values that end there."""
    for d in range(origin, end + 1):
        if problem.D.size > 0 and d % BLOCK == 0:
            lattice.gather_rows(problem.D, problem.D_scale, tile, problem, d, tile.work.Delta_rows)
        if problem.omega_matrix.size > 0 and d % BLOCK == 0:
            omega, scale = problem.omega_matrix, problem.omega_scale
            lattice.gather_rows(omega, scale, tile, problem, d, tile.work.omega_rows)
        soft_dtw.before_row(tile, origin, d)
        path_soft_dtw.before_row(tile, origin, d)
        cells = cells_of(tile, d)[1]
        for p in range(0, cells, CHUNK):
            n = min(CHUNK, cells - p)
            soft_dtw.cost_row(tile, d, p, n)  # Delta
            soft_dtw.forward_row(tile, origin, d, p, n)  # V, q
            path_soft_dtw.forward_row(tile, problem, origin, d, p, n)  # V_dot, q_dot
        soft_dtw.after_row(tile, origin, d)
        path_soft_dtw.after_row(tile, origin, d)
        if d >= tile.first_end:
            soft_dtw.read_values(tile, problem, d, results.value)
            path_soft_dtw.read_values(tile, problem, d, results.value, results.value_dot)
    if end == tile.end:
        work, (at, n) = tile.work, soft_dtw.after_last_row(tile, origin)
        fill((work.q_left, work.q_diagonal, work.q_up, work.q_dot_left, work.q_dot_up), (at,), (0.0,), n)


@jit
def backward(tile, problem, results, origin, end):
    """E and E_dot of the rows from ``end`` down to ``origin``, and the derivatives that are wanted."""
    work = tile.work
    for d in range(end, origin - 1, -1):
        lo, cells = cells_of(tile, d)
        fill((work.E_normalised, work.E_dot_normalised), (at_V(tile, d, lo - 1),), (0.0,), tile.size)
        chunk = CHUNK if d < tile.first_end else max(cells, 1)
        for p in range(0, cells, chunk):
            n = min(chunk, cells - p)
            if d < tile.end:
                path_soft_dtw.backward_row(tile, origin, d, p, n)  # E, E_dot
            if d >= tile.first_end:
                soft_dtw.start_paths(tile, problem, origin, d)
            if p + n == cells:  # the row loop has written behind the row, and sums over series must not notice
                fill((work.E, work.E_dot), (cells,), (0.0,), SLACK)
            add_row_to_series(tile, results, d, p, n)
        fill((work.E_normalised, work.E_dot_normalised), (at_V(tile, d, tile.plan.hi[d] + 1),), (0.0,), tile.size)
        if results.d_D.size > 0:
            lattice.store_row(work.E, work.E_rows, tile, problem, d, end, results.d_D[0])
            if results.d_D.shape[0] > 1:
                lattice.store_row(work.E_dot, work.E_dot_rows, tile, problem, d, end, results.d_D[1])
        if results.d_gamma.size > 0:
            path_soft_dtw.add_entropies(tile, origin, d)


@jit
def sweep(problem, results, plan, work, share, shares):
    """Every ``shares``-th tile of the batch, segment by segment, as :func:`.soft_dtw.sweep` does it."""
    state = flush_denormals()
    for first in range(share * plan.tile, problem.n.size, shares * plan.tile):
        tile = lattice.tile_of(problem, plan, work, first)
        prepare(tile, problem)
        V, V_dot, saved, size, rows, end = work.V, work.V_dot, work.saved, 3 * plan.stride, plan.rows, tile.end
        last = end // rows * rows
        for origin in range(0, last + 1, rows):
            if plan.backward and origin < last:
                lattice.copy(V, 0, saved, origin // rows * 2 * size, size)
                lattice.copy(V_dot, 0, saved, (origin // rows * 2 + 1) * size, size)
            forward(tile, problem, results, origin, min(origin + rows - 1, end))
        for origin in range(last if plan.backward else -1, -1, -rows):
            if origin < last:
                lattice.copy(saved, origin // rows * 2 * size, V, 0, size)
                lattice.copy(saved, (origin // rows * 2 + 1) * size, V_dot, 0, size)
                forward(tile, problem, results, origin, min(origin + rows + 1, end))
            backward(tile, problem, results, origin, min(origin + rows - 1, end))
        if results.d_x.size > 0:
            lattice.store_series(work.by_x, tile, 0, 1, 1.0, results.value, results.d_x[0])
            lattice.store_series(work.by_x_dot, tile, 0, 1, 1.0, results.value, results.d_x[1])
        if results.d_y.size > 0:
            lattice.store_series(work.by_y, tile, plan.M - 1, -1, -1.0, results.value, results.d_y[0])
            lattice.store_series(work.by_y_dot, tile, plan.M - 1, -1, -1.0, results.value, results.d_y[1])
        if results.d_gamma.size > 0:
            lattice.store_by_gamma(work.by_gamma, tile, results.d_gamma[0])
            lattice.store_by_gamma(work.by_gamma_dot, tile, results.d_gamma[1])
        lattice.nan_where_invalid(tile, results)
    restore_denormals(state)


# ----------------------------------------------------------------------- the operator, and Eq. 1


sweep_on_cpu = partial(cpu.run, sweep)


@operator(cpu=sweep_on_cpu, cuda=sweep_on_cuda)
def dilate_sweep(
    x: MaybeTensor,
    y: MaybeTensor,
    D: MaybeTensor,
    gamma: Tensor,
    n: MaybeTensor,
    m: MaybeTensor,
    omega: Tensor,
    omega_scale: MaybeTensor,
    band: int,
    wants: Wants,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Eq. 2 and Eq. 4 of two series, or of given costs, and their derivatives.

    The arguments are those of :func:`.soft_dtw.soft_dtw_sweep`, and Omega in float64: ``omega`` (N + M - 1,) holds
    Omega at h - j + M - 1; or it is (1 or B, N, M), and any matrix may stand there; ``omega_scale`` (B,) is a factor
    of Omega for each pair, None for one.

    Returns:
        ``value`` and ``value_dot`` (B,), then the derivatives, those of ``value`` before those of ``value_dot``: by x
        (2, B, N, C), by y (2, B, M, C), by D (2, B, N, M) and by gamma (2, B), float64. The derivative by Omega is
        that of ``value`` by the costs, which series have too: (1, B, N, M).
    """
    return allocate(x, y, D, gamma, 2, wants)


register_sweep(dilate_sweep)


class Settings(NamedTuple):
    """The arguments of :class:`Dilate` that are no tensors."""

    alpha: float
    band: int
    want_x: bool
    want_y: bool
    want_D: bool
    want_gamma: bool


class Dilate(Sweep):
    """Eq. 1, Eq. 2 and Eq. 4 of each pair, with the derivatives of the terms made in the forward pass.

    Eq. 1 is added up here, where autograd does not look: a node of its graph takes longer than a small sweep. Without
    Omega there is Eq. 2 alone, which the loss then is.
    """

    @staticmethod
    def forward(x, y, D, gamma, omega, omega_scale, n, m, settings):
        """Run the sweep; no ``*arguments``, for torch.compile counts the parameters.

        The arguments are those of :func:`dilate_sweep`, and alpha.

        Returns:
            Loss, shape term and temporal term, each (B,), without Omega the last two empty; and the derivatives of
            shape and temporal term that :func:`dilate_sweep` returns.
        """
        alpha, band, *wants = settings
        with below_autograd():
            if omega is None:
                shape, none, *derivatives = soft_dtw_sweep(x, y, D, gamma, n, m, band, wants)
                return shape, none, none.clone(), *derivatives
            results = dilate_sweep(x, y, D, gamma, n, m, omega, omega_scale, band, wants)
            shape, temporal, *derivatives = results
            return torch.lerp(temporal, shape, alpha), shape, temporal, *derivatives  # Eq. 1

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the derivatives, and what is needed to make them again."""
        ctx.settings = inputs[8]
        ctx.save_for_backward(*inputs[:8], *output[3:])
        ctx.mark_non_differentiable(*output[3:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, g_shape, g_temporal, *_):
        """Scale the derivatives; with ``create_graph=True`` make them again as a function with a derivative."""
        gradients, settings, again = (g, g_shape, g_temporal), ctx.settings, _has_a_graph()
        saved = ctx.saved_tensors  # once, for torch.utils.checkpoint
        inputs, derivatives = saved[:8], saved[8:]
        x, y, D, gamma, omega, scale, n, m = inputs
        if all(gradient is None for gradient in gradients):
            return (None,) * 9
        path = derivatives[2]
        if again:
            terms, of_terms = 1 if omega is None else 2, DilateDerivatives.apply(*inputs, settings)
            derivatives = [of_terms[k : k + terms] for k in range(0, len(of_terms), terms)]
        d_x, d_y, d_D, d_gamma = (
            _combine(gradients, d, settings.alpha, x if D is None else D) if wanted else None
            for wanted, d in zip(ctx.needs_input_grad[:4], derivatives, strict=True)
        )
        d_gamma, d_omega = None if d_gamma is None else d_gamma.sum(), None
        if ctx.needs_input_grad[4]:
            if again:
                costs = _costs(x.double(), y.double(), n, m)[0] if D is None else D
                path = SoftPath.apply(costs, gamma, n, m, settings.band).unsqueeze(0)
            d_omega = _derivative_by_omega(gradients, settings.alpha, made(path, omega)[0], scale, omega)
        if is_recorded():
            d_x, d_y, d_D, d_omega = (
                d if d is None else once_differentiable(d, by)
                for d, by in zip((d_x, d_y, d_D, d_omega), (x, y, D, omega), strict=True)
            )
        return d_x, d_y, d_D, d_gamma, d_omega, None, None, None, None


def _has_a_graph() -> bool:
    """Whether autograd records this backward pass, to differentiate it; torch.compile refuses that by itself."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


class DilateDerivatives(Sweep):
    """The derivatives that :class:`Dilate` makes, as a function with a derivative of its own.

    They come by x, y, D and gamma, each of the shape term first. The second derivative of the shape term is right;
    that of the temporal term, which would be a third one of soft-DTW, is refused.
    """

    @staticmethod
    def forward(x, y, D, gamma, omega, omega_scale, n, m, settings):
        """Run the sweep."""
        derivatives = Dilate.forward(x, y, D, gamma, omega, omega_scale, n, m, settings)[3:]
        terms = 1 if omega is None else 2
        return tuple(term.clone() for d in derivatives for term in d.expand(terms, *d.shape[1:]))

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the inputs."""
        ctx.settings = inputs[8]
        ctx.save_for_backward(*inputs[:8])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *z):
        """The Hessian of Eq. 2 along the incoming gradients z: gradient of ``<z_x, dV / dx> + <z_y, dV / dy>``.

        Of given costs: of ``<z_D, dV / dD>``.
        """
        x, y, D, gamma, omega, _, n, m = ctx.saved_tensors
        terms = 1 if omega is None else 2
        z_x, z_y, z_D = z[0], z[terms], z[2 * terms]
        if ctx.needs_input_grad[4]:
            raise NotImplementedError("A loss with an Omega that is learned can be differentiated once only.")
        if any(of is not None for k, of in enumerate(z) if k % terms or k >= 3 * terms):
            raise NotImplementedError(
                "In reverse mode only the shape term can be differentiated twice, and only by series or costs: "
                "torch.func.hessian and loss.kernels.reference differentiate the other one, too."
            )
        if z_x is None and z_y is None and z_D is None:
            return (None,) * 9
        wants, band = (False, False, True, ctx.needs_input_grad[3]), ctx.settings.band
        by_x = by_y = by_D = None
        if D is not None:
            E, d_gamma = SweepInBackward.apply(dilate_sweep, D, gamma, n, m, z_D.double(), band, wants)
            by_D = E[1]
        else:
            costs, difference = _costs(x.double(), y.double(), n, m)
            direction = _add(None if z_x is None else z_x.unsqueeze(2), None if z_y is None else -z_y.unsqueeze(1))
            Z = (2 * (difference * direction).sum(-1)).double()
            E, d_gamma = SweepInBackward.apply(dilate_sweep, costs, gamma, n, m, Z, band, wants)
            by_difference = 2 * (E[1].unsqueeze(-1) * difference + E[0].unsqueeze(-1) * direction)
            by_x, by_y = by_difference.sum(2).to(x.dtype), -by_difference.sum(1).to(x.dtype)
        return by_x, by_y, by_D, d_gamma[1].sum() if wants[3] else None, *(None,) * 5


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _combine(
    gradients: tuple[Tensor | None, ...], derivatives: Tensor | tuple[Tensor, ...], alpha: float, inputs: Tensor
) -> Tensor | None:
    """The gradient of loss, shape and temporal term together, leaving out what has no incoming gradient."""
    total = None
    made(derivatives[0], inputs)
    for k, weight in enumerate(gradients):
        if weight is not None:
            if k > 0:
                d = derivatives[k - 1]
            else:
                d = derivatives[0] if len(derivatives) == 1 else torch.lerp(derivatives[1], derivatives[0], alpha)
            weight = weight.reshape(-1, *(1,) * (d.dim() - 1))
            total = weight * d if total is None else torch.addcmul(total, weight, d)
    return total


def _costs(x: Tensor, y: Tensor, n: Tensor | None, m: Tensor | None) -> tuple[Tensor, Tensor]:
    """Delta (B, N, M), which the sweep made row by row, and the differences (B, N, M, d) that it is made of."""
    difference = without_padding(x, n).unsqueeze(2) - without_padding(y, m).unsqueeze(1)
    return difference.square().sum(-1), difference


def _derivative_by_omega(
    gradients: tuple[Tensor | None, ...], alpha: float, path: Tensor, omega_scale: Tensor | None, omega: Tensor
) -> Tensor | None:
    """``d L_temporal / d Omega = A*_gamma``, times the incoming gradients and summed over the batch: (1, N, M)."""
    g, _, g_temporal = gradients
    weight = _add(None if g is None else (1 - alpha) * g, g_temporal)
    if weight is None:
        return None
    weight = (weight if omega_scale is None else weight * omega_scale).to(path.dtype)
    with torch.autocast(path.device.type, enabled=False):  # which would make the product in half precision
        return torch.mv(path.flatten(1).mT, weight).reshape(1, *path.shape[1:]).to(omega.dtype)


def dilate_terms(
    pairs: Pairs, gamma: Tensor, omega: Penalty | None, alpha: float, D: Tensor | None = None
) -> DilateTerms:
    """Eq. 1, Eq. 2 and Eq. 4 of each pair.

    Args:
        pairs: the series, their true lengths and their band.
        gamma: 0-d float64 tensor, the smoothing.
        omega: Omega; None for Eq. 2 alone, which the loss then is.
        alpha: weight of the shape term.
        D: (B, N, M) costs of these pairs; None for the squared distances of the series.

    Returns:
        Loss, shape and temporal term, each (B,); without Omega the last two are of no use.
    """
    (x, y, (n, m, band)), (values, scale) = pairs, (None, None) if omega is None else omega
    if band >= 0:
        N, M = new = reachable(*(old := (x.shape[1], y.shape[1])), band)
        x, y, D = x[:, :N], y[:, :M], None if D is None else D[:, :N, :M]
        values = None if values is None else crop(values, old, new)
    learned, compiled = values is not None and is_differentiated(values), torch.compiler.is_compiling()
    if not kernels.has_kernels(x.device) or (learned and is_exported()):
        costs = _costs(reference.widened(x), reference.widened(y), n, m)[0] if D is None else D
        found = _terms_in_torch(costs, gamma, values, scale, alpha, pairs.lattice)
        return found if D is not None else DilateTerms(*(term.to(x.dtype) for term in found))
    if compiled:  # it takes no tensor twice: a series beside itself comes as a view
        y, m = y.view_as(y), None if m is None else m.view_as(m)
    if D is not None:
        x = y = None
    recorded = is_recorded()  # and, but for torch.compile, may be called with series that require grad
    wants = [t is not None and ((recorded and not compiled) or is_differentiated(t)) for t in (x, y, D)]
    wants[2] |= learned
    arguments = (x, y, D, gamma, values, scale, n, m, Settings(alpha, band, *wants, is_differentiated(gamma)))
    if recorded and not learned:  # the operator itself, whose gradient goes with it
        return DilateTerms(*Dilate.forward(*arguments)[:3])
    run = Dilate.apply if any(arguments[-1][2:]) else Dilate.forward
    terms = run(*arguments)[:3]
    return DilateTerms(*(map(once_compiled, terms) if compiled else terms))


def _terms_in_torch(
    D: Tensor, gamma: Tensor, omega: Tensor | None, omega_scale: Tensor | None, alpha: float, lattice: Lattice
) -> DilateTerms:
    """The same of given costs by the readable reference."""
    n, m, band = lattice
    Omega = torch.zeros_like(D) if omega is None else omega_matrix(Penalty(omega, omega_scale), *D.shape[1:])
    shape, temporal = reference.dilate(D, Omega, gamma, band, n, m)
    return DilateTerms(shape if omega is None else alpha * shape + (1 - alpha) * temporal, shape, temporal)  # Eq. 1


# ----------------------------------------------------------------------- the losses


def dilate_of_costs(
    D: Tensor,
    omega: Omega = "squared",
    alpha: float = 0.5,
    gamma: float | Tensor = 0.01,
    *,
    prediction_lengths: Lengths = None,
    target_lengths: Lengths = None,
    band: int | None = None,
) -> DilateTerms:
    """DILATE (Eq. 1) and its two terms for costs of one's own, in one sweep.

    The terms can be differentiated by the costs, by gamma and by Omega, and the shape term twice by the costs.

    Args:
        D: (B, N, M) costs, entry (h, j) for step h of the prediction and step j of the target; float32 or float64
            (half precision is computed in float32). A cost of 1e20 keeps paths out of a cell; infinite costs may
            make the terms NaN.
        omega: as for :class:`DilateLoss`.
        alpha: weight of the shape term, from 0 to 1.
        gamma: smoothing, in units of the costs, > 0; a 0-d tensor may require grad.
        prediction_lengths: (B,) true lengths of the predictions.
        target_lengths: (B,) true lengths of the targets.
        band: Sakoe-Chiba band; None for none.

    Returns:
        Loss, shape and temporal term, each (B,).

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    D, lattice = check_costs(D, prediction_lengths, target_lengths, band)
    sizes = Pairs(D, D.transpose(1, 2), lattice)  # Omega depends on no more of the series than these
    omega = penalty(check_omega(omega, divergence=False), sizes)
    return dilate_terms(sizes, check_gamma(gamma, D), omega, check_alpha(alpha), D)


def dilate_loss(
    outputs: Tensor,
    targets: Tensor,
    alpha: float = 0.5,
    gamma: float | Tensor = 0.01,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The released code's function: DILATE (Eq. 1) and its two terms, as batch means.

    The released ``main.py`` calls it as ``dilate_loss(target, outputs, ...)``; the value and the gradients are the
    same either way, because Omega is symmetric here. For another Omega use :class:`DilateLoss`, which takes the
    prediction first.

    Args:
        outputs: (B, k, d) one of the two series.
        targets: (B, k, d) the other one.
        alpha: weight of the shape term, from 0 to 1.
        gamma: smoothing, in squared units of the data, > 0; a 0-d tensor may require grad.
        device: ignored; the loss is computed where the series are.

    Returns:
        ``loss, loss_shape, loss_temporal``, three scalars.

    Raises:
        TypeError, ValueError: for arguments that are none of these.
    """
    alpha, pairs = check_alpha(alpha), check_pairs(outputs, targets)
    terms = dilate_terms(pairs, check_gamma(gamma, outputs), penalty("squared", pairs), alpha)
    return tuple(term.mean() for term in terms)


class DilateLoss(AlignmentLoss):
    """DILATE as a training criterion, ``alpha * shape + (1 - alpha) * temporal`` (Eq. 1).

    Shapes: prediction (B, N, d) or (B, N), target (B, M, d) or (B, M), float32 or float64 (half precision is
    computed in float32); the result is a scalar, or (B,) with ``reduction="none"``. The gradient is that of the
    value returned. The shape term, and so the loss, may be negative: see ``divergence`` and docs/faq.md.

    Args:
        alpha: weight of the shape term, from 0 to 1; 0.5 in the paper, 0.8 for its Traffic data.
        gamma: smoothing, in squared units of the data, > 0; the paper uses 0.01 for series of about unit scale. A
            tensor or a parameter with one number may require grad: see :class:`loss.criterion.AlignmentLoss`.
        reduction: "mean", "sum" or "none", over the batch.
        omega: what time distortion costs: "squared" (the paper), "absolute", an :class:`AsymmetricOmega`, or an
            (N, M) tensor, entry (h, j) for step h of the prediction and step j of the target. A tensor is a buffer,
            a parameter is learned (its gradient is ``(1 - alpha) A*_gamma``); neither is divided by anything.
        band: Sakoe-Chiba band: step h is aligned with step j only where ``|h - j| <= band``; None for no band.
        per_channel: align each variable on its own and take the mean over the variables. By default all variables
            are aligned together, by the squared Euclidean distance of their vectors.
        cost: Delta: "squared", the squared Euclidean distance (the paper); "absolute", the sum of ``|x - y|``;
            "cosine", one minus the cosine of the angle; or a function or module ``(prediction, target) -> (B, N, M)``
            that autograd can differentiate, whose parameters are then those of the loss. All but "squared" make the
            matrix of costs, which takes more time and memory. A function sees the last true step again in place of
            padding, and with ``per_channel`` (B * d, N, 1).
        divergence: make the loss zero where prediction equals target, and nowhere negative. With
            ``D[f] = f(x, y) - (f(x, x) + f(y, y)) / 2`` the shape term is ``max(0, D[Eq. 2])``, the soft-DTW
            divergence (why it needs the maximum is said in :class:`.criterion.AlignmentLoss`), and the temporal term
            ``max(0, D[Eq. 4])``, time distortion beyond what smoothing alone does to either series. Proof: both
            maxima are at least 0, and D is 0 for ``x = y``. The reverse fails: within about ``sqrt(gamma)`` of its
            target a prediction may have loss 0 too. It costs three sweeps in float64 instead of one.
        infeasible: what a pair is worth that the band leaves no path: "raise" refuses the batch, "inf" and "zero"
            are the value of that pair (:class:`.criterion.AlignmentLoss`).

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series or lengths when called.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float | Tensor = 0.01,
        reduction: str = "mean",
        *,
        omega: Omega = "squared",
        band: int | None = None,
        per_channel: bool = False,
        divergence: bool = False,
        cost: Cost = "squared",
        infeasible: str = "raise",
    ):
        super().__init__(gamma, reduction, band, per_channel, divergence, cost, infeasible)
        self.alpha, self.omega = alpha, omega

    def _check_omega(self, omega: Omega) -> Omega:
        return check_omega(omega, self.divergence)

    def _terms(self, pairs: Pairs) -> DilateTerms:
        gamma, omega = check_gamma(self.gamma, pairs.x), penalty(self.omega, pairs)
        D = None if self.cost == "squared" else self._other_costs(pairs)
        return dilate_terms(pairs, gamma, omega, self.alpha, D)

    def _debiased(self, pairs: Pairs) -> DilateTerms:
        _, shape, temporal = super()._debiased(pairs)
        shape, temporal = shape.relu(), temporal.relu()
        return DilateTerms(self.alpha * shape + (1 - self.alpha) * temporal, shape, temporal)  # Eq. 1

    def components(
        self,
        prediction: Tensor,
        target: Tensor,
        prediction_lengths: Lengths = None,
        target_lengths: Lengths = None,
    ) -> DilateTerms:
        """Return the loss with its shape and its temporal term, all reduced; the arguments are those of a call."""
        return DilateTerms(*self.forward(prediction, target, prediction_lengths, target_lengths, all_terms=True))


class SoftDTWLoss(AlignmentLoss):
    """Soft-DTW between predicted and true series, as a training criterion (Eq. 2).

    Shapes: prediction (B, N, d) or (B, N), target (B, M, d) or (B, M), float32 or float64 (half precision is
    computed in float32); the result is a scalar, or (B,) with ``reduction="none"``. The loss may be negative: see
    ``divergence`` and docs/faq.md.

    Args:
        gamma: smoothing, in squared units of the data, > 0; the paper uses 0.01. A tensor or a parameter with one
            number may require grad: see :class:`loss.criterion.AlignmentLoss`.
        reduction: "mean", "sum" or "none", over the batch.
        band: Sakoe-Chiba band: step h is aligned with step j only where ``|h - j| <= band``; None for no band.
        per_channel: align each variable on its own and take the mean over the variables. By default all variables
            are aligned together, by the squared Euclidean distance of their vectors.
        cost: as for :class:`DilateLoss`.
        divergence: the soft-DTW divergence: zero where prediction equals target, and negative at most slightly, near
            there (:class:`.criterion.AlignmentLoss`). It costs three sweeps in float64 instead of one.
        infeasible: as for :class:`DilateLoss`.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series or lengths when called.
    """

    def __init__(
        self,
        gamma: float | Tensor = 0.01,
        reduction: str = "mean",
        *,
        band: int | None = None,
        per_channel: bool = False,
        divergence: bool = False,
        cost: Cost = "squared",
        infeasible: str = "raise",
    ):
        super().__init__(gamma, reduction, band, per_channel, divergence, cost, infeasible)

    def _terms(self, pairs: Pairs) -> tuple[Tensor]:
        gamma = check_gamma(self.gamma, pairs.x)
        if self.cost == "squared":
            return dilate_terms(pairs, gamma, None, 1.0)[:1]  # Eq. 2
        return (soft_dtw_of(self._other_costs(pairs), gamma, pairs.lattice),)


class TangledDilateLoss(AlignmentLoss):
    """DILATE^t, soft-DTW of the cost ``alpha * Delta + (1 - alpha) * Omega`` (Eq. 5).

    The paper's two versions: *weighted* (DILATE^t-W), with an Omega that grows with ``|h - j|``, and *band*
    (DILATE^t-BC), ``TangledDilateLoss(omega=None, band=T)``: Omega is 0 where ``|h - j| <= T``, else infinite. Both
    at once are possible. Shapes and the sign of the value are as for :class:`SoftDTWLoss`. The cost matrices
    (B, N, M) and the differences (B, N, M, d) are made in float64, which takes more time and memory than the other
    losses do.

    Args:
        alpha: weight of Delta in the cost, from 0 to 1; what the paper used is not said there.
        gamma: as for :class:`DilateLoss`.
        reduction: "mean", "sum" or "none", over the batch.
        omega: as for :class:`DilateLoss`, or None for the band alone. A parameter is learned here too.
        band: Sakoe-Chiba band, T in the paper.
        per_channel: align each variable on its own and take the mean over the variables.
        cost: as for :class:`DilateLoss`.
        divergence: subtract half of the loss of each series with itself (see :class:`.criterion.AlignmentLoss`), so
            that the loss is zero where prediction equals target. With ``omega="squared"`` this is the soft-DTW
            divergence of series that carry the scaled time as one more variable, since the cost is their squared
            distance. It may be slightly negative, as all soft-DTW divergences of that cost.
        infeasible: as for :class:`DilateLoss`.

    Raises:
        ValueError, TypeError: for bad settings here, and for bad series or lengths when called.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float | Tensor = 0.01,
        reduction: str = "mean",
        *,
        omega: Omega | None = "squared",
        band: int | None = None,
        per_channel: bool = False,
        divergence: bool = False,
        cost: Cost = "squared",
        infeasible: str = "raise",
    ):
        super().__init__(gamma, reduction, band, per_channel, divergence, cost, infeasible)
        self.alpha, self.omega = alpha, omega
        self._check_penalty()

    def _check_penalty(self) -> None:
        if self.omega is None and self.band is None:
            raise ValueError("omega may be None only beside a band, but band is None too: see SoftDTWLoss.")

    def _check_omega(self, omega: Omega | None) -> Omega | None:
        return None if omega is None else check_omega(omega, self.divergence)

    def _terms(self, pairs: Pairs) -> tuple[Tensor]:
        self._check_penalty()  # either may have been changed
        n, m, _ = pairs.lattice
        if self.cost == "squared":
            x, y = (reference.widened(s) for s in pairs[:2])  # a float32 cost would cost the gradient its last digits
            D = self.alpha * _costs(x, y, n, m)[0]
        else:
            D = self.alpha * self._other_costs(pairs)
        if self.omega is not None:
            Omega = omega_matrix(penalty(self.omega, pairs), *D.shape[1:])
            D = D + (1 - self.alpha) * Omega.to(D.dtype)
        return (soft_dtw_of(D, check_gamma(self.gamma, pairs.x), pairs.lattice),)  # Eq. 5
