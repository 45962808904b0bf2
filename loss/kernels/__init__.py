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
from torch.autograd import forward_ad

from . import cpu
from .operators import differentiable, operator, without_derivative


def _on_cuda(name: str) -> Callable:
    """A function of :mod:`.cuda`, which is imported when the first tensor on such a device arrives."""

    def run(*arguments):
        from . import cuda

        return getattr(cuda, name)(*arguments)

    return run


def _check_lattice(
    shape: tuple[int, int, int],
    gamma: Tensor,
    omega: Tensor,
    omega_scale: Tensor,
    n: Tensor,
    m: Tensor,
    band: int,
    uses_omega: bool,
) -> None:
    """Refuse arrays that a kernel would read beyond: a recorded graph calls an operator without other checks."""
    B, N, M = shape
    lags, matrices = (N + M - 1,), ((1, N, M), (B, N, M))
    if not (omega.shape == lags or omega.shape in matrices or (omega.shape == (0,) and not uses_omega)):
        raise ValueError(
            f"omega must have shape {lags}, {matrices[0]} or {matrices[1]}, but its shape is {tuple(omega.shape)}."
        )
    for name, numbers, dtype in (
        ("omega_scale", omega_scale, torch.float64),
        ("n", n, torch.int64),
        ("m", m, torch.int64),
    ):
        if numbers.shape not in ((0,), (B,)) or numbers.dtype != dtype:
            raise ValueError(
                f"{name} must be {dtype} of shape ({B},) or (0,), not {numbers.dtype} of {tuple(numbers.shape)}."
            )
    if not omega.dtype == gamma.dtype == torch.float64 or gamma.numel() != 1:
        raise ValueError(
            f"gamma must be one number and, like omega, float64, but they are {gamma} and {omega.dtype}."
        )
    if min(shape) < 1 or band > 1 << 62:
        raise ValueError(f"Lattices need cells, and a band of at most 2**62, but they have {shape} and {band}.")
    for name, lengths, longest in (("n", n, N), ("m", m, M)):
        if lengths.numel():
            inside = ((lengths >= 1) & (lengths <= longest)).all()
            torch._assert_async(inside, f"{name} must lie between 1 and {longest}.")


def _series_checked(sweep: Callable) -> Callable:
    def checked(x, y, gamma, omega, omega_scale, n, m, band, cost_scale, omega_in_cost, dual, *others):
        if y.dim() != 3 or x.shape[::2] != y.shape[::2] or x.dtype != y.dtype:
            found = f"{x.dtype} of {tuple(x.shape)} and {y.dtype} of {tuple(y.shape)}"
            raise ValueError(f"x and y must have shapes (B, N, C) and (B, M, C) and one dtype, but they are {found}.")
        shape = (*x.shape[:2], y.shape[1])
        _check_lattice(shape, gamma, omega, omega_scale, n, m, band, dual or omega_in_cost != 0.0)
        return sweep(x, y, gamma, omega, omega_scale, n, m, band, cost_scale, omega_in_cost, dual, *others)

    return checked


def _matrix_checked(sweep: Callable) -> Callable:
    def checked(D, gamma, omega, n, m, band, dual, *others):
        _check_lattice(tuple(D.shape), gamma, omega, gamma.new_empty(0), n, m, band, dual)
        return sweep(D, gamma, omega, n, m, band, dual, *others)

    return checked


@operator(cpu=_series_checked(cpu.series), cuda=_series_checked(_on_cuda("series")))
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


def _keep_derivatives(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.has_weights, ctx.dual = inputs[11] is not None, inputs[10]
    ctx.set_materialize_grads(False)


def _scale_derivatives(ctx, g: Tensor | None, g_dot: Tensor | None, *_) -> tuple[Tensor | None, ...]:
    """The gradient of :func:`series` where a graph calls it that was recorded (``torch.export``, ``make_fx``)."""
    missing = [f"by {name}" for name, wanted, d in zip(("x", "y", "gamma"), ctx.needs_input_grad, ctx.saved_tensors,
                                                        strict=False) if wanted and not d.numel()]  # fmt: skip
    if missing or ctx.needs_input_grad[3] or torch.is_grad_enabled():
        what = " and ".join(missing) or ("by Omega" if ctx.needs_input_grad[3] else "twice")
        raise NotImplementedError(
            f"A recorded loss cannot be differentiated {what}: record it with inputs that require grad, or call "
            "the loss itself."
        )
    g_dot = g_dot if ctx.dual and not ctx.has_weights else None

    def scaled(d: Tensor) -> Tensor:
        terms = [of.reshape(-1, *(1,) * (d.dim() - 2)) * d[k] for k, of in enumerate((g, g_dot)) if of is not None]
        return sum(terms) if terms else torch.zeros_like(d[0])

    d_x, d_y, d_gamma = (
        scaled(d) if wanted else None for wanted, d in zip(ctx.needs_input_grad, ctx.saved_tensors, strict=False)
    )
    return d_x, d_y, None if d_gamma is None else d_gamma.sum(), *(None,) * 12


differentiable(series, _scale_derivatives, _keep_derivatives)


@without_derivative
@operator(cpu=_matrix_checked(cpu.matrix), cuda=_matrix_checked(_on_cuda("matrix")))
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
    """Whether the sweeps run natively now: on the CPU and on CUDA, and elsewhere with a warning in plain PyTorch.

    In plain PyTorch, too, while forward-mode derivatives are taken (``torch.func.jvp``, ``jacfwd``, ``hessian``,
    ``torch.autograd.forward_ad``), of which the kernels have none and the reference those of any order, and in
    :func:`compiled_transforms`.
    """
    if forward_ad._current_level >= 0 or compiled_transforms():
        return False
    if device.type in ("cpu", "meta"):
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


def compiled_transforms() -> bool:
    """Whether ``torch.func`` transforms are traced by ``torch.compile``.

    It then takes the forward pass of a custom Function and not its derivative: gradients would be zero.
    """
    tracing = torch._guards.TracingContext.try_get() is not None  # torch.compiler.is_compiling() says no in torch 2.5
    return tracing and torch._C._are_functorch_transforms_active()


# What torch.compiler.assume_constant_result does, but for importing torch's compiler, which takes a second.
has_kernels._dynamo_marked_constant = compiled_transforms._dynamo_marked_constant = True


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
