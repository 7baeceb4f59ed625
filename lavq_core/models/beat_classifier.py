"""The beat classifier: which diagnostic statements does this median beat show?

Superclasses are too coarse a judge for an editor that is asked for statements: a left and a right bundle branch block
are both CD. The classifier learns the statements from the site's own real beats beside the editor, whose twins have to
score like the beats their codes came from. As the auxiliary classifier of Odena et al. (2017, *Conditional Image
Synthesis with Auxiliary Classifier GANs*), but it never sees a twin in its own training. It does not leave the site.
"""

from __future__ import annotations

from torch import Tensor, nn

from lavq_core.signals.leads import INDEPENDENT_LEADS

_WIDTH, _FEATURES = 48, 128
_COARSE = 12  # samples of time that are left before the features are made


class BeatClassifier(nn.Module):
    """Median beats to logits of statements.

    Args:
        statements: how many, S.
        stride: samples a token of the separator; sets the first convolution's reach, whatever the sampling rate.
    """

    def __init__(self, statements: int, stride: int) -> None:
        super().__init__()
        # No normalisation: voltage is a criterion of hypertrophy, and GroupNorm divides it out.
        leads = len(INDEPENDENT_LEADS)
        self.net = nn.Sequential(
            nn.Conv1d(leads, _WIDTH, 2 * stride + 1, stride=stride // 2, padding=stride),
            nn.GELU(),
            nn.Conv1d(_WIDTH, _WIDTH, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(_WIDTH, _WIDTH, 5, padding=2),
            nn.GELU(),
            nn.AdaptiveAvgPool1d(_COARSE),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(_WIDTH * _COARSE, _FEATURES),
            nn.GELU(),
            nn.Linear(_FEATURES, statements),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Score beats ``(B, 8, W)`` in mV: logits ``(B, S)``."""
        return self.net(x)
