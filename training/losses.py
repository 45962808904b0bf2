"""The training losses by name."""

from collections.abc import Callable

from torch import nn

from loss import DilateLoss, SoftDTWLoss, TangledDilateLoss

__all__ = ["LOSSES", "LOSSES_OF_TABLE_1"]

# Each is made of an object that has its parameters: alpha, gamma, and T of the tangled band version, band.
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "mse": lambda settings: nn.MSELoss(),
    "soft_dtw": lambda settings: SoftDTWLoss(settings.gamma),
    "dilate": lambda settings: DilateLoss(settings.alpha, settings.gamma),
    "dilate per variable": lambda settings: DilateLoss(settings.alpha, settings.gamma, per_channel=True),
    "tangled_weighted": lambda settings: TangledDilateLoss(settings.alpha, settings.gamma),
    "tangled_band": lambda settings: TangledDilateLoss(
        settings.alpha, settings.gamma, omega=None, band=settings.band
    ),
}
LOSSES_OF_TABLE_1 = ("mse", "soft_dtw", "dilate")
