"""Omega of Eq. 3: what it costs to align step h of a prediction with step j of its target.

``h < j`` is *early*: what happens in the target at j happens in the prediction before. ``h > j`` is *late*.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .checks import check_length, check_weight, has_values
from .kernels.operators import is_recorded
from .pairs import Pairs


@dataclass(frozen=True)
class AsymmetricOmega:
    """``Omega(h, j) = weight * (|h - j| / k)**power`` with a weight for early and another one for late steps.

    The paper proposes it in section 3.2: where a late warning is worse than an early one, let it cost more. With two
    lengths N and M, ``k`` is ``sqrt(N * M)``; in a padded batch the true lengths of the pair count. The prediction
    comes first: exchanging prediction and target exchanges ``early`` and ``late``.

    Args:
        early: weight where h < j: the prediction is ahead of its target. From 0 to 1e100.
        late: weight where h > j: the prediction lags behind. From 0 to 1e100.
        power: how the cost grows with the distance in time, from 0 to 30, which no horizon makes overflow; the
            paper's Omega has 2.

    Raises:
        TypeError, ValueError: for weights that are no such numbers.
    """

    early: float = 1.0
    late: float = 1.0
    power: float = 2.0

    def __post_init__(self):
        for name, most in (("early", 1e100), ("late", 1e100), ("power", 30.0)):
            # A float: powers in the type of a NumPy scalar overflow, and equal objects share what is kept.
            object.__setattr__(self, name, check_weight(name, getattr(self, name), most))

    def by_lag(self, N: int, M: int, device: torch.device | None = None) -> Tensor:
        """``weight * |h - j|**power`` at ``h - j + M - 1``, (N + M - 1,) float64, not yet divided by ``k**power``."""
        return self.at(torch.arange(1 - M, N, dtype=torch.float64, device=device))

    def at(self, lag: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """``weight * |lag|**power`` of float64 lags ``h - j``, in float64 whatever torch's default dtype is."""
        power = abs(lag) ** self.power
        return self.early * power * (lag < 0) + self.late * power * (lag > 0)


NAMED = {"squared": AsymmetricOmega(), "absolute": AsymmetricOmega(power=1.0)}
Omega = str | AsymmetricOmega | Tensor


def squared_omega(N: int, M: int, device: torch.device | None = None) -> Tensor:
    """Omega of Eq. 3, ``(h - j)**2 / k**2`` (with N * M for k**2 where the lengths differ).

    Args:
        N: length of the prediction.
        M: length of the target.
        device: where the result is wanted.

    Returns:
        (N + M - 1,) float64: Omega depends on h - j alone, and this is its value at ``h - j + M - 1``.

    Raises:
        TypeError, ValueError: for lengths that are no whole numbers of at least 1.
    """
    N, M = check_length("N", N), check_length("M", M)
    return NAMED["squared"].by_lag(N, M, device) / (N * M)


class Penalty(NamedTuple):
    """Omega in the form that the sweeps take."""

    values: Tensor  # (N + M - 1,), Omega at h - j + M - 1, or (1, N, M); float64
    scale: Tensor | None  # (B,) float64, its factor for each pair; None where that is one


def check_omega(omega: Omega, divergence: bool) -> Omega:
    """Return what a user gave as Omega: a name, a formula, or the matrix itself."""
    if isinstance(omega, AsymmetricOmega) or (isinstance(omega, str) and omega in NAMED):
        return omega
    if not isinstance(omega, Tensor):
        allowed = f"one of {', '.join(map(repr, NAMED))}, an AsymmetricOmega or an (N, M) tensor"
        raise (ValueError if isinstance(omega, str) else TypeError)(f"omega must be {allowed}, but it is {omega!r}.")
    if not omega.is_floating_point():
        raise TypeError(f"omega must be a floating-point tensor, but its type is {omega.dtype}.")
    if omega.dim() != 2 or omega.numel() == 0:
        raise ValueError(f"omega must have shape (N, M), but its shape is {tuple(omega.shape)}.")
    if divergence and omega.shape[0] != omega.shape[1]:
        raise ValueError(
            "omega must be square where divergence=True, which aligns each series with itself, but its shape is "
            f"{tuple(omega.shape)}."
        )
    if has_values(omega) and not omega.isfinite().all():
        raise ValueError("omega must be finite, but it holds inf or NaN; to forbid cells use band.")
    return omega


