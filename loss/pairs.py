"""Which cells of an alignment lattice count: true lengths and the Sakoe-Chiba band; and the pairs of series."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_alike, check_lengths, check_tensor, raise_unless
from .kernels.operators import is_recorded

Lengths = Tensor | Sequence[int] | None


class Lattice(NamedTuple):
    """The cells (h, j) with h < n, j < m and |h - j| <= band of each pair; ``band`` is -1 where there is none."""

    n: Tensor | None  # (B,) int64; None where all pairs have the full length
    m: Tensor | None
    band: int


class Pairs(NamedTuple):
    """Predictions x (B, N, d) and targets y (B, M, d), of one type and device, and their lattice."""

    x: Tensor
    y: Tensor
    lattice: Lattice

    def of_predictions(self) -> "Pairs":
        """Each prediction beside itself."""
        return Pairs(self.x, self.x, Lattice(self.lattice.n, self.lattice.n, self.lattice.band))

    def of_targets(self) -> "Pairs":
        """Each target beside itself."""
        return Pairs(self.y, self.y, Lattice(self.lattice.m, self.lattice.m, self.lattice.band))

    def by_variable(self) -> "Pairs":
        """(B, N, d) -> (B * d, N, 1): each variable is a pair of its own."""
        x, y = (s.transpose(1, 2).reshape(-1, s.shape[1], 1) for s in (self.x, self.y))
        n, m, band = self.lattice
        n, m = (None if k is None else k.repeat_interleave(self.x.shape[2]) for k in (n, m))
        return Pairs(x, y, Lattice(n, m, band))


def reachable(N: int, M: int, band: int) -> tuple[int, int]:
    """How much of N x M cells a path can visit: padding far outside of the band is worth no sweep."""
    return (N, M) if band < 0 else (min(N, M + band), min(M, N + band))


def check_lattice(
    shape: tuple[int, int, int],
    device: torch.device,
    prediction_lengths: Lengths,
    target_lengths: Lengths,
    band: int | None,
) -> Lattice:
    """Check the lengths, and that the band leaves every pair of the (B, N, M) lattices a path."""
    B, N, M = shape
    n = m = None
    if prediction_lengths is not None:
        n = check_lengths("prediction_lengths", prediction_lengths, B, N, device)
    if target_lengths is not None:
        m = check_lengths("target_lengths", target_lengths, B, M, device)
    if band is None:
        return Lattice(n, m, -1)
    if n is not None or m is not None:
        longer = (N if n is None else n) - (M if m is None else m)

        def error() -> ValueError:
            worst = longer.abs().argmax()
            return _infeasible(band, *(K if k is None else k[worst].item() for k, K in ((n, N), (m, M))))

        raise_unless(longer.abs() <= band, error, f"band is {band}, but the lengths of a pair differ by more.")
    elif abs(N - M) > band:
        raise _infeasible(band, N, M)
    return Lattice(n, m, band)


def _infeasible(band: int, n: int, m: int) -> ValueError:
    return ValueError(
        f"band is {band}, but to align a prediction of {n} steps with a target of {m} it must be at least "
        f"{abs(n - m)}."
    )


def check_pairs(
    prediction: Tensor,
    target: Tensor,
    prediction_lengths: Lengths = None,
    target_lengths: Lengths = None,
    band: int | None = None,
) -> Pairs:
    """Check series and lengths as a user gives them; (B, N) is read as (B, N, 1)."""
    allowed = "(batch, horizon) or (batch, horizon, variables)"
    x, y = check_tensor("prediction", prediction, allowed, (2, 3)), check_tensor("target", target, allowed, (2, 3))
    if x.dim() == y.dim() == 2:
        x, y = x.unsqueeze(-1), y.unsqueeze(-1)
    check_alike(("prediction", "target"), x, y, {0: "batch size", 2: "number of variables"})
    if prediction_lengths is target_lengths is band is None:
        return Pairs(x, y, Lattice(None, None, -1))
    shape = (x.shape[0], x.shape[1], y.shape[1])
    return Pairs(x, y, check_lattice(shape, x.device, prediction_lengths, target_lengths, band))


def with_paths(pairs: Pairs, band: int) -> tuple[Pairs, Tensor | None]:
    """Bring a band to pairs that have none yet, though it leave some of them no path.

    Returns:
        The pairs, of which those without a path are of one step that does not depend on their series; and which these
        are, (B,), or None where all have one.
    """
    x, y, (n, m, _) = pairs
    if n is m is None and abs(x.shape[1] - y.shape[1]) <= band:
        return Pairs(x, y, Lattice(None, None, band)), None
    if n is m is None and is_recorded() and not torch.compiler.is_compiling():
        raise NotImplementedError(
            f"The band of {band} leaves no pair of these {x.shape[1]} and {y.shape[1]} steps a path, so that a graph "
            "of it would hold a constant, whatever its inputs are: record the loss with series that have a path."
        )
    n, m = (torch.full((s.shape[0],), s.shape[1], device=s.device) if k is None else k for s, k in ((x, n), (y, m)))
    pathless = (n - m).abs() > band
    n, m = (torch.where(pathless, 1, k) for k in (n, m))
    # Different numbers, of which every cost has a derivative.
    x, y = (torch.where(pathless.reshape(-1, 1, 1), number, s) for s, number in ((x, 1.0), (y, 2.0)))
    return Pairs(x, y, Lattice(n, m, band)), pathless
