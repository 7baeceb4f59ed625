"""The codes that twins bear: whose disease they show (donors), and whether they name those who trained the editor.

The attacker reads the codes off a twin again with the published separator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.codebook import quantise
from lavq_core.models.networks import Networks
from lavq_core.models.twins import Patients, make_twins
from simulations.audit.attacks.identity_search import Search, gallery, matched_others, search
from simulations.audit.attacks.people import People
from simulations.audit.attacks.published_twins import PublishedTwins
from simulations.audit.measure import Proportion
from simulations.experiments.twin_arms import disease_symbols


@dataclass(frozen=True)
class DonorRecovery:
    """Where the codes of twins lead that were made with donors' codes."""

    donor: Search  # from a twin to its donor
    control: Search  # from the twin of a matched other donor to that same donor

    def leak(self) -> bool:
        """Tell whether donors are found, beyond what any twin with an alike donor's codes does."""
        return self.donor.top1.low > self.control.top1.high


@dataclass(frozen=True)
class MembersNamed:
    """Whose codes a twin's are most like: members' more often than there are members?"""

    members: Proportion  # twins whose nearest person was trained on
    chance: float  # share of members among the people

    def leak(self) -> bool:
        """Tell whether members are named more often than by chance."""
        return self.members.low > self.chance


def donor_recovery(
    networks: Networks, codes: Tensor, patients: Patients, donors: np.ndarray, people: People
) -> DonorRecovery:
    """Make twins with the codes of donors, as the experiment's ``donor`` arm does, and look for the donors.

    The attacker reads the codes off the twin again, told what it was asked for, and compares them with what the
    separator reads off everybody's abnormal records. The control answers with the twin of the most alike other donor.

    Args:
        networks: in eval mode.
        codes: ``(K, D)``.
        patients: healthy ones, whose content the twins have; donors share them out in turn.
        donors: ``(q,)`` int64 abnormal rows of ``people``, one of a person.
        people: among whom donors are looked for, each by one abnormal record.
    """
    given = people.beats.take(torch.from_numpy(donors))
    symbols = disease_symbols(networks.separator, codes, given, given.memory, given.mask)  # (q, N)
    content = patients.take(torch.arange(len(donors)) % len(patients))
    twins = PublishedTwins.of(
        make_twins(networks.editor, codes, content, symbols), content, given.asked, given.asked_mask
    )
    sick = people.take(people.beats.abnormal())
    own = np.searchsorted(people.beats.abnormal().numpy(), donors)  # (q,) rows of ``sick``
    there = gallery(own, sick)
    place = np.searchsorted(sick.owner[there], people.owner[donors])
    alike = matched_others(donors, people)
    differs = _code_distance(networks, codes, twins, sick.take(torch.from_numpy(there)))  # (q, g)
    return DonorRecovery(search(differs, place), search(differs[alike], place, place[alike]))


def members_named(
    networks: Networks, codes: Tensor, twins: PublishedTwins, people: People, member: np.ndarray
) -> MembersNamed:
    """Look for the person whose abnormal record each twin's codes are most like: a member more often than by chance?

    Nobody is the donor of a twin whose codes the prior network drew. But a network that learned its training records by
    heart draws theirs. A person who is nearest to many twins counts once, so that trials are independent.

    Args:
        networks: in eval mode.
        codes: ``(K, D)``.
        twins: see ``published_twins``; of people other than ``people``'s members, or of everybody alike.
        people: whose abnormal records are compared.
        member: ``(P,)`` bool.
    """
    sick = people.take(people.beats.abnormal())
    nearest = _code_distance(networks, codes, twins, sick).argmin(axis=1)  # (t,)
    found = np.unique(sick.owner[nearest])
    return MembersNamed(Proportion(int(member[found].sum()), len(found)), float(member[np.unique(sick.owner)].mean()))


@torch.no_grad()
def _code_distance(networks: Networks, codes: Tensor, twins: PublishedTwins, people: People) -> np.ndarray:
    """Compare what the separator reads off twins with the codes it reads off records: ``(t, n)``, per valid token.

    A token costs 1 where only one gate is open, 1 - cos(twin's latent, record's code) where both are, else nothing.
    """
    separator, records, made = networks.separator, people.beats, twins.beats
    given = separator(records.x, records.covariates, records.valid, records.memory, records.mask)
    read = separator(made.x, made.covariates, made.valid, twins.memory, twins.mask)
    theirs, _ = quantise(given.latents, codes)  # (n, N, D)
    cost = []
    for latents, opened, valid in zip(F.normalize(read.latents, dim=-1), read.gate > 0.5, made.valid, strict=True):
        both, either = (given.gate > 0.5) & opened, (given.gate > 0.5) | opened  # (n, N)
        apart = either.float() - both * (theirs * latents).sum(-1)  # (n, N)
        cost.append((apart * valid).sum(-1) / valid.sum().clamp_min(1.0))
    return torch.stack(cost).double().numpy()
