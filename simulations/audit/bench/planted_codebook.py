"""Codebooks of the test bench: codes that are copied latents are found, codes that are sums are let pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.training.guided import GuidedBeats
from lavq_core.training.separator_training import SeparatorTrainer
from simulations.audit.attacks.codebook import nearest_code
from simulations.audit.bench.case import Case, Outcome, membership
from simulations.audit.bench.small_release import REPEATS, Release, World, coins, sample, train

Bug = Callable[[], AbstractContextManager[None]]


@contextmanager
def dead_codes_copy_latents() -> Iterator[None]:
    """Before a site's statistics leave, give every code that no latent chose a latent of the site's own (the bug).

    Usual in VQ implementations ("random restart", Dhariwal et al. 2020, *Jukebox*, appendix B.1), where a codebook is
    nobody's secret.
    """
    sound = SeparatorTrainer.statistics

    def statistics(self: SeparatorTrainer, data: GuidedBeats, batch: int = 256) -> dict[str, Tensor]:
        total = sound(self, data, batch)
        sick = data.take(data.abnormal())
        with torch.no_grad():
            found = self.networks.separator(sick.x, sick.covariates, sick.valid, sick.memory, sick.mask)
        latents = F.normalize(found.latents, dim=-1)[sick.valid > 0]  # (M, D), of any gate
        dead = (total["counts"] == 0).nonzero().flatten()
        chosen = torch.randint(len(latents), (len(dead),), generator=self._generator)
        total["sums"][dead], total["counts"][dead] = latents[chosen], 1.0
        return total

    with patch.object(SeparatorTrainer, "statistics", statistics):
        yield


def play_codebook(bug: Bug, seed: int, here: World | None = None) -> Sequence[Outcome]:
    """Train with or without a bug, and attack the codebook with the separator that is shared beside it."""
    here = here or sample()
    member = coins(seed, here.people.count)
    with bug():
        release = train(here, member, seed)
    return attack_codebook(here, release, member)


def attack_codebook(here: World, release: Release, member: np.ndarray) -> tuple[Outcome, Outcome]:
    """Ask of every patient with an abnormal record whether a code is one of the patient's latents."""
    sick = here.people.take(here.people.beats.abnormal())
    scores = nearest_code(release.networks.separator, release.codebook["codes"], sick)  # (P,)
    return membership(scores, member)


CASES: tuple[Case, ...] = (
    Case(
        "planted/codebook-copies",
        "codes that nobody uses are revived by copying latents of training records",
        True,
        None,
        REPEATS,
        partial(play_codebook, dead_codes_copy_latents),
    ),
    Case(
        "correct/codebook",
        "codes are sums of latents, and one that nobody uses splits the most popular: no patient's latent is a code",
        False,
        None,
        REPEATS,
        partial(play_codebook, nullcontext),
    ),
)
