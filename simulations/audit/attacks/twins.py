"""What twins give away: whose ECG they were made of, whose disease they show, and who trained the editor.

A twin keeps its patient's own samples outside the gate, bit for bit. That is what a twin is for, and so it *does* link
to that patient: the figures here say how surely, they are no news. They are why twins are the patient's data and stay
on site. Two things are told apart: that a twin leads to the very record it was made from (**source**), and that it
leads to another ECG of the same person (**another**), which is what harms somebody whose twin was published and who has
an ECG taken elsewhere. Distance to the closest record, the usual check of synthetic data, calls the second one private.

The attacker sees the finished signal and finds its median beat as in any ECG (``find_beats``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.beat_input import BeatInput
from lavq_core.models.codebook import CodebookState, quantise
from lavq_core.models.networks import Networks
from lavq_core.models.prior import available_diseases, draw_statements
from lavq_core.models.twins import Patients, Twins, make_twins, request_twins
from lavq_core.settings import Config
from lavq_core.signals.beats import find_beats
from lavq_core.text.statements import named, requests
from simulations.audit.attacks.people import People
from simulations.audit.measure import Proportion
from simulations.experiments.twin_arms import disease_symbols

_CLASS = 12.0  # standard deviations of a covariate that another superclass counts for, when others are matched
_NEAREST = 1e-4  # mV, added to a distance before its logarithm


@dataclass(frozen=True)
class Search:
    """How often the person looked for was found, among so many."""

    among: int  # N people, one record each
    top1: Proportion  # nearer than everybody else; a tie is a miss
    top10: Proportion  # among the ten nearest

    @property
    def chance1(self) -> float:
        """Rate of ``top1`` of somebody who guesses."""
        return 1.0 / self.among

    @property
    def chance10(self) -> float:
        """Rate of ``top10`` of somebody who guesses."""
        return min(1.0, 10.0 / self.among)


@dataclass(frozen=True)
class Linkage:
    """Where twins lead; only those whose person has another usable record are in the last three."""

    source: Search  # from a twin to the record that it was made from
    source_control: Search  # from the twin of a matched other person to that same record
    another: Search  # from a twin to another record of its person
    another_control: Search  # from the twin of a matched other person to that same record
    real: Search  # from the source record itself to another record of its person: what no twin at all would leave

    def leads_to_source(self) -> bool:
        """Tell whether twins find their source, beyond what any twin for somebody alike does."""
        return self.source.top1.low > self.source_control.top1.high

    def leads_to_person(self) -> bool:
        """Tell whether twins find another ECG of their person, beyond what any twin for somebody alike does."""
        return self.another.top1.low > self.another_control.top1.high


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


@dataclass(frozen=True)
class Published:
    """Twins as the attacker has them: n finished signals, each with the request that it answers."""

    beats: BeatInput  # median beats as found in the signals; covariates and valid tokens of the patients
    memory: Tensor  # (n, L, width) tokens of the requested statements
    mask: Tensor  # (n, L) bool

    @property
    def median(self) -> np.ndarray:
        """Median beats ``(n, 8, W)`` mV."""
        return self.beats.x.numpy()

    @classmethod
    def of(cls, twins: Twins, patients: Patients, memory: Tensor, mask: Tensor) -> Published:
        """Find the beats of finished twins of ``patients`` as in any ECG."""
        median = find_beats(twins.signal.numpy(), patients.sampling_rate).median
        return cls(replace(patients.input, x=torch.from_numpy(median)), memory, mask)


def published_twins(
    networks: Networks, codebook: CodebookState, config: Config, patients: Patients, seed: int
) -> Published:
    """Make a twin of each patient, of diseases that the federation has seen in equal shares, as a site does.

    Args:
        networks: in eval mode.
        codebook: the run's shared state; its ``requests`` say which statements to ask for.
        config: the run's.
        patients: whose content the twins have. To attack the editor and nothing else, take the same people, whom no
            run was trained on, for the run and its shadows.
        seed: of requests and draws.

    Raises:
        ValueError: the federation has not seen any disease.
    """
    generator = torch.Generator().manual_seed(seed)
    known = codebook["requests"]
    diseases = available_diseases(known)
    if len(diseases) == 0:
        raise ValueError("the codebook has counted no disease: its run has trained no editor")
    classes = diseases[torch.randperm(len(patients), generator=generator) % len(diseases)]
    wanted = named(draw_statements(known, classes, generator))
    made = request_twins(networks, codebook["codes"], patients, wanted, config, config.twins.strength, generator)
    asked = requests(wanted, config.text)
    return Published.of(made, patients, asked.tokens, asked.mask)


# Membership


def twin_density(twins: np.ndarray, people: People) -> np.ndarray:
    """Logarithm of the density of twins where a patient's own beat lies, up to scale and constant: ``(P,)`` float64.

    The estimate from the nearest neighbour, minus the logarithm of its distance (Loftsgaarden and Quesenberry 1965):
    one twin that copies a patient is enough, where a wider kernel would average it away. A patient counts by the
    densest place of the patient's records. Its difference to what shadow editors' twins say of the same patient is the
    density ratio of van Breugel et al. 2023 (DOMIAS, *Membership Inference Attacks against Synthetic Data through
    Overfitting Detection*), with shadows in place of a reference sample.

    Args:
        twins: ``(t, 8, W)`` mV, median beats, see ``published_twins``.
        people: scored by all their records.
    """
    nearest = beat_distance(people.beats.x.numpy(), twins).min(axis=1)  # (n,) mV
    return people.largest(-np.log(nearest + _NEAREST))


# Linkage


def linkage(twins: np.ndarray, source: np.ndarray, people: People) -> Linkage:
    """Look for the person of each twin among all people.

    Every person is in the gallery with one record. Who has a twin is there once with its source, and once, if there is
    one, with another record, the last. The control answers each search with the twin of another person, the most alike
    in superclasses, heart rate, age and sex, who is then taken out of the gallery.

    Args:
        twins: ``(q, 8, W)`` mV, median beats, at most one of a person.
        source: ``(q,)`` int64, rows of ``people``: the records that the twins were made from.
        people: gallery.

    Raises:
        ValueError: a person has two twins, or fewer than two have another record than their twin's source.
    """
    whose = people.owner[source]  # (q,)
    if len(np.unique(whose)) < len(whose):
        raise ValueError("a person may be looked for once: bring one twin of each")
    again = _last_other(source, people)  # (q,) rows, -1 where there is none
    several = np.flatnonzero(again >= 0)
    if len(several) < 2:
        raise ValueError("at least two people with a twin need another usable record")
    beats, alike = people.beats.x.numpy(), matched_others(source, people)
    partner = several[matched_others(source[several], people)]  # places in ``twins``

    def look(query: np.ndarray, target: np.ndarray, barred: np.ndarray | None = None) -> Search:
        gallery = _gallery(target, people)
        own = np.searchsorted(people.owner[gallery], people.owner[target])
        out = None if barred is None else np.searchsorted(people.owner[gallery], barred)
        return search(beat_distance(query, beats[gallery]), own, out)

    return Linkage(
        source=look(twins, source),
        source_control=look(twins[alike], source, whose[alike]),
        another=look(twins[several], again[several]),
        another_control=look(twins[partner], again[several], whose[partner]),
        real=look(beats[source[several]], again[several]),
    )


def search(distance: np.ndarray, own: np.ndarray, barred: np.ndarray | None = None) -> Search:
    """Count how often each query's own column is the nearest, or among the ten nearest.

    Args:
        distance: ``(q, g)``, from queries to people.
        own: ``(q,)`` int64 column of the one looked for.
        barred: ``(q,)`` int64 column that is left out of the row's gallery; none when left out.
    """
    rows = np.arange(len(distance))
    mine = distance[rows, own]
    as_near = distance <= mine[:, None]  # the own one is as near as itself
    among = distance.shape[1]
    if barred is not None:
        as_near[rows, barred] = False
        among -= 1
    ahead = as_near.sum(axis=1) - 1  # (q,)
    hits1, hits10 = int((ahead == 0).sum()), int((ahead < 10).sum())
    return Search(among, Proportion(hits1, len(rows)), Proportion(hits10, len(rows)))


def matched_others(rows: np.ndarray, people: People) -> np.ndarray:
    """Find for each record the most alike one of another person among them: places in ``rows``, ``(q,)`` int64."""
    beats, whose = people.beats, people.owner[rows]
    a, y = beats.covariates.numpy()[rows], beats.y.numpy()[rows]
    cost = cdist(a, a, "cityblock") + _CLASS * cdist(y, y, "cityblock")
    cost[whose[:, None] == whose[None]] = np.inf
    return np.asarray(cost.argmin(axis=1))


def beat_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of median beats ``(n, 8, W)`` and ``(m, 8, W)``: ``(n, m)`` mV; offsets do not count.

    Absolute and not squared: where a twin was not edited it is its patient, and an edit should not drown that.
    """

    def flat(beats: np.ndarray) -> np.ndarray:
        beats = np.asarray(beats, dtype=np.float64)
        return np.asarray((beats - np.median(beats, axis=-1, keepdims=True)).reshape(len(beats), -1))

    return np.asarray(cdist(flat(a), flat(b), "cityblock") / a[0].size)


