"""The networks that split and edit beats: separator, editor and prior network, kept and moved as one.

Which of them leave a site is ``federation.share``; the others stay on its disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lavq_core.models.editor import Editor
from lavq_core.models.prior_network import PriorNetwork
from lavq_core.models.separator import Separator
from lavq_core.settings import Config
from lavq_core.signals.beats import frame_length


class Networks(nn.Module):
    """Separator, editor and prior network of one configuration."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        sizes, codebook, tokens = config.separator, config.codebook, beat_tokens(config)
        self.separator = Separator(sizes, codebook, tokens, config.text.width)
        self.editor = Editor(sizes, codebook, tokens)
        self.prior = PriorNetwork(sizes, codebook, tokens, config.text.width)

    def shared(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the weights of some networks: ``{"editor.null": ..., ...}`` on the CPU."""
        wanted = tuple(f"{name}." for name in names)
        return {key: value.detach().cpu() for key, value in self.state_dict().items() if key.startswith(wanted)}

    def take_over(self, weights: dict[str, Tensor]) -> None:
        """Load what ``shared`` gave, the other networks are left as they are."""
        self.load_state_dict({**self.state_dict(), **weights})


def beat_tokens(config: Config) -> int:
    """Tokens N of a beat."""
    return frame_length(config.data.sampling_rate) // config.separator.stride


def make_networks(config: Config, seed: int) -> Networks:
    """Make the networks from the seed alone, in eval mode: every site starts from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(config).eval()
