"""The prior network: which gate and codes a disease puts where in the beat, and which of them go together.

p(symbol of every token | statements, covariates), learned on abnormal records. Codes of a beat depend on one another (a
late R' in V1 comes with a broad S in V6), so they are not drawn token by token from counts: the network is a masked
model that fills in some tokens, looks at them, and fills in the next (Chang et al. 2022, *MaskGIT*; random order after
Hoogeboom et al. 2022, *Autoregressive Diffusion Models*). "Left normal" is one of the symbols, so the gate is drawn
with the codes.

It does not see the patient's waveform. Shown healed beats in training it read the gate off the traces that healing
leaves, and on truly healthy beats it then opened .2 % of the gate instead of a third.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.models.blocks import COVARIATES, Attention, Read, ReportAttention
from lavq_core.settings import CodebookConfig, SeparatorConfig

_LAYERS = 2
_DROPOUT = 0.1
_DRAWS = 12  # network passes in which a beat's tokens are drawn
_FEWEST_HIDDEN = 0.1  # share of the tokens that is hidden in training, at least


class _Layer(nn.Module):
    """Tokens look at each other, then think (pre-norm transformer layer)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.think_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, width, heads)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, h: Tensor, places: Tensor | None = None) -> Tensor:
        """Map ``(B, N, width)`` to the same, or to ``(B, n, width)`` of some ``places (B, n)``, which look at all."""
        normed = asking = self.attention_norm(h)
        if places is not None:
            chosen = places.unsqueeze(-1).expand(-1, -1, h.shape[-1])  # (B, n, width)
            h, asking = h.gather(1, chosen), normed.gather(1, chosen)
        h = h + self.dropout(self.attention(asking, normed))
        return h + self.dropout(self.think(self.think_norm(h)))


class PriorNetwork(nn.Module):
    """Statements, covariates and the symbols drawn so far to the logits of every token's symbol.

    Symbols: ``0 .. K-1`` codes, ``K`` left normal, ``K + 1`` not yet drawn.

    Args:
        config, codebook: sizes.
        tokens: N of a beat.
        memory_width: of a statement's token.
    """

    def __init__(self, config: SeparatorConfig, codebook: CodebookConfig, tokens: int, memory_width: int) -> None:
        super().__init__()
        self.normal, self.hidden = codebook.size, codebook.size + 1
        width = config.width
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.patient = nn.Linear(COVARIATES, width)
        self.symbol = nn.Embedding(codebook.size + 2, width)
        self.statements = ReportAttention(width, memory_width, config.heads)
        self.layers = nn.ModuleList(_Layer(width, config.heads) for _ in range(_LAYERS))
        self.head = nn.Linear(width, codebook.size + 1)

    def forward(self, covariates: Tensor, memory: Tensor, mask: Tensor, symbols: Tensor) -> Tensor:
        """Score symbols.

        Args:
            covariates: ``(B, 3)``.
            memory, mask: ``(B, L, memory_width)`` and ``(B, L)``, the requested statements.
            symbols: ``(B, N)`` int64.

        Returns:
            Logits ``(B, N, K + 1)``.
        """
        return self._score(symbols, self._known(covariates), self.statements.read(memory, mask))

    def _known(self, covariates: Tensor) -> Tensor:
        """What a token knows whatever is drawn, its place and its patient: ``(B, N, width)``."""
        return self.place + self.patient(covariates).unsqueeze(1)

    def _score(self, symbols: Tensor, known: Tensor, asked: Read, places: Tensor | None = None) -> Tensor:
        """Score the symbols of all tokens, ``(B, N, K + 1)``, or of some ``places (B, n)``, ``(B, n, K + 1)``."""
        h = self.symbol(symbols) + known  # (B, N, width)
        for number, layer in enumerate(self.layers, start=1):
            h = layer(h + self.statements.answer(h, asked), places if number == len(self.layers) else None)
        return self.head(h)

    def loss(
        self, covariates: Tensor, memory: Tensor, mask: Tensor, symbols: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Hide a random share of the symbols of each beat and score them: mean cross-entropy, nats a token.

        Args:
            covariates, memory, mask: as in ``forward``.
            symbols: ``(B, N)`` int64, codes or ``K``.
            generator: of the device.
        """
        return self.loss_where(covariates, memory, mask, symbols, self.draw_hidden(symbols, generator))

    @staticmethod
    def draw_hidden(symbols: Tensor, generator: torch.Generator) -> Tensor:
        """Choose a random share of the symbols ``(B, N)`` of each beat: bool ``(B, N)``."""
        share = torch.rand(len(symbols), 1, generator=generator, device=symbols.device).clamp_min(_FEWEST_HIDDEN)
        return torch.rand(symbols.shape, generator=generator, device=symbols.device) < share

    def loss_where(self, covariates: Tensor, memory: Tensor, mask: Tensor, symbols: Tensor, hide: Tensor) -> Tensor:
        """Score the symbols that are hidden by ``hide (B, N)`` bool; else as ``loss``."""
        logits = self(covariates, memory, mask, symbols.masked_fill(hide, self.hidden)).float()
        loss = F.cross_entropy(logits.transpose(1, 2), symbols, reduction="none")  # (B, N)
        return (loss * hide).sum() / hide.sum().clamp_min(1)

    @torch.no_grad()
    def sample(
        self,
        covariates: Tensor,
        valid: Tensor,
        memory: Tensor,
        mask: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw symbols ``(B, N)`` int64; tokens that are not ``valid (B, N)`` are left normal.

        Args:
            covariates, memory, mask: as in ``forward``.
            valid: ``(B, N)`` 0 or 1.
            generator: CPU generator; another state gives other twins of the same request.
        """
        device = valid.device
        symbols = torch.full(valid.shape, self.hidden, device=device)
        order = torch.rand(valid.shape, generator=generator).argsort(dim=1).to(device)  # (B, N)
        known, asked = self._known(covariates), self.statements.read(memory, mask)
        for places in order.tensor_split(_DRAWS, dim=1):  # (B, n), n = N / _DRAWS
            logits = self._score(symbols, known, asked, places).float()  # (B, n, K + 1)
            weights = logits.softmax(dim=-1).flatten(0, 1).cpu()  # (B n, K + 1)
            drawn = torch.multinomial(weights, 1, generator=generator).reshape(places.shape).to(device)
            drawn = torch.where(valid.gather(1, places) > 0, drawn, torch.full_like(drawn, self.normal))
            symbols = symbols.scatter(1, places, drawn)
        return symbols
