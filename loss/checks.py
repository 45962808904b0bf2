"""What the public functions demand of their arguments, each in one sentence."""

import math
import numbers
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

REDUCTIONS = ("mean", "sum", "none")
INFEASIBLE = ("raise", "inf", "zero")
_HALF = (torch.float16, torch.bfloat16)
_SIGNED, _UNSIGNED = (torch.int8, torch.int16, torch.int32, torch.int64), (torch.uint16, torch.uint32, torch.uint64)
_WHOLE = (torch.uint8, *_SIGNED, *_UNSIGNED)
_NO_BAND = 1 << 30  # no series is that long, so a larger band leaves no cell out


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _as_float(value: numbers.Real) -> float:
    """The number in float64, inf where it is too large for that."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_gamma(gamma: float | Tensor, like: Tensor | None = None) -> Tensor:
    """Return gamma, a positive number or a tensor with one that may require grad, as a 0-d float64 tensor.

    The value of a tensor is not read, which would make the host wait for a GPU: where it is not positive and finite,
    the result is NaN, and so is every loss made with it.
    """
    device = None if like is None else like.device
    if isinstance(gamma, Tensor):
        gamma = _check_scalar(gamma).reshape(()).to(device=device, dtype=torch.float64)
        return torch.where((gamma > 0) & (gamma < math.inf), gamma, math.nan)
    if type(gamma) is not float:
        if not _is_number(gamma):
            raise TypeError(f"gamma must be a positive number or a tensor with one, but it is {gamma!r}.")
        gamma = _as_float(gamma)
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma must be a positive finite number, but it is {gamma!r}.")
    return torch.full((), gamma, dtype=torch.float64, device=device)


def _check_scalar(gamma: Tensor) -> Tensor:
    if not gamma.is_floating_point():
        raise TypeError(f"gamma must be a number or a floating-point tensor, but it is a tensor of {gamma.dtype}.")
    if gamma.numel() != 1:
        raise ValueError(f"gamma must be one positive number, but it is a tensor of shape {tuple(gamma.shape)}.")
    return gamma


def check_new_gamma(gamma: float | Tensor) -> float | Tensor:
    """Return gamma as given to a module; here, once, the value of a tensor is looked at as well."""
    checked = check_gamma(gamma)
    if isinstance(gamma, Tensor) and has_values(gamma) and checked.isnan():
        raise ValueError(f"gamma must be a positive finite number, but it is a tensor with {gamma.item()}.")
    return gamma


def check_alpha(alpha: float) -> float:
    """Return alpha, a number in [0, 1]."""
    if not _is_number(alpha):
        raise TypeError(f"alpha must be a number from 0 to 1, but it is {alpha!r}.")
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha must lie between 0 (temporal term alone) and 1 (shape term alone), but it is {alpha}."
        )
    return float(alpha)


def check_weight(name: str, weight: float, most: float) -> float:
    """Return a number from 0 to ``most``."""
    if not _is_number(weight):
        raise TypeError(f"{name} must be a number of at least 0, but it is {weight!r}.")
    value = _as_float(weight)
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be a number from 0 to {most:g}, but it is {value!r}.")
    return value


def check_flag(name: str, flag: bool) -> bool:
    """Return a truth value."""
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, but it is {flag!r}.")
    return flag


def check_reduction(reduction: str) -> str:
    """Return reduction, one of 'mean', 'sum' and 'none'."""
    return check_word("reduction", reduction, REDUCTIONS)


def check_word(name: str, word: str, words: Sequence[str]) -> str:
    """Return one of some words."""
    if not isinstance(word, str) or word not in words:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, but it is {word!r}.")
    return word


def check_band(band: int | None) -> int | None:
    """Return band, None or a number of steps."""
    if band is None:
        return None
    if not _is_whole(band):
        raise TypeError(f"band must be None or a whole number of steps, but it is {band!r}.")
    if band < 0:
        raise ValueError(f"band must be None or a number of steps of at least 0, but it is {band}.")
    return min(int(band), _NO_BAND)


def check_length(name: str, length: int) -> int:
    """Return the length of a series, a whole number of at least 1."""
    if not _is_whole(length):
        raise TypeError(f"{name} must be a whole number of steps, but it is {length!r}.")
    if length < 1:
        raise ValueError(f"{name} must be a number of steps of at least 1, but it is {length}.")
    return int(length)


def check_tensor(name: str, tensor: Tensor, allowed: str, dimensions: tuple[int, ...]) -> Tensor:
    """Return a non-empty floating-point tensor with an allowed number of dimensions; half precision as float32."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, but it is a {type(tensor).__name__}.")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, but its type is {tensor.dtype}.")
    if tensor.dtype not in (*_HALF, torch.float32, torch.float64):
        raise TypeError(f"{name} must have 16, 32 or 64 bits a number, but its type is {tensor.dtype}.")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, but its layout is {tensor.layout}: use .to_dense().")
    if tensor.dim() not in dimensions:
        raise ValueError(f"{name} must have shape {allowed}, but its shape is {tuple(tensor.shape)}.")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must not be empty, but its shape is {tuple(tensor.shape)}.")
    return tensor.float() if tensor.dtype in _HALF else tensor


