"""What the public functions demand of their arguments, each in one sentence."""

import math
import numbers

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")
_HALF = (torch.float16, torch.bfloat16)


def check_gamma(gamma: float | Tensor, like: Tensor | None = None) -> Tensor:
    """Return gamma, a positive number or a 0-d tensor that may require grad, as a 0-d float64 tensor."""
    if isinstance(gamma, Tensor):
        if gamma.numel() != 1 or not gamma.is_floating_point():
            raise ValueError(
                f"gamma must be one positive number, but it is a tensor of shape {tuple(gamma.shape)} and type "
                f"{gamma.dtype}."
            )
        return gamma.reshape(()).to(device=like.device if like is not None else None, dtype=torch.float64)
    if isinstance(gamma, bool) or not isinstance(gamma, numbers.Real):
        raise TypeError(f"gamma must be a positive number or a tensor with one, but it is {gamma!r}.")
    if not (gamma > 0 and math.isfinite(gamma)):
        raise ValueError(f"gamma must be a positive finite number, but it is {gamma!r}.")
    return torch.tensor(float(gamma), dtype=torch.float64, device=like.device if like is not None else None)


def check_alpha(alpha: float) -> float:
    """Return alpha, a number in [0, 1]."""
    if isinstance(alpha, bool) or not isinstance(alpha, numbers.Real):
        raise TypeError(f"alpha must be a number from 0 to 1, but it is {alpha!r}.")
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha must lie between 0 (temporal term alone) and 1 (shape term alone), but it is {alpha}."
        )
    return float(alpha)


def check_reduction(reduction: str) -> str:
    """Return reduction, one of 'mean', 'sum' and 'none'."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, but it is {reduction!r}.")
    return reduction


def check_tensor(name: str, tensor: Tensor, allowed: str, dimensions: tuple[int, ...]) -> Tensor:
    """Return a non-empty floating-point tensor with an allowed number of dimensions; half precision as float32."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, but it is a {type(tensor).__name__}.")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, but its type is {tensor.dtype}.")
    if tensor.dim() not in dimensions:
        raise ValueError(f"{name} must have shape {allowed}, but its shape is {tuple(tensor.shape)}.")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must not be empty, but its shape is {tuple(tensor.shape)}.")
    return tensor.float() if tensor.dtype in _HALF else tensor


def check_series(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return prediction (B, N, d) and target (B, M, d) in one precision; (B, N) is read as (B, N, 1)."""
    allowed = "(batch, horizon) or (batch, horizon, variables)"
    prediction = check_tensor("prediction", prediction, allowed, (2, 3))
    target = check_tensor("target", target, allowed, (2, 3))
    if prediction.dim() != target.dim():
        raise ValueError(
            "prediction and target must have the same number of dimensions, but their shapes are "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    if prediction.dim() == 2:
        prediction, target = prediction.unsqueeze(-1), target.unsqueeze(-1)
    for axis, name in ((0, "batch size"), (2, "number of variables")):
        if prediction.shape[axis] != target.shape[axis]:
            raise ValueError(
                f"prediction and target must have the same {name}, but their shapes are {tuple(prediction.shape)} "
                f"and {tuple(target.shape)}."
            )
    for attribute in ("device", "dtype"):
        ours, theirs = getattr(prediction, attribute), getattr(target, attribute)
        if ours != theirs:
            raise ValueError(f"prediction and target must share one {attribute}, but they have {ours} and {theirs}.")
    return prediction, target
