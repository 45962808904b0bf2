"""The independent truth of the loss tests: every alignment path of a small lattice, written out."""

from functools import cache

import torch
from torch import Tensor


@cache
def all_paths(N: int, M: int) -> Tensor:
    """Every monotone path from (0, 0) to (N-1, M-1) as 0/1 matrices, (paths, N, M), float64."""
    found = []

    def walk(i, j, cells):
        cells = [*cells, (i, j)]
        if (i, j) == (N - 1, M - 1):
            found.append(cells)
        for a, b in ((i, j + 1), (i + 1, j + 1), (i + 1, j)):
            if a < N and b < M:
                walk(a, b, cells)

    walk(0, 0, [])
    paths = torch.zeros(len(found), N, M, dtype=torch.float64)
    for k, cells in enumerate(found):
        for i, j in cells:
            paths[k, i, j] = 1
    return paths


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Delta of (B, N, d) and (B, M, d), step by step."""
    return torch.stack(
        [torch.stack([(x[:, i] - y[:, j]).pow(2).sum(-1) for j in range(y.shape[1])], -1) for i in range(x.shape[1])],
        -2,
    )


def square_omega(N: int, M: int) -> Tensor:
    """Omega of Eq. 3."""
    return torch.tensor([[(h - j) ** 2 / (N * M) for j in range(M)] for h in range(N)], dtype=torch.float64)


def gibbs(D: Tensor, gamma: float | Tensor, paths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Eq. 2 and the probability of each path, for costs (B, N, M): (B,), (B, paths)."""
    paths = all_paths(*D.shape[1:]) if paths is None else paths
    energy = -torch.einsum("pnm,bnm->bp", paths, D) / gamma
    return -gamma * torch.logsumexp(energy, 1), torch.softmax(energy, 1)


def shape_term(D: Tensor, gamma: float | Tensor, paths: Tensor | None = None) -> Tensor:
    """Eq. 2, (B,)."""
    return gibbs(D, gamma, paths)[0]


def alignment(D: Tensor, gamma: float | Tensor) -> Tensor:
    """A*_gamma, (B, N, M)."""
    return torch.einsum("bp,pnm->bnm", gibbs(D, gamma)[1], all_paths(*D.shape[1:]))


def temporal_term(D: Tensor, gamma: float | Tensor, Omega: Tensor, paths: Tensor | None = None) -> Tensor:
    """Eq. 4, (B,)."""
    paths = all_paths(*D.shape[1:]) if paths is None else paths
    return gibbs(D, gamma, paths)[1] @ torch.einsum("pnm,nm->p", paths, Omega)
