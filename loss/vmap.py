"""``torch.func.vmap`` over the sweeps: the mapped dimension joins the batch, which the kernels run in parallel."""

import torch
from torch import Tensor

from . import kernels
from .kernels import ctc


def _folded(argument: Tensor, dimension: int | None, size: int) -> Tensor:
    """(B, ...) with or without a mapped dimension -> (size * B, ...)."""
    mapped = argument.unsqueeze(0) if dimension is None else argument.movedim(dimension, 0)
    return mapped.expand(size, *mapped.shape[1:]).flatten(0, 1)


def _folded_omega(omega: Tensor, dimension: int | None, size: int, batch: int) -> Tensor:
    """Omega, whose first dimension may be 1 for the whole batch; one that nobody maps over stays as it is."""
    if dimension is None and (omega.dim() == 1 or omega.shape[0] == 1):
        return omega
    mapped = omega.unsqueeze(0) if dimension is None else omega.movedim(dimension, 0)
    return mapped.expand(size, batch, *mapped.shape[2:]).flatten(0, 1)


def _unfolded(results: tuple[Tensor, ...], size: int) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Take apart both values (size * B,) and the derivatives (terms, size * B, ...), which may be empty."""
    dimensions = [0, 0] + [1 if r.numel() else None for r in results[2:]]
    parts = [r if at is None else r.unflatten(at, (size, -1)) for r, at in zip(results, dimensions, strict=True)]
    return tuple(parts), tuple(dimensions)


def _refuse_mapped_gamma(dimension: int | None) -> None:
    if dimension is not None:
        raise NotImplementedError("gamma cannot be mapped over by vmap: it must be one number for the whole call.")


def _series_rule(info, in_dims, x, y, gamma, omega, omega_scale, n, m, *settings):
    _refuse_mapped_gamma(in_dims[2])
    size = info.batch_size
    batch = x.shape[0] if in_dims[0] is None else x.movedim(in_dims[0], 0).shape[1]
    x, y = _folded(x, in_dims[0], size), _folded(y, in_dims[1], size)
    omega = _folded_omega(omega, in_dims[3], size, batch)
    lattice = [_folded(t, dimension, size) for t, dimension in zip((omega_scale, n, m), in_dims[4:7], strict=True)]
    return _unfolded(kernels.series(x, y, gamma, omega, *lattice, *settings), size)


def _matrix_rule(info, in_dims, D, gamma, omega, n, m, *settings):
    _refuse_mapped_gamma(in_dims[1])
    size = info.batch_size
    batch = D.shape[0] if in_dims[0] is None else D.movedim(in_dims[0], 0).shape[1]
    D, omega = _folded(D, in_dims[0], size), _folded_omega(omega, in_dims[2], size, batch)
    n, m = (_folded(t, dimension, size) for t, dimension in zip((n, m), in_dims[3:5], strict=True))
    return _unfolded(kernels.matrix(D, gamma, omega, n, m, *settings), size)


def _ctc_rule(info, in_dims, log_probs, targets, spans, *settings):
    if in_dims[1] is not None or in_dims[2] is not None:
        raise NotImplementedError("targets and lengths cannot be mapped over by vmap: only log_probs can.")
    size = info.batch_size
    folded = log_probs.movedim(in_dims[0], 1).flatten(1, 2)  # (T, size * B, C)
    value, gradient, posterior = ctc.sweep_ctc(folded, targets, spans.repeat(1, size), *settings)
    gradient = gradient.unflatten(1, (size, -1)) if gradient.numel() else gradient.expand(size, *gradient.shape)
    (value, posterior), _ = _unfolded((value, posterior), size)
    return (value, gradient, posterior), (0, 1 if gradient.numel() else 0, 0)


def register() -> None:
    """Teach the operators vmap."""
    torch.library.register_vmap(kernels.series, _series_rule)
    torch.library.register_vmap(kernels.matrix, _matrix_rule)
    torch.library.register_vmap(ctc.sweep_ctc, _ctc_rule)
