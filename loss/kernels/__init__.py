"""What the losses need and no reader of the paper looks for: the lattice, vectors, compilation, CUDA, a reference."""

import importlib.util
import warnings
from functools import cache

import torch
from torch.autograd import forward_ad

_warned: set[str] = set()


def has_kernels(device: torch.device) -> bool:
    """Whether the sweeps run natively now: on the CPU and on CUDA, and elsewhere with a warning in plain PyTorch.

    In plain PyTorch, too, while forward-mode derivatives are taken (``torch.func.jvp``, ``jacfwd``, ``hessian``,
    ``torch.autograd.forward_ad``), of which the kernels have none and the reference those of any order, and in
    :func:`compiled_transforms`.
    """
    if forward_ad._current_level >= 0 or (torch._C._are_functorch_transforms_active() and compiled_transforms()):
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
    try:
        from .cuda import try_out

        try_out()
    except Exception as error:  # of compilers, linkers and drivers, which raise whatever they like
        reason = " ".join(str(error).split())
        return f"they cannot be compiled and loaded ({type(error).__name__}: {reason}); see requirements-cuda.txt"
    return ""
