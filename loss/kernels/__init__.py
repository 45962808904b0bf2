"""The two sweeps as PyTorch operators, dispatched by the device of their tensors.

Each operator runs the recursions once and returns everything that was asked for. Neither has a derivative of its
own: :mod:`loss.series`, :mod:`loss.soft_dtw` and :mod:`loss.path_soft_dtw` wrap them in autograd Functions.
"""

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Optional, Sequence  # noqa: UP035 -- torch 2.5 and 2.6 read no other kind of optional sequence

import torch
from torch import Tensor

from . import cpu
from .operators import operator, without_derivative


def _on_cuda(name: str) -> Callable:
    """A function of :mod:`.cuda`, which is imported when the first tensor on such a device arrives."""

    def run(*arguments):
        from . import cuda

        return getattr(cuda, name)(*arguments)

    return run


@operator(cpu=cpu.series, cuda=_on_cuda("series"))
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
    weights: Optional[Sequence[float]],  # noqa: UP045 -- see the import
    want_x: bool,
    want_y: bool,
    want_gamma: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
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
        weights: where given, ``weights[0] * value + weights[1] * value_dot`` takes the place of ``value``, and there
            is nothing else: this is Eq. 1, with the factor of a mean in it, at no more cost than one of its terms.
        want_x: differentiate by x.
        want_y: differentiate by y.
        want_gamma: differentiate by gamma.

    Returns:
        ``value`` and ``value_dot`` (B,), then the derivatives of ``value`` and, with ``dual`` but no ``weights``, of
        ``value_dot``, one after the other: by x (1 or 2, B, N, C), by y (1 or 2, B, M, C), and by gamma (2, B),
        float64; those that were not asked for are empty.
    """
    apart = weights is None
    value, value_dot = x.new_empty(x.shape[0]), x.new_empty(x.shape[0] if apart else 0)
    d_x, d_y = _of_terms(x, dual and apart, want_x), _of_terms(y, dual and apart, want_y)
    return value, value_dot, d_x, d_y, _of_gamma(value, gamma, want_gamma)


@without_derivative
@operator(cpu=cpu.matrix, cuda=_on_cuda("matrix"))
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
        ``value``, ``value_dot`` (B,), ``E`` and, with ``dual``, ``E_dot`` (1 or 2, B, N, M), and the derivatives of
        both values by gamma (2, B), float64; those that were not asked for are empty.
    """
    value, value_dot = D.new_empty(D.shape[0]), D.new_empty(D.shape[0])
    return value, value_dot, _of_terms(D, dual, want_path), _of_gamma(value, gamma, want_gamma)


def _of_terms(like: Tensor, dual: bool, wanted: bool) -> Tensor:
    return like.new_empty((2 if dual else 1, *like.shape) if wanted else (0,) * 4)


def _of_gamma(value: Tensor, gamma: Tensor, wanted: bool) -> Tensor:
    return gamma.new_empty((2, *value.shape) if wanted else (0, 0))


_warned: set[str] = set()


def has_kernels(device: torch.device) -> bool:
    """True if the sweeps run natively on ``device``; otherwise warn, once for each kind of device."""
    if device.type == "cpu":
        return True
    missing = _missing_for_cuda() if device.type == "cuda" else None
    if missing == "":
        return True
    if device.type not in _warned:
        _warned.add(device.type)
        why = f", because {missing}" if missing else ""
        warnings.warn(
            f"DILATE has no kernels for device '{device.type}'{why}: it runs in plain PyTorch there, which is slow.",
            stacklevel=3,
        )
    return False


# What torch.compiler.assume_constant_result does, but for importing torch's compiler, which takes a second.
has_kernels._dynamo_marked_constant = True


@cache
def _missing_for_cuda() -> str:
    """What keeps the CUDA kernels from running; nothing if they can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed (pip install -r requirements-cuda.txt)"
    from numba import cuda

    if cuda.is_available():
        return ""
    reason = cuda.cuda_error() or "it lacks a compiler, see requirements-cuda.txt"
    return f"numba-cuda cannot use it ({' '.join(reason.split())})"
