"""DILATE in Darts: a `DilateLoss` is a `loss_fn` as it is, of any deterministic PyTorch model.

Install the loss from the clone with `pip install .` and `pip install "darts[torch]"` (tried: 0.48.1), then run
`python examples/darts_model.py`. The notes of plain_pytorch.py on scale and weight hold here too.

- Order: Darts calls `loss_fn(prediction, target)`, both (batch, output_chunk_length, components), as ours expects.
  All components of a series are aligned together; `DilateLoss(per_channel=True)` aligns each on its own.
- Scale: the model sees the series that you give it: standardise with a `Scaler`. With
  `use_reversible_instance_norm=True` the loss still gets the units of that series.
- Sample weights: Darts wants a value for each step, which an alignment has not, and says "Failed to make `loss_fn`
  not reduce the loss output". `WeightedDilateLoss` below gives each step the value of its window, which so counts
  with the mean of its weights.
- Loading: `Model.load(path)` refuses classes that Darts does not know. Name them, as below, or pass `trusted=True`
  for a file that you trust.
- Terms: Darts logs the loss alone, and its `torch_metrics` get all steps in one flat list, in which nothing can be
  aligned. Compute the terms of a forecast, as below.
- Copies: Darts deep-copies the loss for training and validation and pickles it into checkpoints, which is fine. It
  ignores the loss of a model that has a `likelihood`.
"""

import tempfile

import numpy as np
import torch
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.metrics import mse
from darts.models import TiDEModel
from darts.utils.serialization import safe_globals
from dilate_loss import DilateLoss
from pytorch_lightning import Callback, Trainer
from sklearn.preprocessing import StandardScaler

INPUT, HORIZON = 40, 20


class WeightedDilateLoss(DilateLoss):
    """DILATE for `fit(..., sample_weight=...)`, where Darts sets `reduction` to "none"."""

    def forward(self, prediction, target):
        """Return the loss; with `reduction="none"` the loss of each window, at each of its steps."""
        loss = super().forward(prediction, target)
        return loss.reshape(-1, *[1] * (target.dim() - 1)).expand_as(target) if self.reduction == "none" else loss


class PrintLoss(Callback):
    """Print what a logger would show."""

    def on_train_epoch_end(self, trainer, module):
        """The mean of the epoch."""
        print(f"epoch {trainer.current_epoch}: loss {trainer.callback_metrics['train_loss']:.4f}")


def square_wave(steps: int) -> TimeSeries:
    """A series of 20 ± 10 units with two components, the second one 4 steps later."""
    time = np.arange(steps)[:, None] - np.array([0, 4])
    waves = 20 + 10 * np.sign(np.sin(2 * np.pi * time / 24.3))
    return TimeSeries.from_values((waves + np.random.default_rng(0).normal(0, 0.5, waves.shape)).astype(np.float32))


def new_model(loss_fn: DilateLoss) -> TiDEModel:
    """A small model."""
    return TiDEModel(
        input_chunk_length=INPUT,
        output_chunk_length=HORIZON,
        hidden_size=32,
        loss_fn=loss_fn,
        optimizer_kwargs={"lr": 1e-3},
        random_state=0,
    )


def new_trainer(epochs: int) -> Trainer:
    """A trainer for one call of `fit`; Darts would pickle the callbacks of `pl_trainer_kwargs` with its model."""
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[PrintLoss()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )


def main() -> None:
    """Train, forecast, save and load, and train with sample weights."""
    train, test = square_wave(600).split_before(600 - HORIZON)
    scaler = Scaler(StandardScaler())
    train, test = scaler.fit_transform(train), scaler.transform(test)

    model = new_model(DilateLoss(alpha=0.05, gamma=0.1))
    model.fit(train, trainer=new_trainer(10))
    forecast = model.predict(HORIZON)
    pair = (torch.tensor(series.values()).unsqueeze(0) for series in (forecast, test))
    loss, shape, temporal = DilateLoss(alpha=0.05, gamma=0.1).components(*pair)
    print(f"test: loss {loss:.4f}, shape {shape:.4f}, temporal {temporal:.4f}")
    print(f"test MSE {mse(test, forecast):.4f}, where the mean of the series would have about 1")

    with tempfile.TemporaryDirectory() as folder, safe_globals([DilateLoss]):
        model.save(f"{folder}/model.pt")
        print(f"loaded with {TiDEModel.load(f'{folder}/model.pt').model.criterion}")

    print("with sample weights that grow from 0 to 2:")
    recent = TimeSeries.from_times_and_values(train.time_index, np.linspace(0, 2, len(train), dtype=np.float32))
    new_model(WeightedDilateLoss(alpha=0.05, gamma=0.1)).fit(train, sample_weight=recent, trainer=new_trainer(3))


if __name__ == "__main__":
    main()
