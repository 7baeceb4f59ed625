"""The judge of median beats says what the detector says of their part of a description."""

from __future__ import annotations

import numpy as np
import torch

from lavq_core.models.beat_judge import BeatJudge
from lavq_core.training.site_data import SiteData
from tests.core.private_separator.making import trained_detector


def test_the_judge_reads_beats_as_the_detector_does_and_passes_a_gradient(site: SiteData) -> None:
    detector, positions = trained_detector(), site.with_beats(site.train_positions)[:4]
    described = torch.from_numpy(np.array(site.database.descriptions[positions]))
    beats = site.beats.x[:4].clone().requires_grad_(True)
    rest = detector.centre[8 * 96 :].expand(4, -1)
    seen = torch.cat([described[:, : 8 * 96], rest], dim=1)
    told = BeatJudge(detector)(beats)
    assert torch.allclose(told, detector.head(detector.standard(seen)), atol=1e-5)
    told.sum().backward()
    assert beats.grad is not None
    assert float(beats.grad.abs().max()) > 0
