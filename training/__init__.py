"""Training: the loop, its checkpoints, and what main.py adds: flags, experiment, run folder, processes."""

from .checkpoint import (
    CheckpointError,
    Record,
    atomic_write,
    errors_name,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from .loop import (
    Criterion,
    DivergenceError,
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
    "Record",
    "atomic_write",
    "best_record",
    "check_can_record",
    "errors_name",
    "eval_model",
    "load_checkpoint",
    "load_weights",
    "predict",
    "save_checkpoint",
    "train_model",
    "warm_up",
]
