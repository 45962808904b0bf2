"""The paper's two forecasters (section 4.1), built by name."""

from collections.abc import Callable, Sequence

from torch import nn

from .mlp import MLP
from .seq2seq import GRUS, DecoderRNN, EncoderRNN, Net_GRU

__all__ = ["GRUS", "MLP", "MODELS", "DecoderRNN", "EncoderRNN", "Net_GRU", "build_model"]

HEAD_UNITS = 16


def _seq2seq(
    *,
    input_length: int,
    horizon: int,
    input_size: int,
    output_size: int,
    hidden_size: int,
    layers: int,
    output_columns: Sequence[int] | None,
    gru: str,
) -> Net_GRU:
    del input_length  # a recurrent network reads windows of any length
    encoder = EncoderRNN(input_size, hidden_size, layers, gru=gru)
    decoder = DecoderRNN(output_size, hidden_size, layers, HEAD_UNITS, output_size, gru)
    return Net_GRU(encoder, decoder, horizon, output_columns=output_columns)


def _mlp(*, output_columns: Sequence[int] | None, gru: str, **sizes: int) -> MLP:
    del output_columns, gru  # the whole window is read at once, by no GRU, and no column plays a special part
    return MLP(**sizes)


MODELS: dict[str, Callable[..., nn.Module]] = {"seq2seq": _seq2seq, "mlp": _mlp}


def build_model(
    name: str,
    *,
    input_length: int,
    horizon: int,
    input_size: int = 1,
    output_size: int = 1,
    hidden_size: int = 128,
    layers: int = 1,
    output_columns: Sequence[int] | None = None,
    gru: str = "torch",
) -> nn.Module:
    """Build one of `MODELS` for given window sizes; the defaults are the paper's.

    Args:
        name: ``"seq2seq"`` or ``"mlp"``.
        input_length: Steps of the observed window, N_input.
        horizon: Steps to forecast, N_output.
        input_size: Number of observed variables.
        output_size: Number of forecast variables.
        hidden_size: Units per layer.
        layers: GRU layers of encoder and decoder, or hidden layers of the MLP.
        output_columns: Which input columns are the forecast variables (see `Net_GRU`).
        gru: Implementation of the GRUs, one of `GRUS`; the numbers are the same up to rounding.

    Returns:
        A network from ``(B, input_length, input_size)`` to ``(B, horizon, output_size)``.

    Raises:
        ValueError: If a name is unknown or the columns do not fit.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}.")
    return MODELS[name](
        input_length=input_length,
        horizon=horizon,
        input_size=input_size,
        output_size=output_size,
        hidden_size=hidden_size,
        layers=layers,
        output_columns=output_columns,
        gru=gru,
    )
