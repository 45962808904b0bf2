"""DILATE and soft-DTW as PyTorch losses; installed on its own it is the package ``dilate_loss``."""

from .dilate_loss import DilateLoss, DilateTerms, dilate_loss, squared_omega
from .path_soft_dtw import PathDTWBatch, soft_path
from .soft_dtw import SoftDTWBatch, SoftDTWLoss, pairwise_distances, soft_dtw

__all__ = [
    "DilateLoss",
    "DilateTerms",
    "PathDTWBatch",
    "SoftDTWBatch",
    "SoftDTWLoss",
    "dilate_loss",
    "pairwise_distances",
    "soft_dtw",
    "soft_path",
    "squared_omega",
]
