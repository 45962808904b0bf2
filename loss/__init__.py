"""DILATE and soft-DTW as PyTorch losses; installed on its own it is the package ``dilate_loss``."""

from .ctc_loss import CTCLoss, ctc_alignment, ctc_loss, ctc_loss_of_one_sequence
from .dilate_loss import DilateLoss, DilateTerms, SoftDTWLoss, TangledDilateLoss, dilate_loss, dilate_of_costs
from .omega import AsymmetricOmega, squared_omega
from .path_soft_dtw import PathDTWBatch, soft_path
from .soft_dtw import SoftDTWBatch, pairwise_distances, soft_dtw

__all__ = [
    "AsymmetricOmega",
    "CTCLoss",
    "DilateLoss",
    "DilateTerms",
    "PathDTWBatch",
    "SoftDTWBatch",
    "SoftDTWLoss",
    "TangledDilateLoss",
    "ctc_alignment",
    "ctc_loss",
    "ctc_loss_of_one_sequence",
    "dilate_loss",
    "dilate_of_costs",
    "pairwise_distances",
    "soft_dtw",
    "soft_path",
    "squared_omega",
]
