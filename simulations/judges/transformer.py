"""A judge of another kind than detector and separator: a small transformer on patches of the whole record.

Patches after Dosovitskiy et al. (*An Image is Worth 16x16 Words*, 2021) in one dimension; it shares no architecture,
weights, patients or seed with what trains a twin, and reads everything: rhythm, noise and every beat, not an average.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.settings import DetectorTrainingConfig
from lavq_core.signals.leads import INDEPENDENT_LEADS
from lavq_core.training.detector_training import LabelledEcgs, predict, train_detector

_PATCH = 0.2  # s
_WINDOW = 5.0  # s, length the transformer reads; longer records are read window by window
_STRIDE = 2.5  # s between windows
_WIDTH, _LAYERS, _HEADS, _DROPOUT = 64, 4, 4, 0.1
EPOCHS = 24


def training_settings() -> DetectorTrainingConfig:
    """How the judge is trained; random windows, gains and noise let it read 3,500 records 24 times."""
    return DetectorTrainingConfig(
        batch=24,
        crop=_WINDOW,
        lr=2e-3,
        weight_decay=0.05,
        noise=0.02,
        amplitude=0.2,
        shift=0.0,  # a random window is shift enough, and joins no ends
        wander=0.05,
        lead_dropout=0.0,
    )


class _Layer(nn.Module):
    """Self-attention and a perceptron, each behind a norm and beside a shortcut (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, N, width)`` to ``(B, N, width)``."""
        asked = self.ask(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, width / H)
        q, k, v = asked.permute(2, 0, 3, 1, 4)  # (B, H, N, width / H) each
        answer = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, width)
        tokens = tokens + self.dropout(self.answer(answer))
        return tokens + self.dropout(self.perceptron(self.before_perceptron(tokens)))


class PatchTransformer(nn.Module):
    """Scores labels from windows of 5 s.

    Args:
        outputs: number of labels C.
        rate: Hz.
    """

    def __init__(self, outputs: int, rate: int) -> None:
        super().__init__()
        self.patch, self.window, self.stride = round(_PATCH * rate), round(_WINDOW * rate), round(_STRIDE * rate)
        self.embed = nn.Linear(len(INDEPENDENT_LEADS) * self.patch, _WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(self.window // self.patch, _WIDTH))
        self.layers = nn.Sequential(*(_Layer(_WIDTH, _HEADS, _DROPOUT) for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ECGs ``(B, 8, T)`` in mV, T at least a window, to logits ``(B, C)``: the mean over windows."""
        windows = x.unfold(-1, self.window, self.stride)  # (B, 8, M, window)
        patches = windows.unflatten(-1, (-1, self.patch)).permute(0, 2, 3, 1, 4)  # (B, M, N, 8, patch)
        tokens = self.embed(patches.flatten(3)) + self.place  # (B, M, N, width)
        read = self.layers(tokens.flatten(0, 1)).mean(dim=1)  # (B M, width)
        return self.head(self.norm(read)).unflatten(0, (len(x), -1)).mean(dim=1)


@dataclass(frozen=True)
class TransformerJudge:
    """A trained patch transformer."""

    model: PatchTransformer

    @classmethod
    def fit(cls, signals: Tensor, labels: np.ndarray, rate: int, seed: int, epochs: int = EPOCHS) -> TransformerJudge:
        """Train on real records.

        Args:
            signals: ``(n, 8, T)`` mV, at least 5 s.
            labels: ``(n, C)`` of 0 and 1.
            rate: Hz.
            seed: of weights and training.
            epochs: passes over the records.
        """
        seed = zlib.crc32(f"{seed}/judges/transformer".encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = PatchTransformer(labels.shape[1], rate)
        data = LabelledEcgs(signals, torch.from_numpy(labels.astype(np.float32)), torch.ones(len(signals)))
        train_detector(model, data, training_settings(), rate, epochs, torch.Generator().manual_seed(seed))
        return cls(model)

    def scores(self, signals: Tensor) -> np.ndarray:
        """Judge records ``(n, 8, T)`` in mV: probabilities ``(n, C)`` float32, in the order of the labels."""
        return predict(self.model, signals).numpy()
