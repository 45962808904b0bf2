"""DILATE in a training loop of your own: forecast square waves, each of another period and phase.

Install the loss from the clone with `pip install .`, then run `python examples/plain_pytorch.py`.

- Order: prediction first, target second, as in PyTorch's losses.
- Scale: gamma is in squared units of the series. The paper's 0.01 is for series whose standard deviation is about
  0.35, which makes 0.1 for standardised ones.
- Weight: the shape term sums squared distances over all steps, the temporal term is seldom above 1. Print both, and
  choose alpha so that each has a say.
- Padding: `criterion(prediction, target, prediction_lengths, target_lengths)`. A single step has no loss of its own
  that could be masked or weighted: weight whole series, with `reduction="none"`.
- Validation: the loss may be negative, and its value depends on gamma. Choose models by a metric that you report.
- Copies: the criterion can be deep-copied and pickled. The criterion has a state only if gamma or Omega is a tensor,
  or a cost of one's own a module.
"""

import numpy as np
import torch
from dilate_loss import DilateLoss, DilateTerms
from torch import nn

INPUT, HORIZON, VARIABLES = 40, 20, 2


def square_waves(count: int, rng: np.random.Generator) -> np.ndarray:
    """Series (count, INPUT + HORIZON, VARIABLES) of 20 ± 10 units; the second variable comes 4 steps later."""
    period, phase = rng.uniform(20, 30, (count, 1, 1)), rng.uniform(0, 1, (count, 1, 1))
    time = np.arange(INPUT + HORIZON)[:, None] - np.array([0, 4])
    waves = np.sign(np.sin(2 * np.pi * (time / period + phase)))
    return 20 + 10 * waves + rng.normal(0, 0.5, waves.shape)


def report(when: str, terms: DilateTerms) -> None:
    """Print the loss and its two terms."""
    print(f"{when}: loss {terms.loss:.4f}, shape {terms.shape:.4f}, temporal {terms.temporal:.4f}")


def main() -> None:
    """Train a perceptron, and say how well it forecasts."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    train, test = square_waves(400, rng), square_waves(100, rng)
    mean, std = train.mean(axis=(0, 1)), train.std(axis=(0, 1))  # of each variable, from the training set alone
    train, test = (torch.tensor((series - mean) / std, dtype=torch.float32) for series in (train, test))

    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(INPUT * VARIABLES, 64),
        nn.ReLU(),
        nn.Linear(64, HORIZON * VARIABLES),
        nn.Unflatten(1, (HORIZON, VARIABLES)),
    )
    criterion = DilateLoss(alpha=0.05, gamma=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(20):
        for batch in train[torch.randperm(len(train))].split(50):
            x, y = batch[:, :INPUT], batch[:, INPUT:]
            terms = criterion.components(model(x), y)  # where the loss alone is wanted: criterion(model(x), y)
            optimizer.zero_grad()
            terms.loss.backward()
            optimizer.step()
        report(f"epoch {epoch}", terms)

    with torch.no_grad():
        forecast, y = model(test[:, :INPUT]), test[:, INPUT:]
    report("test", criterion.components(forecast, y))
    print(f"test MSE {nn.functional.mse_loss(forecast, y):.4f}, where the mean of the series would have about 1")


if __name__ == "__main__":
    main()