def penalty(omega: Omega, pairs: Pairs) -> Penalty:
    """Omega for these pairs; a formula is divided by the true lengths of each pair, a matrix is taken as it is."""
    N, M = pairs.x.shape[1], pairs.y.shape[1]
    device = pairs.x.device
    omega = NAMED[omega] if isinstance(omega, str) else omega
    if isinstance(omega, AsymmetricOmega):
        n, m, _ = pairs.lattice
        if n is None and m is None:
            fixed = type(N) is type(M) is int and not torch.compiler.is_compiling()
            # A formula of a class of one's own is not kept: it may be equal to another one, and differ.
            if fixed and not is_recorded() and type(omega) is AsymmetricOmega:
                if device.type == "cpu":
                    return Penalty(torch.from_numpy(_by_lag_on_cpu(omega, N, M)), None)
                if device.type == "cuda" and (kept := _by_lag_on_gpu(device, omega, N, M)) is not None:
                    return Penalty(kept, None)
            by_lag = omega.by_lag(N, M, device)
            cells = by_lag.new_ones(()) * N * M  # float64, also where torch.jit.trace makes tensors of sizes
            of_size = Penalty(by_lag * cells ** (-omega.power / 2), None)
            # A graph of make_fx keeps the constant; a matrix fits no other sizes, where lags fit all of one N + M.
            return Penalty(omega_matrix(of_size, N, M), None) if fixed and is_recorded() else of_size
        cells = (N if n is None else n) * (M if m is None else m)
        return Penalty(omega.by_lag(N, M, device), cells.double() ** (-omega.power / 2))
    if omega.shape != (N, M):
        raise ValueError(
            f"omega has shape {tuple(omega.shape)}, but to compare series of {N} and {M} steps it must have "
            f"({N}, {M})."
        )
    if omega.device != device:
        raise ValueError(f"omega is on {omega.device}, but the series are on {device}: move the loss with .to().")
    return Penalty(omega.double().unsqueeze(0), None)


@lru_cache(maxsize=64)
def _by_lag_on_cpu(omega: AsymmetricOmega, N: int, M: int) -> np.ndarray:
    """``omega.by_lag`` divided by ``k**power``: a cached array takes 2 us a call, torch's operations take 22.

    NumPy from the start, so that torch's transforms, modes and defaults have no influence on what is cached.
    """
    return omega.at(np.arange(1 - M, N, dtype=np.float64)) * (N * M) ** (-omega.power / 2)


_kept: dict[tuple, Tensor] = {}
_MOST_KEPT = 256


def _by_lag_on_gpu(device: torch.device, omega: AsymmetricOmega, N: int, M: int) -> Tensor | None:
    """The same on a GPU, where it takes some small launches a call; None where it must be made anew.

    Nothing that has been kept is ever freed: a CUDA graph or another stream may still read it. So there is a limit,
    beyond which sizes are not kept. A size that is new while a CUDA graph is captured is not kept either.
    """
    key = device, omega, N, M
    if key not in _kept:
        if len(_kept) >= _MOST_KEPT or is_recorded() or torch.cuda.is_current_stream_capturing():
            return None
        with torch.inference_mode(False):  # a tensor made in inference mode could not be saved for a backward pass
            _kept[key] = torch.from_numpy(_by_lag_on_cpu(omega, N, M)).to(device)
    return _kept[key]


def crop(values: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Omega of the first cells ``new = (N, M)`` from one of ``old`` cells."""
    if values.dim() == 3:
        return values[:, : new[0], : new[1]]
    return values[old[1] - new[1] : old[1] + new[0] - 1]


def omega_matrix(omega: Penalty, N: int, M: int) -> Tensor:
    """Omega as (B, N, M), from either of its two forms and its factors."""
    values = omega.values
    if values.dim() == 1:
        offsets = torch.arange(N, device=values.device)[:, None] - torch.arange(M, device=values.device) + M - 1
        values = values[offsets].unsqueeze(0)
    return values if omega.scale is None else values * omega.scale.reshape(-1, 1, 1)