# Donors


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
    twins = Published.of(make_twins(networks.editor, codes, content, symbols), content, given.asked, given.asked_mask)
    sick = people.take(people.beats.abnormal())
    own = np.searchsorted(people.beats.abnormal().numpy(), donors)  # (q,) rows of ``sick``
    gallery = _gallery(own, sick)
    place = np.searchsorted(sick.owner[gallery], people.owner[donors])
    alike = matched_others(donors, people)
    differs = _code_distance(networks, codes, twins, sick.take(torch.from_numpy(gallery)))  # (q, g)
    return DonorRecovery(search(differs, place), search(differs[alike], place, place[alike]))


def members_named(
    networks: Networks, codes: Tensor, twins: Published, people: People, member: np.ndarray
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
def _code_distance(networks: Networks, codes: Tensor, twins: Published, people: People) -> np.ndarray:
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


def _gallery(first: np.ndarray, people: People) -> np.ndarray:
    """One record of each person, ascending by person: the given ``first`` rows, of anybody else the first there is."""
    everybody, chosen = np.unique(people.owner, return_index=True)
    chosen[np.searchsorted(everybody, people.owner[first])] = first
    return np.asarray(chosen)


def _last_other(source: np.ndarray, people: People) -> np.ndarray:
    """The last record of each row's person that is not that row: ``(q,)``, -1 where there is none."""
    found = [np.flatnonzero(people.owner == people.owner[row]) for row in source]
    others = [rows[rows != row] for rows, row in zip(found, source, strict=True)]
    return np.array([rows[-1] if len(rows) else -1 for rows in others], dtype=np.int64)
