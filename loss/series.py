"""Eq. 2 and Eq. 4 for pairs of series at once, in two sweeps and without a cost matrix.

Soft-DTW run on dual numbers ``Delta + eps * Omega`` gives the shape term and, as the coefficient of eps, the
temporal term; reverse mode through it gives the gradients of both (see :mod:`loss.kernels.tile`). The forward pass
makes the gradients right away, while the sweep's tables are still in the cache: the backward pass only scales them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels
from .kernels import reference
from .kernels.operators import below_autograd, is_exported, is_recorded
from .omega import Penalty, crop, omega_matrix
from .pairs import Pairs, without_padding


class Settings(NamedTuple):
    """The arguments of :func:`loss.kernels.series` that are no tensors."""

    band: int
    cost_scale: float
    omega_in_cost: float
    dual: bool
    weights: tuple[float, float] | None
    want_x: bool
    want_y: bool
    want_gamma: bool


class _Sweep(torch.autograd.Function):
    """A Function that is called with all its arguments, by position."""

    generate_vmap_rule = True

    @classmethod
    def apply(cls, *args):
        """As ever, but for looking up the arguments' names, which takes as long as a small sweep."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        return super(torch.autograd.Function, cls).apply(*args)


class SeriesSweep(_Sweep):
    """The results of :func:`loss.kernels.series`, of which the two values are differentiable."""

    @staticmethod
    def forward(x, y, gamma, omega, omega_scale, n, m, settings):
        """Run the sweeps; no ``*arguments``, for torch.compile counts the parameters."""
        with below_autograd():
            value, *others = kernels.series(x, y, gamma, omega, omega_scale, n, m, *settings)
        return value if settings.weights is None else value.sum(), *others

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the derivatives, and what is needed to make them again."""
        ctx.settings = inputs[7]
        ctx.save_for_backward(*inputs[:7], *output[2:])
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, g_dot, *_):
        """Scale the derivatives; where somebody will differentiate them, make them again as a function."""
        weights, dual = ctx.settings.weights, ctx.settings.dual
        g_dot = g_dot if dual and weights is None else None
        if g is None and g_dot is None:
            return (None,) * 8
        saved = ctx.saved_tensors
        inputs, derivatives = saved[:7], saved[7:]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            six = SeriesDerivatives.apply(*inputs, ctx.settings._replace(weights=None))
            derivatives = six[:2], six[2:4], six[4:]
            if weights is not None:
                g, g_dot = weights[0] * g, weights[1] * g if dual else None
        d_x, d_y, d_gamma = (
            _combine(g, g_dot, d) if wanted else None
            for wanted, d in zip(ctx.needs_input_grad[:3], derivatives, strict=True)
        )
        d_gamma = None if d_gamma is None else d_gamma.sum()
        d_omega = _derivative_by_omega(ctx, inputs, g, g_dot) if ctx.needs_input_grad[3] else None
        return d_x, d_y, d_gamma, d_omega, None, None, None, None


class SeriesDerivatives(_Sweep):
    """The derivatives that :func:`loss.kernels.series` returns, as a function with a derivative of its own.

    There are six, by x, y and gamma, each of the shape term first; those that were not asked for are empty. The
    second derivative of the shape term is right; that of the temporal term, which would be a third one of soft-DTW,
    is refused.
    """

    @staticmethod
    def forward(x, y, gamma, omega, omega_scale, n, m, settings):
        """Run the sweeps."""
        with below_autograd():
            derivatives = kernels.series(x, y, gamma, omega, omega_scale, n, m, *settings)[2:]
        return tuple(d[term].clone() if term < d.shape[0] else d.new_empty(0) for d in derivatives for term in (0, 1))

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the inputs."""
        ctx.settings = inputs[7]
        ctx.save_for_backward(*inputs[:7])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *g_derivatives):
        """The Hessian of Eq. 2 along the incoming gradients."""
        if ctx.needs_input_grad[3]:
            raise NotImplementedError("A loss with an Omega that is learned can be differentiated once only.")
        return (*_second_derivative(ctx, ctx.saved_tensors, g_derivatives), *(None,) * 5)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _combine(g: Tensor | None, g_dot: Tensor | None, d: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """``g * d[0] + g_dot * d[1]``, leaving out what nobody differentiates; g is a number for each pair or for all."""
    if g is not None and not g.dim():
        return g * d[0] if g_dot is None else g * d[0] + g_dot * d[1]
    shape = (-1,) + (1,) * (d[0].dim() - 1)
    if g_dot is None:
        return g.reshape(shape) * d[0]
    temporal = g_dot.reshape(shape) * d[1]
    return temporal if g is None else torch.addcmul(temporal, g.reshape(shape), d[0])


def _costs(ctx, inputs) -> tuple[Tensor, Tensor]:
    """The costs (B, N, M) that the sweep made as it went, and the differences (B, N, M, d) they are made of."""
    x, y, _, omega, omega_scale, n, m = inputs
    difference = without_padding(x, n).unsqueeze(2) - without_padding(y, m).unsqueeze(1)
    D = ctx.settings.cost_scale * difference.square().sum(-1)
    if ctx.settings.omega_in_cost:
        D = D + ctx.settings.omega_in_cost * omega_matrix(Penalty(omega, omega_scale), *D.shape[1:]).to(D.dtype)
    return D, difference


def _derivative_by_omega(ctx, inputs, g: Tensor | None, g_dot: Tensor | None) -> Tensor:
    """``d L_temporal / d Omega = A*_gamma``; in Eq. 5 ``1 - alpha`` times that, for Omega is a part of the cost."""
    from .path_soft_dtw import SoftPath

    D, _ = _costs(ctx, inputs)
    _, _, gamma, omega, omega_scale, n, m = inputs
    path = SoftPath.apply(D, gamma, n, m, ctx.settings.band)
    weight = _add(None if g is None else ctx.settings.omega_in_cost * g, g_dot)
    weight = weight * omega_scale if omega_scale.numel() else weight
    return (weight.reshape(-1, 1, 1) * path).sum(0, keepdim=True).to(omega.dtype)


def _second_derivative(ctx, inputs, g_derivatives):
    """Gradient of ``<z_x, d value / d x> + <z_y, d value / d y>``: the Hessian of Eq. 2 along (z_x, z_y)."""
    gamma, n, m = inputs[2], *inputs[5:]
    z_x, z_x_dot, z_y, z_y_dot, z_gamma, z_gamma_dot = g_derivatives
    if any(z is not None for z in (z_x_dot, z_y_dot, z_gamma, z_gamma_dot)):
        raise NotImplementedError(
            "In reverse mode only the shape term can be differentiated twice, and only by the series: "
            "torch.func.hessian and loss.kernels.reference differentiate the other one, too."
        )
    if z_x is None and z_y is None:
        return None, None, None
    scale = ctx.settings.cost_scale
    D, difference = _costs(ctx, inputs)
    direction = _add(None if z_x is None else z_x.unsqueeze(2), None if z_y is None else -z_y.unsqueeze(1))
    Z = (2 * scale * (difference * direction).sum(-1)).double()
    want_gamma = ctx.needs_input_grad[2]
    _, _, (E, E_dot), d_gamma = kernels.matrix(D, gamma, Z, n, m, ctx.settings.band, True, True, want_gamma)
    by_difference = 2 * scale * (E_dot.unsqueeze(-1) * difference + E.unsqueeze(-1) * direction)
    return by_difference.sum(2), -by_difference.sum(1), d_gamma[1].sum() if want_gamma else None


def _unused_penalty(pairs: Pairs) -> Penalty:
    kind = {"dtype": torch.float64, "device": pairs.x.device}
    return Penalty(torch.empty(0, **kind), torch.empty(0, **kind))


def _cropped(pairs: Pairs, omega: Penalty) -> tuple[Pairs, Penalty]:
    """Leave out padding that no path inside of the band can reach."""
    old = pairs.x.shape[1], pairs.y.shape[1]
    new = pairs.lattice.reachable(*old)
    if new == old:
        return pairs, omega
    pairs = pairs._replace(x=pairs.x[:, : new[0]], y=pairs.y[:, : new[1]])
    return pairs, omega._replace(values=crop(omega.values, old, new)) if omega.values.numel() else omega


def sweep_series(
    pairs: Pairs,
    gamma: Tensor,
    omega: Penalty | None = None,
    alpha: float | None = None,
    weights: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Shape and temporal term of each pair of series, or with ``alpha`` the tangled value of Eq. 5.

    Args:
        pairs: the series, their true lengths and their band.
        gamma: 0-d float64 tensor, the smoothing.
        omega: Omega; None leaves the temporal term out.
        alpha: where given, the cost of a cell is ``alpha * Delta + (1 - alpha) * Omega``, without Omega
            ``alpha * Delta``, and there is no temporal term.
        weights: where given, the first result is the sum of both terms, so weighted, over all pairs, and the second
            one is empty; for where :func:`takes_weights`.

    Returns:
        Eq. 2 (or 5) and Eq. 4, each (B,); without a temporal term the second one is of no use.
    """
    dual = omega is not None and alpha is None
    cost_scale = 1.0 if alpha is None else alpha
    omega_in_cost = 0.0 if alpha is None or omega is None else 1.0 - alpha
    pairs, omega = _cropped(pairs, _unused_penalty(pairs) if omega is None else omega)
    x, y, (n, m, band) = pairs
    if not kernels.has_kernels(x.device):
        return _sweep_in_torch(pairs, gamma, omega, cost_scale, omega_in_cost, dual)
    if torch.compiler.is_compiling():  # it takes no tensor twice: a series beside itself comes as a view
        y, m = y.view_as(y), m.view_as(m)
    *wants, learned = (torch.is_grad_enabled() and t.requires_grad for t in (x, y, gamma, omega.values))
    if is_recorded() and not torch.compiler.is_compiling():  # it may be called with series that require grad
        wants[:2] = True, True
    if learned and is_exported():
        return _sweep_in_torch(pairs, gamma, omega, cost_scale, omega_in_cost, dual)
    settings = Settings(band, cost_scale, omega_in_cost, dual, weights, *wants)
    if is_recorded() and not learned:  # the operator itself, whose gradient goes with it
        return kernels.series(x, y, gamma, *omega, n, m, *settings)[:2]
    if not any(wants) and not learned:
        return SeriesSweep.forward(x, y, gamma, *omega, n, m, settings)[:2]
    return SeriesSweep.apply(x, y, gamma, *omega, n, m, settings)[:2]


def takes_weights(pairs: Pairs, omega: Penalty | None = None) -> bool:
    """Whether :func:`sweep_series` can weight its terms itself, which saves a fifth of a small call.

    Not where the call is recorded: the weights hold the batch size, and a trace would keep it as a constant.
    """
    learned = omega is not None and omega.values.requires_grad
    return kernels.has_kernels(pairs.x.device) and not learned and not is_recorded()


def _sweep_in_torch(
    pairs: Pairs, gamma: Tensor, omega: Penalty, cost_scale: float, omega_in_cost: float, dual: bool
) -> tuple[Tensor, Tensor]:
    """The same by the readable reference."""
    n, m, band = pairs.lattice
    x, y = (reference.widened(without_padding(s, k)) for s, k in ((pairs.x, n), (pairs.y, m)))
    D = cost_scale * (x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1)
    Omega = omega_matrix(omega, *D.shape[1:]).to(D.dtype) if omega.values.numel() else torch.zeros_like(D)
    if omega_in_cost:
        D = D + omega_in_cost * Omega
    terms = reference.dilate(D, Omega if dual else torch.zeros_like(D), gamma, band, n, m)
    return tuple(term.to(pairs.x.dtype) for term in terms)
