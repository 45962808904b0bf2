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


def _shift(row: Tensor, first: float) -> Tensor:
    """Entry i - 1 at place i."""
    return torch.cat([torch.full_like(row[:, :1], first), row[:, :-1]], dim=1)


def dilate(D: Tensor, Omega: Tensor, gamma: float | Tensor, band: int = -1) -> tuple[Tensor, Tensor]:
    """Soft-DTW on dual numbers ``D + eps * Omega``: the value (Eq. 2) and its derivative along Omega (Eq. 4).

    Args:
        D: (B, N, M) costs.
        Omega: (N, M) or (B, N, M) time penalties.
        gamma: smoothing, a number or a 0-d tensor.
        band: cells with ``|i - j| > band`` are left out; -1 for none.

    Returns:
        ``V`` (B,), soft-DTW; ``V_dot`` (B,), the temporal term ``<A*_gamma, Omega>``.
    """
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
    return last[:, -1], last_dot[:, -1]


def soft_dtw(D: Tensor, gamma: float | Tensor, band: int = -1) -> Tensor:
    """Eq. 2: (B, N, M) costs -> (B,) values."""
    return dilate(D, torch.zeros_like(D), gamma, band)[0]


def soft_path(D: Tensor, gamma: float | Tensor, band: int = -1) -> Tensor:
    """A*_gamma, the derivative of Eq. 2 by the costs: (B, N, M) -> (B, N, M)."""
    with torch.enable_grad():
        leaf = D if D.requires_grad else D.detach().requires_grad_()
        (path,) = torch.autograd.grad(soft_dtw(leaf, gamma, band).sum(), leaf, create_graph=D.requires_grad)
    return path
