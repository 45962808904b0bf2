"""Training: the loop and its checkpoints; for main.py flags, experiment, run folder, processes and table."""

from .checkpoint import (
    CheckpointError,
    Record,
    atomic_write,
    errors_name,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from .forecaster import Forecaster, load_forecaster
from .loop import (
    Criterion,
    DivergenceError,
    TrainSettings,
    best_record,
    check_can_record,
    eval_model,
    predict,
    train_model,
    warm_up,
)

__all__ = [
    "CheckpointError",
    "Criterion",
    "DivergenceError",
    "Forecaster",
    "Record",
    "TrainSettings",
    "atomic_write",
    "best_record",
    "check_can_record",
    "errors_name",
    "eval_model",
    "load_checkpoint",
    "load_forecaster",
    "load_weights",
    "predict",
    "save_checkpoint",
    "train_model",
    "warm_up",
]
