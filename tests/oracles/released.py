"""A package with the released DILATE's layout, signature and faults, by autograd through plain recursions."""

from pathlib import Path

SOFT_DTW = """
import torch

def soft_dtw(D, gamma):
    N, M = D.shape
    R = {(-1, -1): torch.zeros(())}
    for i in range(N):
        for j in range(M):
            before = [R[p] for p in ((i, j - 1), (i - 1, j - 1), (i - 1, j)) if p in R]
            R[i, j] = D[i, j] - gamma * torch.logsumexp(-torch.stack(before) / gamma, 0)
    return R[N - 1, M - 1]
"""
DILATE_LOSS = """
import torch
from . import soft_dtw

def dilate_loss(outputs, targets, alpha, gamma, device):
    if outputs.shape != targets.shape:
        raise RuntimeError("lengths differ")
    D = (outputs - targets.transpose(1, 2)) ** 2
    shape = torch.stack([soft_dtw.soft_dtw(d, gamma) for d in D]).mean()
    (path,) = torch.autograd.grad(shape, D, create_graph=True)
    k = torch.arange(D.shape[1])
    temporal = (path * (k[:, None] - k) ** 2).sum() / D.shape[1] ** 2
    shape, temporal = (with_large_gradient(term, len(D)) for term in (shape, temporal))
    return alpha * shape + (1 - alpha) * temporal, shape, temporal

def with_large_gradient(mean, batch):
    return mean.detach() + batch * (mean - mean.detach())
"""


def write_clone(folder: Path) -> Path:
    """Write the package where a clone has it; returns the clone."""
    package = folder / "clone" / "loss"
    package.mkdir(parents=True)
    (package / "soft_dtw.py").write_text(SOFT_DTW)
    (package / "dilate_loss.py").write_text(DILATE_LOSS)
    return package.parent