def check_alike(names: tuple[str, str], x: Tensor, y: Tensor, axes: dict[int, str]) -> None:
    """Demand as many dimensions, the same sizes along ``axes`` (axis -> what it is), one device, one precision."""
    both = " and ".join(names)
    wrong = [what for axis, what in axes.items() if x.shape[axis] != y.shape[axis]] if x.dim() == y.dim() else None
    if wrong or wrong is None:
        what = wrong[0] if wrong else "number of dimensions"
        found = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"{both} must have the same {what}, but their shapes are {found}.")
    if x.device != y.device:
        raise ValueError(f"{both} must share one device, but they have {x.device} and {y.device}.")
    if x.dtype != y.dtype:
        raise ValueError(f"{both} must share one dtype, but they have {x.dtype} and {y.dtype}.")


def raise_unless(condition: Tensor, make_error: Callable[[], ValueError], compiled_message: str) -> None:
    """Raise where a condition on values fails; a compiled graph does so when it runs, with the short sentence."""
    if torch.compiler.is_compiling():
        torch._assert_async(condition.all(), compiled_message)
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(condition):  # vmap: all that is mapped over, at once
        while torch._C._functorch.is_functorch_wrapped_tensor(condition):
            condition = torch._C._functorch.get_unwrapped(condition)
        make_error = partial(ValueError, compiled_message)
    if has_values(condition) and not condition.all():
        raise make_error()


def has_values(tensor: Tensor) -> bool:
    """False for tensors that stand for a shape alone: traced, fake and meta ones; and for those that vmap maps."""
    if torch.compiler.is_compiling():
        return False
    mapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not (tensor.is_meta or isinstance(tensor, FakeTensor) or mapped)


def check_lengths(
    name: str,
    lengths: Tensor | Sequence[int],
    batch: int,
    longest: int,
    device: torch.device,
    shortest: int = 1,
) -> Tensor:
    """Return true lengths, one for each pair, as a (batch,) int64 tensor on ``device``."""
    lengths = whole_numbers(name, lengths)
    if lengths.shape != (batch,):
        raise ValueError(f"{name} must have shape ({batch},), one for each pair, but its shape is "
                         f"{tuple(lengths.shape)}.")  # fmt: skip

    def error() -> ValueError:
        return ValueError(f"{name} must lie between {shortest} and {longest}, but they range from "
                          f"{lengths.min().item()} to {lengths.max().item()}.")  # fmt: skip

    inside = (lengths >= shortest) & (lengths <= longest)
    raise_unless(inside, error, f"{name} must lie between {shortest} and {longest}.")
    return lengths.to(device, copy=True)  # their owner may fill them anew before a second backward pass


def whole_numbers(name: str, numbers: Tensor | Sequence[int]) -> Tensor:
    """Return a tensor of whole numbers, int64, on the device that it has."""
    try:
        # A copy of an array, whose owner may fill it anew before a second backward pass.
        tensor = numbers if isinstance(numbers, Tensor) else torch.tensor(numbers, device="cpu")
    except (TypeError, ValueError, RuntimeError) as reason:
        raise TypeError(f"{name} must be a tensor or a sequence of whole numbers, but it is {numbers!r}.") from reason
    if isinstance(numbers, np.ndarray) and np.ma.is_masked(numbers):
        raise TypeError(f"{name} must be whole numbers without a mask, but it is {numbers!r}.")
    if tensor.numel() == 0 and not isinstance(numbers, Tensor):
        tensor = tensor.long()  # torch makes floating-point numbers of nothing
    if tensor.dtype not in _WHOLE:
        raise TypeError(f"{name} must be whole numbers, but their type is {tensor.dtype}.")
    return tensor.long()  # a comparison in uint8 or int8 would wrap the other number
