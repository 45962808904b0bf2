"""Eq. 2 and Eq. 4 for pairs of series at once, in two sweeps and without a cost matrix.

Soft-DTW run on dual numbers ``Delta + eps * Omega`` gives the shape term and, as the coefficient of eps, the
temporal term; reverse mode through it gives the gradients of both (see :mod:`loss.kernels.cpu`). The forward pass
makes the gradients right away, while the sweep's tables are still in the cache: the backward pass only scales them.
"""

import torch
from torch import Tensor

from . import kernels
from .kernels import reference


class SeriesSweep(torch.autograd.Function):
    """The eight results of :func:`loss.kernels.series`, of which the two values are differentiable."""

    @staticmethod
    def forward(x, y, gamma, *arguments):
        """Run the sweeps."""
        return kernels.series(x, y, gamma, *arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the derivatives, and what is needed to make them again."""
        ctx.arguments = inputs[7:]
        ctx.save_for_backward(*inputs[:7], *output[2:])
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, g_dot, *_):
        """Scale the derivatives; where somebody will differentiate them, make them again as a function."""
        inputs, derivatives = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            derivatives = SeriesDerivatives.apply(*inputs, *ctx.arguments)
        d_x, d_x_dot, d_y, d_y_dot, d_gamma, d_gamma_dot = derivatives
        pairs = ((d_x, d_x_dot), (d_y, d_y_dot), (d_gamma, d_gamma_dot))
        grads = [
            _combine(g, d, g_dot, d_dot) if wanted else None
            for wanted, (d, d_dot) in zip(ctx.needs_input_grad[:3], pairs, strict=True)
        ]
        grads[2] = None if grads[2] is None else grads[2].sum()
        return (*grads, *(None,) * 11)


class SeriesDerivatives(torch.autograd.Function):
    """The derivatives that :func:`loss.kernels.series` returns, as a function with a derivative of its own.

    The second derivative of the shape term is right; that of the temporal term, which would be a third one of
    soft-DTW, is refused.
    """

    @staticmethod
    def forward(x, y, gamma, *arguments):
        """Run the sweeps."""
        return kernels.series(x, y, gamma, *arguments)[2:]

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the inputs."""
        ctx.band, ctx.cost_scale, ctx.omega_in_cost = inputs[7:10]
        ctx.save_for_backward(*inputs[:7])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *g_derivatives):
        """The Hessian of Eq. 2 along the incoming gradients."""
        return (*_second_derivative(ctx, ctx.saved_tensors, g_derivatives), *(None,) * 11)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _combine(g: Tensor | None, d: Tensor, g_dot: Tensor | None, d_dot: Tensor) -> Tensor | None:
    """``g * d + g_dot * d_dot`` over (B, ...), leaving out what nobody differentiates."""
    shape = (-1,) + (1,) * (d.dim() - 1)
    shape_part = None if g is None else g.reshape(shape) * d
    return _add(shape_part, None if g_dot is None else g_dot.reshape(shape) * d_dot)


def _second_derivative(ctx, inputs, g_derivatives):
    """Gradient of ``<z_x, d value / d x> + <z_y, d value / d y>``: the Hessian of Eq. 2 along (z_x, z_y)."""
    x, y, gamma, omega, omega_scale, n, m = inputs
    z_x, z_x_dot, z_y, z_y_dot, z_gamma, z_gamma_dot = g_derivatives
    if any(z is not None for z in (z_x_dot, z_y_dot, z_gamma, z_gamma_dot)):
        raise NotImplementedError(
            "Only the shape term can be differentiated twice, and only by the series: loss.kernels.reference can "
            "be differentiated any number of times."
        )
    if z_x is None and z_y is None:
        return None, None, None
    scale = ctx.cost_scale
    x, y = _without_padding(x, n), _without_padding(y, m)
    difference = x.unsqueeze(2) - y.unsqueeze(1)  # (B, N, M, C)
    direction = _add(None if z_x is None else z_x.unsqueeze(2), None if z_y is None else -z_y.unsqueeze(1))
    D = scale * difference.square().sum(-1)
    if ctx.omega_in_cost:
        D = D + ctx.omega_in_cost * omega_matrix(omega, omega_scale, *D.shape[1:]).to(D.dtype)
    Z = (2 * scale * (difference * direction).sum(-1)).double()
    want_gamma = ctx.needs_input_grad[2]
    _, _, E, E_dot, _, d_gamma = kernels.matrix(D, gamma, Z, n, m, ctx.band, True, True, want_gamma)
    by_difference = 2 * scale * (E_dot.unsqueeze(-1) * difference + E.unsqueeze(-1) * direction)
    return by_difference.sum(2), -by_difference.sum(1), d_gamma.sum() if want_gamma else None


def _without_padding(series: Tensor, lengths: Tensor) -> Tensor:
    inside = torch.arange(series.shape[1], device=series.device) < lengths.unsqueeze(1)
    return torch.where(inside.unsqueeze(-1), series, 0.0)


def omega_matrix(omega: Tensor, omega_scale: Tensor, N: int, M: int) -> Tensor:
    """Omega as (1 or B, N, M), from either of its two forms and its factors."""
    if omega.dim() == 1:
        offsets = torch.arange(N, device=omega.device)[:, None] - torch.arange(M, device=omega.device) + M - 1
        omega = omega[offsets].unsqueeze(0)
    return omega * omega_scale.reshape(-1, 1, 1)


def sweep_series(
    x: Tensor,
    y: Tensor,
    gamma: Tensor,
    omega: Tensor | None = None,
    omega_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Shape and temporal term of each pair of series.

    Args:
        x: (B, N, d) predictions.
        y: (B, M, d) targets, same type and device.
        gamma: 0-d float64 tensor, the smoothing.
        omega: (N + M - 1,) float64, Omega(h, j) at h - j + M - 1; None leaves the temporal term out.
        omega_scale: (B,) float64, a factor of Omega for each pair; ones by default.

    Returns:
        Eq. 2 and Eq. 4, each (B,); without Omega the second one is zero.
    """
    (B, N, _), M = x.shape, y.shape[1]
    dual = omega is not None
    long, double = {"dtype": torch.int64, "device": x.device}, {"dtype": torch.float64, "device": x.device}
    n, m = torch.full((B,), N, **long), torch.full((B,), M, **long)
    omega = torch.zeros(0, **double) if omega is None else omega
    omega_scale = torch.ones(B, **double) if omega_scale is None else omega_scale
    if not kernels.has_kernels(x.device):
        D = (x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1)
        Omega = omega_matrix(omega, omega_scale, N, M).to(D.dtype) if dual else torch.zeros_like(D)
        return reference.dilate(D, Omega, gamma.to(D.dtype))
    wants = [torch.is_grad_enabled() and t.requires_grad for t in (x, y, gamma)]
    return SeriesSweep.apply(x, y, gamma, omega, omega_scale, n, m, -1, 1.0, 0.0, dual, *wants)[:2]
