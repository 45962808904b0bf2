"""Whom the benchmarks compare: ours, plain PyTorch, public packages if installed, and the released code."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import loss_and_gradient
from loss import DilateLoss, SoftDTWLoss
from loss.kernels import reference

GAMMA, ALPHA = 0.01, 0.5
KINDS = {"shape": "shape term", "dilate": "DILATE", "value": "DILATE's value alone"}

Loss = Callable[[Tensor, Tensor], Tensor]  # the mean over the batch


def contenders(kind: str, original: Path | None = None) -> dict[str, Loss]:
    """Name -> loss of everybody who can be compared here, ours first.

    Args:
        kind: A key of ``KINDS``; of the value alone, which is what evaluation needs, ours is the only contender.
        original: A clone of the released DILATE.
    """
    if kind == "value":
        return {"ours": DilateLoss(ALPHA, GAMMA)}
    if kind == "shape":
        return {"ours": SoftDTWLoss(GAMMA), "plain PyTorch": plain_loss(kind), **public_packages()}
    found: dict[str, Loss] = {"ours": DilateLoss(ALPHA, GAMMA), "plain PyTorch": plain_loss(kind)}
    if original is not None:
        found["released code"] = released_loss(original)
    return found


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


def public_packages() -> dict[str, Loss]:
    """The shape term of those packages that are installed."""
    found: dict[str, Loss] = {}
    try:
        from tslearn.metrics import SoftDTWLossPyTorch

        tslearn = SoftDTWLossPyTorch(gamma=GAMMA)
        found["tslearn"] = lambda x, y: tslearn(x, y).mean()
    except ImportError:
        print("tslearn is not installed: left out")
    try:
        from pysdtw import SoftDTW

        pysdtw = SoftDTW(gamma=GAMMA, use_cuda=False)
        found["pysdtw"] = lambda x, y: pysdtw(x, y).mean()
    except ImportError:
        print("pysdtw is not installed: left out (pip install pysdtw)")
    return found


def released_function(clone: Path) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The released code's `dilate_loss`, from a clone; its package is called `loss` like ours, so it is renamed."""
    if not (clone / "loss" / "dilate_loss.py").is_file():
        raise SystemExit(
            f"--original must be a clone of the released DILATE, but {clone} has no loss/dilate_loss.py."
        )
    package = importlib.machinery.ModuleSpec("released_loss", None, is_package=True)
    package.submodule_search_locations = [str(clone / "loss")]
    sys.modules["released_loss"] = importlib.util.module_from_spec(package)
    return importlib.import_module("released_loss.dilate_loss").dilate_loss


def released_loss(clone: Path) -> Loss:
    """The released code's loss, from a clone."""
    dilate_loss = released_function(clone)
    return lambda x, y: dilate_loss(x, y, ALPHA, GAMMA, "cpu")[0]
