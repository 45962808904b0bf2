"""The same recursions in plain PyTorch: readable, on any device, differentiable to any order, and slow.

This is the specification of the numba kernels and what the tests hold them against; it also serves devices for
which there is no kernel. Only the anti-diagonals are visited one after the other.
"""

import torch
from torch import Tensor

UNREACHABLE = 1e30


def _rows(D: Tensor, band: int) -> tuple[Tensor, Tensor]:
    """(B, N, M) -> its anti-diagonals (B, N + M - 1, N), and which of their entries lie in the lattice."""
    N, M = D.shape[1:]
    i = torch.arange(N, device=D.device)
    j = torch.arange(N + M - 1, device=D.device)[:, None] - i
    inside = (j >= 0) & (j < M)
    if band >= 0:
        inside &= (i - j).abs() <= band
    return D[:, i, j.clamp(0, M - 1)], inside


def _without_padding(D: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """Zero beyond the true sizes: padding may hold anything, and no path of its pair goes there."""
    i, j = torch.arange(D.shape[1], device=D.device), torch.arange(D.shape[2], device=D.device)
    return torch.where((i < n[:, None])[:, :, None] & (j < m[:, None])[:, None], D, 0.0)


def _at(row: Tensor, i: Tensor) -> Tensor:
    """Entry i[b] of each row b."""
    return row.gather(1, i.unsqueeze(1)).squeeze(1)


def _shift(row: Tensor, first: float) -> Tensor:
    """Entry i - 1 at place i."""
    return torch.cat([torch.full_like(row[:, :1], first), row[:, :-1]], dim=1)


def dilate(
    D: Tensor,
    Omega: Tensor,
    gamma: float | Tensor,
    band: int = -1,
    n: Tensor | None = None,
    m: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-DTW on dual numbers ``D + eps * Omega``: the value (Eq. 2) and its derivative along Omega (Eq. 4).

    Args:
        D: (B, N, M) costs.
        Omega: (N, M) or (B, N, M) time penalties.
        gamma: smoothing, a number or a 0-d tensor.
        band: cells with ``|i - j| > band`` are left out; -1 for none.
        n: (B,) true numbers of rows; all by default.
        m: (B,) true numbers of columns; all by default.

    Returns:
        ``V`` (B,), soft-DTW; ``V_dot`` (B,), the temporal term ``<A*_gamma, Omega>``.
    """
    B, N, M = D.shape
    n = torch.full((B,), N, device=D.device) if n is None else n
    m = torch.full((B,), M, device=D.device) if m is None else m
    D = _without_padding(D, n, m)
    value, value_dot = torch.zeros_like(D[:, 0, 0]), torch.zeros_like(D[:, 0, 0])
    D_rows, inside = _rows(D, band)
    Omega_rows, _ = _rows(Omega.expand(D.shape), band)
    nowhere = torch.full_like(D_rows[:, 0], UNREACHABLE)
    origin = nowhere.clone()
    origin[:, 0] = 0.0  # the path starts at (-1, -1), the diagonal predecessor of (0, 0)
    before_last, last = nowhere, nowhere
    before_last_dot, last_dot = torch.zeros_like(nowhere), torch.zeros_like(nowhere)

    for d in range(D_rows.shape[1]):
        diagonal = origin if d == 0 else _shift(before_last, UNREACHABLE)
        V_p = torch.stack([last, diagonal, _shift(last, UNREACHABLE)])
        V_dot_p = torch.stack([last_dot, _shift(before_last_dot, 0.0), _shift(last_dot, 0.0)])
        q = torch.softmax(-V_p / gamma, dim=0)
        V = D_rows[:, d] - gamma * torch.logsumexp(-V_p / gamma, dim=0)
        V_dot = Omega_rows[:, d] + (q * V_dot_p).sum(0)
        before_last, before_last_dot = last, last_dot
        last = torch.where(inside[d], V, UNREACHABLE)
        last_dot = torch.where(inside[d], V_dot, 0.0)
        ends = n + m - 2 == d
        value = torch.where(ends, _at(last, n - 1), value)
        value_dot = torch.where(ends, _at(last_dot, n - 1), value_dot)
    return value, value_dot


def soft_dtw(
    D: Tensor, gamma: float | Tensor, band: int = -1, n: Tensor | None = None, m: Tensor | None = None
) -> Tensor:
    """Eq. 2: (B, N, M) costs -> (B,) values; the rest as for :func:`dilate`."""
    return dilate(D, torch.zeros_like(D), gamma, band, n, m)[0]


def soft_path(
    D: Tensor, gamma: float | Tensor, band: int = -1, n: Tensor | None = None, m: Tensor | None = None
) -> Tensor:
    """A*_gamma, the derivative of Eq. 2 by the costs: (B, N, M) -> (B, N, M)."""
    with torch.enable_grad():
        leaf = D if D.requires_grad else D.detach().requires_grad_()
        value = soft_dtw(leaf, gamma, band, n, m).sum()
        (path,) = torch.autograd.grad(value, leaf, create_graph=D.requires_grad)
    return path
