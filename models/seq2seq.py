"""The GRU encoder-decoder of the paper's section 4.1, with the parameter names of the released weights."""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .gru import GRU, rollout_by_steps
from .gru_fused import FusedGRU, rollout

__all__ = ["GRUS", "DecoderRNN", "EncoderRNN", "Net_GRU"]

GRUS: dict[str, type[nn.GRU]] = {"torch": nn.GRU, "written-out": GRU, "fused": FusedGRU}


class EncoderRNN(nn.Module):
    """GRU that reads the observed window (section 4.1: one layer of 128 units).

    Args:
        input_size: Number of observed variables.
        hidden_size: Units per layer.
        num_grulstm_layers: Stacked GRU layers.
        batch_size: Default batch size of `init_hidden`; `forward` takes any batch.
        gru: Implementation of the GRU, one of `GRUS`.

    Raises:
        ValueError: If ``gru`` is none of them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_grulstm_layers: int,
        batch_size: int | None = None,
        gru: str = "torch",
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_grulstm_layers = num_grulstm_layers
        self.batch_size = batch_size
        self.gru = _gru_class(gru)(input_size, hidden_size, num_grulstm_layers, batch_first=True)

    def forward(self, input: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read a whole window in one GRU call.

        Args:
            input: ``(B, N_input, input_size)``, of the parameters' dtype and device.
            hidden: Initial state, ``(layers, B, hidden_size)``; zeros if not given.

        Returns:
            The last layer's state at every step, ``(B, N_input, hidden_size)``, and the final state of every
            layer, ``(layers, B, hidden_size)``.
        """
        return self.gru(input, hidden)

    def init_hidden(self, device: torch.device | str | None = None, batch_size: int | None = None) -> Tensor:
        """Zeros of shape ``(layers, B, hidden_size)``, in the parameters' dtype.

        Args:
            device: Where to put them; the parameters' device if not given.
            batch_size: B; the constructor's ``batch_size`` if not given.

        Raises:
            ValueError: If neither call nor constructor gave a batch size.
        """
        batch = self.batch_size if batch_size is None else batch_size
        if batch is None:
            raise ValueError("init_hidden needs batch_size, because EncoderRNN was built without one.")
        weight = self.gru.weight_hh_l0
        return weight.new_zeros((self.num_grulstm_layers, batch, self.hidden_size), device=device)


class DecoderRNN(nn.Module):
    """GRU that continues a series from its own forecasts, with a small head on top of its last layer.

    Args:
        input_size: Number of variables read at each step; to forecast freely it must equal ``output_size``.
        hidden_size: Units per layer.
        num_grulstm_layers: Stacked GRU layers.
        fc_units: Units of the head's hidden layer (released code: 16).
        output_size: Number of forecast variables.
        gru: Implementation of the GRU, one of `GRUS`.

    Raises:
        ValueError: If ``gru`` is none of them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_grulstm_layers: int,
        fc_units: int,
        output_size: int,
        gru: str = "torch",
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_grulstm_layers = num_grulstm_layers
        self.output_size = output_size
        self.gru = _gru_class(gru)(input_size, hidden_size, num_grulstm_layers, batch_first=True)
        self.fc = nn.Linear(hidden_size, fc_units)
        self.out = nn.Linear(fc_units, output_size)

    def forward(self, input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast from given inputs: the released one-step call, or teacher forcing over several steps.

        Args:
            input: ``(B, steps, input_size)``.
            hidden: State before the first step, ``(layers, B, hidden_size)``.

        Returns:
            Forecasts ``(B, steps, output_size)`` and the state after the last step,
            ``(layers, B, hidden_size)``.
        """
        states, hidden = self.gru(input, hidden)
        return self._head(states), hidden

    def rollout(self, value: Tensor, hidden: Tensor, steps: int) -> Tensor:
        """Forecast freely: each step reads the forecast of the step before.

        The GRU's cells run without a call of the GRU or of this module. Where a call would do more than the cells,
        by hooks, another ``forward`` or dropout in training, this module is called once a step, ``(B, 1, d)``.

        Args:
            value: Input of the first step, ``(B, output_size)``.
            hidden: State before the first step, ``(layers, B, hidden_size)``.
            steps: Length of the forecast.

        Returns:
            Forecasts, ``(B, steps, output_size)``.
        """
        if not _is_plain(self, DecoderRNN) or not _is_plain(self.gru, *GRUS.values()) or _drops_out(self.gru):
            return self._rollout_by_calls(value, hidden, steps)
        own_head = type(self)._head is DecoderRNN._head and "_head" not in vars(self)
        if isinstance(self.gru, FusedGRU) and own_head and _is_plain_linear(self.fc) and _is_plain_linear(self.out):
            weights = self.fc.weight, self.fc.bias, self.out.weight, self.out.bias
            (units, H), (d, _) = self.fc.weight.shape, self.out.weight.shape
            expected = (len(value), d), (self.gru.num_layers, len(value), H), (units, H), (units,), (d, units), (d,)
            fits = tuple(tuple(t.shape) for t in (value, hidden, *weights)) == expected
            fits = fits and (d, H) == (self.gru.input_size, self.gru.hidden_size)
            if fits and self.gru.fuses(value, hidden, *weights):
                return rollout(self.gru, self.fc, self.out, value, hidden, steps)
        cell = self.gru.cell if isinstance(self.gru, GRU) else torch.gru_cell
        return rollout_by_steps(cell, self.gru.all_weights, self._head, value, hidden, steps)

    def _rollout_by_calls(self, value: Tensor, hidden: Tensor, steps: int) -> Tensor:
        forecasts = [value.unsqueeze(1)]
        for _ in range(steps):
            forecast, hidden = self(forecasts[-1], hidden)
            forecasts.append(forecast)
        return torch.cat(forecasts[1:], dim=1)

    def _head(self, states: Tensor) -> Tensor:
        return self.out(torch.relu(self.fc(states)))


