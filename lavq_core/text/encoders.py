"""Text encoders behind one interface: the embedded, offline default and transformers models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn import functional as F

from lavq_core.errors import ConfigError

_LONGEST = 256  # tokens; what a text says beyond is left out


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    width: int

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts as unit vectors ``(len(texts), width)`` float32; an empty text is the zero vector."""
        ...

    def __hash__(self) -> int:
        """Tell encoders apart: what each has embedded is kept."""
        ...


class LatentSemanticEncoder:
    """Latent semantic analysis (Deerwester et al. 1990) of a public vocabulary: needs no download.

    Words and character n-grams are weighted by TF-IDF and reduced by a singular value decomposition, both fitted on
    the public statement descriptions and nothing else, so that related findings ("anterior myocardial infarction",
    "inferior myocardial infarction") lie near each other and no patient's text enters the encoder.

    Args:
        vocabulary: public texts to fit on, at least two.
        width: of an embedding.
    """

    def __init__(self, vocabulary: Sequence[str], width: int) -> None:
        from sklearn.decomposition import TruncatedSVD  # takes a second, which a program without texts need not spend
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.width = width
        self._words = TfidfVectorizer(analyzer="word", ngram_range=(1, 2), sublinear_tf=True)
        self._letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        features = self._features(vocabulary, fit=True)
        rank = min(width, len(vocabulary) - 1, features.shape[1] - 1)
        self._svd = TruncatedSVD(rank, algorithm="arpack", random_state=0).fit(features)

    def _features(self, texts: Sequence[str], fit: bool = False) -> np.ndarray:
        parts = []
        for vectoriser in (self._words, self._letters):
            parts.append((vectoriser.fit_transform if fit else vectoriser.transform)(texts).toarray())
        return np.concatenate(parts, axis=1)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """See ``TextEncoder``."""
        if not texts:
            return torch.zeros(0, self.width)
        reduced = self._svd.transform(self._features(texts))  # (n, rank)
        padded = np.zeros((len(texts), self.width), dtype=np.float32)
        padded[:, : reduced.shape[1]] = reduced
        return F.normalize(torch.from_numpy(padded), dim=-1)


class TransformerEncoder:
    """Mean-pooled last hidden state of a transformers model, for example ``emilyalsentzer/Bio_ClinicalBERT``.

    Args:
        name: hub id or local folder.
        width: the hidden state is reduced to this width by a fixed random orthogonal map (Johnson-Lindenstrauss), which
            keeps angles and learns nothing from any text.
        batch: texts at a time.

    Raises:
        ConfigError: the model is neither in the folder, nor in the local cache, nor on a hub that can be reached; or
            its files are damaged.
    """

    def __init__(self, name: str, width: int, batch: int = 32) -> None:
        from transformers import AutoModel, AutoTokenizer  # seconds to import, and only this path needs it

        source = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            self._model = AutoModel.from_pretrained(source).eval()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ConfigError(
                f"text.encoder={name} cannot be loaded: download the model once where there is a network and give its "
                "folder, or use text.encoder=lsa, which needs none"
            ) from error
        self.width, self._batch = width, batch
        self._longest = min(_LONGEST, getattr(self._model.config, "max_position_embeddings", _LONGEST))
        hidden = self._model.config.hidden_size
        generator = torch.Generator().manual_seed(hidden)
        basis = torch.linalg.qr(torch.randn(max(hidden, width), max(hidden, width), generator=generator)).Q
        self._reduce = basis[:hidden, :width]

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """See ``TextEncoder``."""
        rows = [torch.zeros(0, self.width)]
        for start in range(0, len(texts), self._batch):
            chunk = list(texts[start : start + self._batch])
            tokens = self._tokenizer(
                chunk, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
            )
            hidden = self._model(**tokens).last_hidden_state  # (b, L, hidden)
            mask = tokens["attention_mask"].unsqueeze(-1)  # (b, L, 1)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)  # (b, hidden)
            empty = torch.tensor([not text.strip() for text in chunk])
            rows.append(F.normalize(mean @ self._reduce, dim=-1).masked_fill(empty[:, None], 0.0))
        return torch.cat(rows)


def make_encoder(name: str, width: int, vocabulary: Sequence[str]) -> TextEncoder:
    """Make the encoder that ``text.encoder`` names: ``lsa``, or a transformers hub id or folder."""
    if name == "lsa":
        return LatentSemanticEncoder(vocabulary, width)
    return TransformerEncoder(name, width)
