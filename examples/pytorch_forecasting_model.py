"""DILATE in pytorch-forecasting, by way of an adapter, for its losses are metrics that keep a state.

Install the loss from the clone with `pip install .` and `pip install pytorch-forecasting` (tried: 1.8.0, with
lightning 2.6.6), then run `python examples/pytorch_forecasting_model.py`. The note of plain_pytorch.py on weight
holds here too.

- Order: `loss(y_pred, target)`, prediction first, as ours expects; `to_prediction` makes (batch, horizon) of y_pred.
  Several targets go into a `MultiLoss`, which gives each its own loss and so its own alignment.
- Scale: whatever the `target_normalizer`, losses get prediction and target in the units of the data frame, so
  standardise there, or scale gamma with the square of those units.
- Steps: a metric returns one value a step, of which pytorch-forecasting takes the mean. The adapter gives each step
  the value of its window. Weights therefore count by their mean over a window. Where decoder lengths differ, the
  adapter takes the true ones, and a window counts by its length.
- Terms: the loss is linear in alpha, so that the adapter with alpha 1 or 0 logs the shape or the temporal term alone.
- A loss that is not finite is replaced by 1e9, with the warning "Loss is not finite": look at the data then.
- Loading: the checkpoint holds the loss, and pytorch-forecasting's own objects, as pickles: `weights_only=False`.
"""

import tempfile

import lightning
import numpy as np
import pandas as pd
from dilate_loss import DilateLoss
from pytorch_forecasting import NBeats, TimeSeriesDataSet
from pytorch_forecasting.data import EncoderNormalizer
from pytorch_forecasting.metrics import MultiHorizonMetric
from pytorch_forecasting.utils import unpack_sequence
from torch import nn
from torch.nn.utils.rnn import PackedSequence

INPUT, HORIZON = 40, 20


class Dilate(MultiHorizonMetric):
    """DILATE as a metric of pytorch-forecasting."""

    def __init__(self, alpha: float = 0.5, gamma: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        self.criterion = DilateLoss(alpha, gamma, reduction="none")

    def update(self, y_pred, target):
        """Note the true lengths, of which `loss` is not told."""
        series = target[0] if type(target) in (list, tuple) else target  # otherwise (series, weights)
        self.true_lengths = unpack_sequence(series)[1] if isinstance(series, PackedSequence) else None
        super().update(y_pred, target)

    def loss(self, y_pred, target):
        """Return (batch, horizon): the loss of each window, at each of its steps."""
        loss = self.criterion(self.to_prediction(y_pred), target, self.true_lengths, self.true_lengths)
        return loss.unsqueeze(1).expand_as(target)


class PrintTerms(lightning.Callback):
    """Print what a logger would show."""

    def on_train_epoch_end(self, trainer, module):
        """Training loss; terms on the validation set."""
        logged = trainer.callback_metrics
        terms = f"validation shape {logged['val_shape']:.4f}, temporal {logged['val_temporal']:.4f}"
        print(f"epoch {trainer.current_epoch}: loss {logged['train_loss_epoch']:.4f}, {terms}")


def square_waves(count: int, steps: int) -> pd.DataFrame:
    """Standardised series of 20 ± 10 units, each of another period and phase."""
    rng = np.random.default_rng(0)
    period, phase = rng.uniform(20, 30, (count, 1)), rng.uniform(0, 1, (count, 1))
    waves = np.sign(np.sin(2 * np.pi * (np.arange(steps) / period + phase)))
    value = 20 + 10 * waves + rng.normal(0, 0.5, waves.shape)
    train = value[:, :-HORIZON]
    value = ((value - train.mean()) / train.std()).ravel()
    return pd.DataFrame({"wave": np.repeat(range(count), steps), "time": [*range(steps)] * count, "value": value})


def main() -> None:
    """Train, forecast, and load the checkpoint again."""
    lightning.seed_everything(0)
    series = square_waves(10, 300)
    train = TimeSeriesDataSet(
        series[series.time < 300 - HORIZON],
        time_idx="time",
        target="value",
        group_ids=["wave"],
        time_varying_unknown_reals=["value"],
        max_encoder_length=INPUT,
        max_prediction_length=HORIZON,
        target_normalizer=EncoderNormalizer(),
    )
    test = TimeSeriesDataSet.from_dataset(train, series, predict=True)  # the last window of each series
    train_batches, test_batches = train.to_dataloader(batch_size=64), test.to_dataloader(train=False, batch_size=64)
    model = NBeats.from_dataset(
        train,
        loss=Dilate(alpha=0.05, gamma=0.1),
        logging_metrics=nn.ModuleList([Dilate(1.0, 0.1, name="shape"), Dilate(0.0, 0.1, name="temporal")]),
        learning_rate=1e-3,
        widths=[32, 64],
    )
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=5, callbacks=[PrintTerms()], enable_checkpointing=False, **quiet)
    trainer.fit(model, train_batches, test_batches)

    forecast = model.predict(test_batches, return_y=True, trainer_kwargs=quiet)
    mse = nn.functional.mse_loss(forecast.output, forecast.y[0])
    print(f"test MSE {mse:.4f}, where the mean of the series would have about 1")

    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(f"{folder}/model.ckpt")
        loaded = NBeats.load_from_checkpoint(f"{folder}/model.ckpt", weights_only=False)
    print(f"loaded with {loaded.loss.criterion}")


if __name__ == "__main__":
    main()
