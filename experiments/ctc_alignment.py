"""The picture of a CTC alignment in docs/ctc.md: a small network learns to read words from a wavy line.

    python -m experiments.ctc_alignment        # 15 seconds; writes docs/ctc_alignment.png

Each letter is a wave of its own, stretched to a random length, and a word is its letters' waves one after the other,
with noise. The network is never told where a letter begins: CTC finds that out. Training stops early, while it still
hesitates.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from evaluation.plots import plot_ctc_alignment
from loss import CTCLoss

LETTERS = "-adeilst"  # the first one is the blank
WORD = "tallest"  # two equal letters in a row, which only a blank can keep apart
STEPS, BATCH = 150, 32
PICTURE = Path(__file__).parent.parent / "docs" / "ctc_alignment.png"


class Reader(nn.Module):
    """A GRU in both directions, and the log-probabilities of the letters at each time."""

    def __init__(self, hidden: int = 48):
        super().__init__()
        self.gru = nn.GRU(1, hidden, bidirectional=True)
        self.out = nn.Linear(2 * hidden, len(LETTERS))

    def forward(self, line: Tensor) -> Tensor:
        """(T, B, 1) -> (T, B, letters)."""
        return self.out(self.gru(line)[0]).log_softmax(-1)


def write(word: list[int], waves: Tensor) -> Tensor:
    """The line of a word, (T, 1)."""
    lengths = torch.randint(8, 16, (len(word),)).tolist()
    parts = [
        nn.functional.interpolate(waves[letter].reshape(1, 1, -1), size=length, mode="linear", align_corners=True)
        for letter, length in zip(word, lengths, strict=True)
    ]
    line = torch.cat(parts, dim=2).reshape(-1, 1)
    return line + 0.1 * torch.randn_like(line)


def main() -> None:
    """Train, and draw the alignment of a word that was not trained on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PICTURE, metavar="FILE", help="the picture (default: in docs)")
    output = parser.parse_args().output
    torch.manual_seed(0)
    waves = torch.randn(len(LETTERS), 6)
    reader, criterion = Reader(), CTCLoss()
    optimizer = torch.optim.Adam(reader.parameters(), lr=5e-3)
    for step in range(1, STEPS + 1):
        words = [torch.randint(1, len(LETTERS), (length,)) for length in torch.randint(3, 8, (BATCH,)).tolist()]
        lines = [write(word.tolist(), waves) for word in words]
        optimizer.zero_grad()
        log_probs = reader(pad_sequence(lines))
        loss = criterion(log_probs, torch.cat(words), [len(line) for line in lines], [len(word) for word in words])
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}  loss {loss.item():.4f}", flush=True)
    word = [LETTERS.index(letter) for letter in WORD]
    with torch.no_grad():
        log_probs = reader(write(word, waves).unsqueeze(1))[:, 0]
    print(plot_ctc_alignment(log_probs, word, output, names=LETTERS, title=f"a half-trained network reads “{WORD}”"))


if __name__ == "__main__":
    main()
