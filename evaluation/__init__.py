"""Evaluation: the paper's metrics, its numbers, and the figures (``evaluation.plots``, which imports matplotlib)."""

from .metrics import RAMP_TOLERANCE, dtw_tdi, evaluate_forecasts, hausdorff, mse, ramp_score

__all__ = ["RAMP_TOLERANCE", "dtw_tdi", "evaluate_forecasts", "hausdorff", "mse", "ramp_score"]
