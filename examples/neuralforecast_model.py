"""DILATE in neuralforecast, by way of an adapter, for its losses have an interface of their own.

Install the loss from the clone with `pip install .` and `pip install neuralforecast` (tried: 3.3.0), then run
`python examples/neuralforecast_model.py`. The note of plain_pytorch.py on weight holds here too.

- Order: neuralforecast gives the target first, `loss(y, y_hat, ...)`, and the adapter turns them round. Both are
  (windows, horizon, 1), or (windows, horizon, series) in a multivariate model, which so aligns its series together.
- Scale: training sees windows scaled by `scaler_type`, which suits gamma: "standard" or "robust", but not "identity",
  the default of most models. Validation sees the raw series, so give another `valid_loss`, such as `MAE()`.
- Mask: it is 0 at steps that are padding, and holds the sample weights. An alignment cannot leave out single steps: a
  window counts with the least of its weights, and so not at all if any of its steps is missing.
- Recurrent models with `recurrent=True` train on `h_train=1` step at a time, where there is nothing to align: set
  `h_train` to the horizon.
- Saving: `register_loss` lets `NeuralForecast.save` and `load` rebuild the adapter from its alpha and gamma.
- Terms: neuralforecast logs the loss alone. Compute the terms of a forecast, as below.
- alpha and gamma: on standardised windows of four data sets 0.1 and 1 were a good beginning, for N-HiTS, PatchTST and
  TiDE alike (docs/when.md); the square waves here are sharper, and want less of both.
- Without its trainer: its networks are modules, which experiments/modern/protocol.py calls as such; validation on
  series other than those of the training needs that.
"""

import tempfile

import numpy as np
import pandas as pd
import torch
from dilate_loss import DilateLoss
from neuralforecast import NeuralForecast, register_loss
from neuralforecast.losses.pytorch import MAE, BasePointLoss
from neuralforecast.models import MLP

INPUT, HORIZON = 40, 20


@register_loss
class Dilate(BasePointLoss):
    """DILATE as a point loss of neuralforecast."""

    def __init__(self, alpha: float = 0.5, gamma: float = 0.01):
        super().__init__(outputsize_multiplier=1, output_names=[""])
        self.criterion = DilateLoss(alpha, gamma, reduction="none")

    def __call__(self, y, y_hat, mask=None, y_insample=None):
        """Return the mean over the windows; neuralforecast's own losses override `__call__` too."""
        loss = self.criterion(y_hat, y)
        weight = torch.ones_like(loss) if mask is None else mask.amin(dim=(1, 2))
        return (weight * loss).sum() / weight.sum().clamp_min(1e-9)  # 0 where no window counts


def square_waves(count: int, steps: int) -> pd.DataFrame:
    """Series of 20 ± 10 units, each of another period and phase."""
    rng = np.random.default_rng(0)
    period, phase = rng.uniform(20, 30, (count, 1)), rng.uniform(0, 1, (count, 1))
    waves = np.sign(np.sin(2 * np.pi * (np.arange(steps) / period + phase)))
    y = 20 + 10 * waves + rng.normal(0, 0.5, waves.shape)
    return pd.DataFrame({"unique_id": np.repeat(range(count), steps), "ds": [*range(steps)] * count, "y": y.ravel()})


def main() -> None:
    """Train, forecast, save and load."""
    series = square_waves(10, 300)
    is_train = series.ds < 300 - HORIZON
    model = MLP(
        h=HORIZON,
        input_size=INPUT,
        hidden_size=64,
        loss=Dilate(alpha=0.05, gamma=0.1),
        valid_loss=MAE(),
        scaler_type="standard",
        learning_rate=3e-3,
        max_steps=200,
        val_check_steps=100,
        windows_batch_size=128,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    forecaster = NeuralForecast(models=[model], freq=1)
    forecaster.fit(series[is_train], val_size=HORIZON)
    losses = [loss for _, loss in forecaster.models[0].train_trajectories]  # of the copy that was trained
    for first in range(0, 200, 20):
        print(f"steps {first} to {first + 19}: loss {np.mean(losses[first : first + 20]):.4f}")

    both = series[~is_train].merge(forecaster.predict(), on=["unique_id", "ds"])
    mean, std = series.y[is_train].mean(), series.y[is_train].std()
    forecast, y = (torch.tensor((both[name] - mean) / std, dtype=torch.float32).view(10, -1) for name in ("MLP", "y"))
    loss, shape, temporal = DilateLoss(alpha=0.05, gamma=0.1).components(forecast, y)
    print(f"test: loss {loss:.4f}, shape {shape:.4f}, temporal {temporal:.4f}")
    print(f"test MSE {(forecast - y).square().mean():.4f}, where the mean of the series would have about 1")

    with tempfile.TemporaryDirectory() as folder:
        forecaster.save(folder, overwrite=True)
        print(f"loaded with {NeuralForecast.load(folder).models[0].loss.criterion}")


if __name__ == "__main__":
    main()
