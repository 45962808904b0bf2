"""DILATE in a LightningModule: `training_step` may call any criterion, so that no adapter is needed.

Install the loss from the clone with `pip install .` and `pip install lightning` (tried: 2.6.6), then run
`python examples/lightning_module.py`. The notes of plain_pytorch.py on order, scale, weight and padding hold too.

- Hyperparameters: give the module alpha and gamma, and let it make its criterion. A criterion that is an argument
  would be pickled into each checkpoint by `save_hyperparameters()`, which `load_from_checkpoint` then refuses unless
  `weights_only=False` says that the file is trusted.
- Validation: the loss may be negative, and its value depends on gamma. Monitor a metric that you report.
- Precision: under "16-mixed" and "bf16-mixed" the loss is computed in float32.
"""

import tempfile

import lightning
import numpy as np
import torch
from dilate_loss import DilateLoss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

INPUT, HORIZON, VARIABLES = 40, 20, 2


class Forecaster(lightning.LightningModule):
    """A perceptron from (batch, INPUT, VARIABLES) to (batch, HORIZON, VARIABLES), trained with DILATE."""

    def __init__(self, alpha: float = 0.05, gamma: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.criterion = DilateLoss(alpha, gamma)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(INPUT * VARIABLES, 64),
            nn.ReLU(),
            nn.Linear(64, HORIZON * VARIABLES),
            nn.Unflatten(1, (HORIZON, VARIABLES)),
        )

    def forward(self, x):
        """Forecast."""
        return self.layers(x)

    def training_step(self, batch, batch_idx):
        """Return the loss; it and its two terms, which come from the same sweep, are logged."""
        x, y = batch
        terms = self.criterion.components(self(x), y)
        self.log_dict({f"train/{name}": term for name, term in terms._asdict().items()}, on_step=False, on_epoch=True)
        return terms.loss

    def on_train_epoch_end(self):
        """Print what a logger would show."""
        loss, shape, temporal = (self.trainer.callback_metrics[f"train/{n}"] for n in ("loss", "shape", "temporal"))
        print(f"epoch {self.current_epoch}: loss {loss:.4f}, shape {shape:.4f}, temporal {temporal:.4f}")

    def validation_step(self, batch, batch_idx):
        """Log the metric to choose models by."""
        x, y = batch
        self.log("val/mse", nn.functional.mse_loss(self(x), y))

    def configure_optimizers(self):
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def square_waves(count: int, rng: np.random.Generator) -> np.ndarray:
    """Series (count, INPUT + HORIZON, VARIABLES) of 20 ± 10 units; the second variable comes 4 steps later."""
    period, phase = rng.uniform(20, 30, (count, 1, 1)), rng.uniform(0, 1, (count, 1, 1))
    time = np.arange(INPUT + HORIZON)[:, None] - np.array([0, 4])
    waves = np.sign(np.sin(2 * np.pi * (time / period + phase)))
    return 20 + 10 * waves + rng.normal(0, 0.5, waves.shape)


def loader(series: np.ndarray, shuffle: bool = False) -> DataLoader:
    """Batches of inputs and targets."""
    series = torch.tensor(series, dtype=torch.float32)
    return DataLoader(TensorDataset(series[:, :INPUT], series[:, INPUT:]), batch_size=50, shuffle=shuffle)


def main() -> None:
    """Train, validate, and load the checkpoint again."""
    lightning.seed_everything(0)
    rng = np.random.default_rng(0)
    train, validation = square_waves(400, rng), square_waves(100, rng)
    mean, std = train.mean(axis=(0, 1)), train.std(axis=(0, 1))  # of each variable, from the training set alone
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=20, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Forecaster(), loader((train - mean) / std, shuffle=True), loader((validation - mean) / std))
    mse = trainer.callback_metrics["val/mse"]
    print(f"validation MSE {mse:.4f}, where the mean of the series would have about 1")

    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(f"{folder}/forecaster.ckpt")
        loaded = Forecaster.load_from_checkpoint(f"{folder}/forecaster.ckpt", weights_only=True)
    print(f"loaded with {loaded.criterion}")


if __name__ == "__main__":
    main()
