"""The fully connected network of the paper's section 4.1: one hidden layer of 128 units."""

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """Forecasts the whole horizon at once from the flattened window.

    The paper names the layer and its 128 units; the ReLU is ours, as in the public reimplementations.

    Args:
        input_length: Steps of the observed window, N_input.
        horizon: Steps to forecast, N_output.
        input_size: Number of observed variables.
        output_size: Number of forecast variables.
        hidden_size: Units per hidden layer.
        layers: Hidden layers.
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        input_size: int = 1,
        output_size: int = 1,
        hidden_size: int = 128,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.window = (input_length, input_size)
        self.forecast = (horizon, output_size)
        widths = [input_length * input_size] + [hidden_size] * layers
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.out = nn.Linear(widths[-1], horizon * output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast ``(B, horizon, output_size)`` from the window ``x``, ``(B, input_length, input_size)``.

        Raises:
            ValueError: If ``x`` has another shape.
        """
        if x.ndim != 3 or x.shape[1:] != self.window:
            expected = f"(batch, {self.window[0]}, {self.window[1]})"
            raise ValueError(f"MLP expects an input of shape {expected}, got {tuple(x.shape)}.")
        state = x.flatten(1)
        for layer in self.hidden:
            state = torch.relu(layer(state))
        return self.out(state).unflatten(1, self.forecast)
