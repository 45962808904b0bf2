"""The contenders: ours, plain PyTorch, public packages if installed, and the released code."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.common import loss_and_gradient
from loss import DilateLoss, SoftDTWLoss
from loss.kernels import reference

GAMMA, ALPHA = 0.01, 0.5
KINDS = {"shape": "shape term", "dilate": "DILATE", "value": "DILATE's value alone"}

Loss = Callable[[Tensor, Tensor], Tensor]  # the mean over the batch


def contenders(kind: str, original: Path | None = None) -> dict[str, Loss]:
    """Name -> loss of every contender that is there, ours first.

    Args:
        kind: A key of ``KINDS``; of the value alone, which is what evaluation needs, ours is the only contender.
        original: A clone of the released DILATE.
    """
    if kind == "value":
        return {"ours": DilateLoss(ALPHA, GAMMA)}
    if kind == "shape":
        found = {name: make(GAMMA) for name, make in peers().items()}
        return {"ours": SoftDTWLoss(GAMMA), "plain PyTorch": plain_loss(kind), **found}
    found = {} if original is None else {"released code": released_loss(original)}
    return {"ours": DilateLoss(ALPHA, GAMMA), "plain PyTorch": plain_loss(kind), **found}


def run(kind: str, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """One call: the loss and its gradient by the prediction, of which the latter is returned, or the value alone."""
    if kind != "value":
        return loss_and_gradient(loss, x, y)[1]
    with torch.no_grad():
        return loss(x, y)


def plain_loss(kind: str) -> Loss:
    """The same by autograd through plain PyTorch, which shares no code with ours."""
    return (lambda x, y: reference_terms(x, y)[0]) if kind == "shape" else reference_dilate


def reference_dilate(x: Tensor, y: Tensor) -> Tensor:
    """DILATE by autograd through plain PyTorch."""
    shape, temporal = reference_terms(x, y)
    return ALPHA * shape + (1 - ALPHA) * temporal


def reference_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the two terms."""
    k = x.shape[1]
    step = torch.arange(k, dtype=x.dtype)
    D = (x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1)
    shape, temporal = reference.dilate(D, (step[:, None] - step) ** 2 / k**2, GAMMA)
    return shape.mean(), temporal.mean()


def peers(cuda: bool = False) -> dict[str, Callable[[float], Loss]]:
    """Name -> the shape term by gamma, of those public packages that are installed (and have a kernel for CUDA)."""
    packages = {
        "tslearn": ("tslearn.metrics", "SoftDTWLossPyTorch", {}),
        "pysdtw": ("pysdtw", "SoftDTW", {"use_cuda": cuda}),
        "ddtw": ("ddtw", "SDTW", {"backend": "cpu_numba", "normalization": "none"}),
    }
    packages = {"pysdtw": packages["pysdtw"]} if cuda else packages
    found = {}
    for name, (module, class_name, options) in packages.items():
        try:
            make = getattr(importlib.import_module(module), class_name)
        except ImportError:
            print(f"{name} is not installed: left out (pip install {name})")
        else:
            found[name] = lambda gamma, make=make, options=options: mean_of(make(gamma=gamma, **options))
    return found


def mean_of(loss: Loss) -> Loss:
    """The mean over the batch."""
    return lambda x, y: loss(x, y).mean()


def released(clone: Path, folder: str, module: str) -> ModuleType:
    """A module of a clone of the released DILATE, whose folders are called like ours and are renamed."""
    if not (clone / folder / f"{module}.py").is_file():
        given = f"{clone} has no {folder}/{module}.py"
        raise SystemExit(f"--original must be a clone of the released DILATE, but {given}.")
    spec = importlib.machinery.ModuleSpec(f"released_{folder}", None, is_package=True)
    spec.submodule_search_locations = [str(clone / folder)]
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{spec.name}.{module}")


def released_function(clone: Path) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The released code's `dilate_loss`."""
    return released(clone, "loss", "dilate_loss").dilate_loss


def released_loss(clone: Path) -> Loss:
    """The released code's loss."""
    dilate_loss = released_function(clone)
    return lambda x, y: dilate_loss(x, y, ALPHA, GAMMA, "cpu")[0]