class Net_GRU(nn.Module):
    """Sequence-to-sequence forecaster: the decoder starts from the encoder's last state and last observation.

    The decoder reads its own forecasts back (no teacher forcing), so it reads as many variables as it
    forecasts. The network works in the dtype and on the device of its parameters.

    Args:
        encoder: Reads the window.
        decoder: Continues it; as many layers and units as the encoder, ``input_size == output_size``.
        target_length: Steps to forecast, N_output.
        device: Moves the network there, if given.
        output_columns: Which input columns are the forecast variables, in the order of the outputs: they
            supply the decoder's first input. The first ``output_size`` columns if not given.

    Raises:
        ValueError: If encoder, decoder and columns do not fit together.
    """

    def __init__(
        self,
        encoder: EncoderRNN,
        decoder: DecoderRNN,
        target_length: int,
        device: torch.device | str | None = None,
        output_columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check_pair(encoder, decoder)
        columns = range(decoder.output_size) if output_columns is None else output_columns
        _check_columns(columns, encoder.input_size, decoder.output_size)
        self.encoder = encoder
        self.decoder = decoder
        self.target_length = target_length
        # Not a buffer: one outside of the state_dict, whose names are the released code's, has no values on meta.
        self.output_columns = tuple(map(operator.index, columns))
        if device is not None:
            self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast ``(B, target_length, output_size)`` from the window ``x``, ``(B, N_input, input_size)``.

        Raises:
            ValueError: If ``x`` has another shape.
        """
        if x.ndim != 3 or x.shape[2] != self.encoder.input_size:
            expected = f"(batch, N_input, {self.encoder.input_size})"
            raise ValueError(f"Net_GRU expects an input of shape {expected}, got {tuple(x.shape)}.")
        _, hidden = self.encoder(x)
        observed = x[:, -1].unbind(1)
        last_observed = torch.stack([observed[column] for column in self.output_columns], dim=1)
        return self.decoder.rollout(last_observed, hidden, self.target_length)


def _is_plain(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether a call of a module is the forward pass of one of these classes and no more: no hooks, no other forward.

    Old-style ``spectral_norm``, ``weight_norm`` and pruning are hooks: they make the weights at each call.
    """
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        nn.modules.module._has_any_global_hook(),
    )
    known = type(module).forward in [cls.forward for cls in classes]
    return known and "forward" not in vars(module) and not any(hooks)


def _is_plain_linear(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and layer.bias is not None and _is_plain(layer, nn.Linear)


def _drops_out(gru: nn.GRU) -> bool:
    return gru.training and gru.dropout > 0


def _gru_class(name: str) -> type[nn.GRU]:
    if name not in GRUS:
        raise ValueError(f"Unknown GRU {name!r}: choose one of {', '.join(sorted(GRUS))}.")
    return GRUS[name]


def _check_pair(encoder: EncoderRNN, decoder: DecoderRNN) -> None:
    if decoder.input_size != decoder.output_size:
        raise ValueError(
            f"The decoder reads its own forecasts, so its input_size ({decoder.input_size}) must equal "
            f"its output_size ({decoder.output_size})."
        )
    for name in ("hidden_size", "num_grulstm_layers"):
        sizes = getattr(encoder, name), getattr(decoder, name)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The decoder starts from the encoder's state, so {name} must be the same in both, "
                f"got {sizes[0]} (encoder) and {sizes[1]} (decoder)."
            )


def _check_columns(columns: Sequence[int], input_size: int, output_size: int) -> None:
    if len(columns) != output_size or not all(0 <= column < input_size for column in columns):
        raise ValueError(
            f"output_columns must name {output_size} of the {input_size} input columns "
            f"(0 to {input_size - 1}), got {list(columns)}."
        )
