"""The two sweeps as PyTorch operators, dispatched by the device of their tensors.

Each operator runs the recursions once and returns everything that was asked for. Neither has a derivative of its
own: :mod:`loss.series`, :mod:`loss.soft_dtw` and :mod:`loss.path_soft_dtw` wrap them in autograd Functions.
"""

import warnings

import torch
from torch import Tensor

from . import cpu

# The package may be imported under two names, as `loss` in the clone and as `dilate_loss`; each has its operators.
_NAMESPACE = __package__.rpartition(".")[0].replace(".", "_")

_Eight = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
_Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op(f"{_NAMESPACE}::series", mutates_args=(), device_types="cpu")
def series(
    x: Tensor,
    y: Tensor,
    gamma: Tensor,
    omega: Tensor,
    omega_scale: Tensor,
    n: Tensor,
    m: Tensor,
    band: int,
    cost_scale: float,
    omega_in_cost: float,
    dual: bool,
    want_x: bool,
    want_y: bool,
    want_gamma: bool,
) -> _Eight:
    """Soft-DTW of two series, on dual numbers, without a cost matrix.

    The cost of a cell is ``cost_scale * |x_i - y_j|**2 + omega_in_cost * Omega``.

    Args:
        x: (B, N, C) predictions, float32 or float64.
        y: (B, M, C) targets of the same type.
        gamma: 0-d float64, the smoothing.
        omega: float64: (N + M - 1,), Omega at h - j + M - 1; or (1 or B, N, M); or (0,) if it is not used.
        omega_scale: (B,) float64, a factor of Omega for each pair; (0,) for one.
        n: (B,) int64, true lengths of x; (0,) where all are N.
        m: (B,) int64, true lengths of y; (0,) where all are M.
        band: cells with ``|i - j| > band`` are left out; -1 for none.
        cost_scale: see above.
        omega_in_cost: see above.
        dual: sweep the dual part (Eq. 4) too.
        want_x: differentiate by x.
        want_y: differentiate by y.
        want_gamma: differentiate by gamma.

    Returns:
        ``value`` and ``value_dot`` (B,), then their derivatives by x (B, N, C), by y (B, M, C) and by gamma (B,),
        each for ``value`` first; those that were not asked for are empty.
    """
    return cpu.series(x, y, gamma, omega, omega_scale, n, m, band, cost_scale, omega_in_cost, dual, want_x, want_y, want_gamma)  # fmt: skip # noqa: E501


@series.register_fake
def _(x, y, gamma, omega, omega_scale, n, m, band, cost_scale, omega_in_cost, dual, want_x, want_y, want_gamma):
    value = x.new_empty(x.shape[0])
    by_x, by_y = _pair(x, want_x, dual), _pair(y, want_y, dual)
    return value, torch.empty_like(value), *by_x, *by_y, *_by_gamma(value, want_gamma)


@torch.library.custom_op(f"{_NAMESPACE}::matrix", mutates_args=(), device_types="cpu")
def matrix(
    D: Tensor,
    gamma: Tensor,
    omega: Tensor,
    n: Tensor,
    m: Tensor,
    band: int,
    dual: bool,
    want_path: bool,
    want_gamma: bool,
) -> _Six:
    """Soft-DTW of given costs, on dual numbers.

    Args:
        D: (B, N, M) costs, float32 or float64.
        gamma: 0-d float64, the smoothing.
        omega: as for :func:`series`; here any cotangent may stand for it, and ``E_dot`` is then the product of
            the Hessian with it.
        n: (B,) int64, true numbers of rows; (0,) where all are N.
        m: (B,) int64, true numbers of columns; (0,) where all are M.
        band: cells with ``|i - j| > band`` are left out; -1 for none.
        dual: sweep the dual part too.
        want_path: return E and, with ``dual``, E_dot.
        want_gamma: differentiate by gamma.

    Returns:
        ``value``, ``value_dot`` (B,), ``E``, ``E_dot`` (B, N, M), and the derivatives of the values by gamma (B,);
        those that were not asked for are empty.
    """
    return cpu.matrix(D, gamma, omega, n, m, band, dual, want_path, want_gamma)


@matrix.register_fake
def _(D, gamma, omega, n, m, band, dual, want_path, want_gamma):
    value = D.new_empty(D.shape[0])
    return value, torch.empty_like(value), *_pair(D, want_path, dual), *_by_gamma(value, want_gamma)


def _pair(like: Tensor, wanted: bool, dual: bool) -> list[Tensor]:
    return [like.new_empty(like.shape if w else (0, 0, 0)) for w in (wanted, wanted and dual)]


def _by_gamma(value: Tensor, wanted: bool) -> list[Tensor]:
    return [value.new_empty(value.shape if wanted else (0,), dtype=torch.float64) for _ in range(2)]


_warned: set[str] = set()


def has_kernels(device: torch.device) -> bool:
    """True if the sweeps run natively on ``device``; otherwise warn, once for each kind of device."""
    if device.type == "cpu":
        return True
    if device.type not in _warned:
        _warned.add(device.type)
        warnings.warn(
            f"DILATE has no kernels for device '{device.type}': it runs in plain PyTorch there, which is slow.",
            stacklevel=3,
        )
    return False
