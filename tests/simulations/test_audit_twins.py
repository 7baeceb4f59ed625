"""Attacks on twins: searches and densities by hand, and whom copies, edits and foreign beats lead to."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.twins import identity_top1
from lavq_core.models.beat_input import BeatInput
from lavq_core.models.editor import Editor
from lavq_core.models.networks import make_networks
from lavq_core.models.twins import Patients, Twins
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData
from simulations.audit.attacks import twin_codes
from simulations.audit.attacks.identity_search import Search, beat_distance, matched_others, search
from simulations.audit.attacks.linkage import Linkage, linkage
from simulations.audit.attacks.people import People
from simulations.audit.attacks.published_twins import PublishedTwins
from simulations.audit.attacks.twin_codes import MembersNamed, donor_recovery, members_named
from simulations.audit.attacks.twin_density import twin_density
from simulations.audit.measure import Proportion
from tests.simulations.told_separator import MI, Told, angled, people, records

STTC = SUPERCLASSES.index("STTC")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Searches


def test_a_search_counts_who_is_nearer_and_a_tie_is_a_miss() -> None:
    distance = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, 2.0, 5.0]])
    found = search(distance, np.array([0, 1, 0]))
    assert found == Search(3, Proportion(1, 3), Proportion(3, 3))
    assert (found.chance1, found.chance10) == (1 / 3, 1.0)


def test_the_ten_nearest_are_ten() -> None:
    distance = np.tile(np.arange(40.0), (3, 1))
    found = search(distance, np.array([0, 9, 10]))
    assert (found.top1.hits, found.top10.hits, found.chance10) == (1, 2, 0.25)


def test_who_is_barred_is_not_in_the_gallery() -> None:
    distance = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    found = search(distance, np.array([1, 2]), np.array([0, 0]))
    assert found == Search(2, Proportion(1, 2), Proportion(2, 2))


def test_a_search_is_the_identity_search_of_the_twins_experiment() -> None:
    gallery, owners = noise(40, 8, 6), np.arange(20)
    made = gallery[:20] + 2.5 * noise(20, 8, 6, seed=1)
    square = ((_centred(made)[:, None] - _centred(gallery)[None]) ** 2).sum((2, 3))
    hits = identity_top1(made, owners, gallery, among=40)
    assert 0 < hits.sum() < 20
    assert search(square, owners).top1 == Proportion(int(hits.sum()), 20)


def _centred(beats: np.ndarray) -> np.ndarray:
    return np.asarray(beats - beats.mean(axis=-1, keepdims=True))


def test_beats_differ_by_the_mean_absolute_difference_whatever_their_offsets() -> None:
    a, b = np.zeros((1, 2, 4)), np.zeros((2, 2, 4))
    a[0, 0] = [0.0, 1.0, 2.0, 3.0]
    b[0, 0], b[0, 1] = a[0, 0] + 7.0, -2.0
    b[1, 0, 3] = 4.0
    np.testing.assert_allclose(beat_distance(a, b), [[0.0, (1.5 + 0.5 + 0.5 + 2.5) / 8]])


def test_the_most_alike_other_has_the_same_classes_and_is_somebody_else() -> None:
    beats = records([MI, MI, STTC, MI])
    beats.covariates[:, 0] = torch.tensor([0.0, 0.1, 0.0, 3.0])
    some = people(beats, [0, 0, 1, 2], 3)
    assert matched_others(np.array([0, 1, 2, 3]), some).tolist() == [3, 3, 0, 1]


# Linkage


def two_records_each(persons: int, seed: int = 0, spread: float = 0.5) -> People:
    """Everybody has two records, the second like the first; 20 more people have one."""
    beats = records([MI] * (2 * persons + 20))
    first = noise(persons, 8, 8, seed=seed)
    second = first + spread * noise(persons, 8, 8, seed=seed + 1)
    beats.x = torch.from_numpy(np.concatenate([first, second, noise(20, 8, 8, seed=seed + 2)]))
    beats.covariates = torch.from_numpy(noise(len(beats), 3, seed=seed + 3))
    owner = [*range(persons), *range(persons), *range(persons, persons + 20)]
    return people(beats, owner, persons + 20)


def test_a_twin_that_keeps_its_patient_leads_to_source_and_person() -> None:
    some = two_records_each(30)
    source = np.arange(30)
    twins = some.beats.x.numpy()[source].copy()
    twins[..., :4] += noise(30, 8, 4, seed=9)  # half of the beat is edited
    found = linkage(twins, source, some)
    assert (found.source.among, found.source_control.among) == (50, 49)
    assert found.source.top1 == Proportion(30, 30)
    assert found.real.top1.value > 0.9
    assert 0.5 < found.another.top1.value <= found.real.top1.value
    assert found.source_control.top1.hits + found.another_control.top1.hits <= 4  # of 60, at 1 in 49
    assert found.leads_to_source()
    assert found.leads_to_person()


def test_a_twin_of_nobody_leads_nowhere() -> None:
    some = two_records_each(30)
    found = linkage(noise(30, 8, 8, seed=7), np.arange(30), some)
    assert found.source.top1.low <= found.source.chance1
    assert not found.leads_to_source()
    assert not found.leads_to_person()
    assert found.real.top1.value > 0.9  # it is the twin that does not lead there


def test_only_people_with_another_record_are_looked_for_by_it() -> None:
    some = two_records_each(5)
    source = np.array([0, 1, 2, 12, 13])  # the last two have one record
    found = linkage(some.beats.x.numpy()[source], source, some)
    assert (found.source.top1.trials, found.another.top1.trials, found.real.top1.trials) == (5, 3, 3)
    assert found.source.among == found.another.among == 25


def test_linkage_refuses_what_it_cannot_count() -> None:
    some = two_records_each(5)
    with pytest.raises(ValueError, match="one twin of each"):
        linkage(noise(2, 8, 8), np.array([0, 5]), some)
    with pytest.raises(ValueError, match="another usable record"):
        linkage(noise(2, 8, 8), np.array([0, 12]), some)


def test_links_count_only_beyond_those_of_somebody_alike() -> None:
    found, rare = (
        Search(100, Proportion(30, 100), Proportion(50, 100)),
        Search(100, Proportion(2, 100), Proportion(9, 99)),
    )
    assert Linkage(found, rare, found, rare, found).leads_to_source()
    assert not Linkage(found, found, found, found, found).leads_to_source()
    assert not Linkage(found, rare, found, found, found).leads_to_person()


# Membership and donors


def test_density_is_minus_the_logarithm_of_the_distance_to_the_nearest_twin() -> None:
    beats = records([MI] * 3)
    beats.x = torch.zeros(3, 8, 8)
    beats.x[0, 0, :2], beats.x[1, 0, :2], beats.x[2, 0, :2] = 64.0, 128.0, 0.0  # their medians are 0
    twins = np.zeros((2, 8, 8), np.float32)
    twins[0, 0, :2], twins[1, 0, :2] = 96.0, 1000.0
    found = twin_density(twins, people(beats, [0, 0, 1], 3))
    np.testing.assert_allclose(found[:2], [-np.log(32.0 * 2 / 64 + 1e-4), -np.log(96.0 * 2 / 64 + 1e-4)])
    assert np.isnan(found[2])


def published(rows: list[int]) -> PublishedTwins:
    """Twins that the told separator answers as these rows of its tables."""
    x = torch.tensor(rows).float()[:, None, None].expand(-1, 8, 8).contiguous()
    return PublishedTwins(
        BeatInput(x, torch.zeros(len(rows), 3), torch.ones(len(rows), 2)),
        torch.zeros(len(rows), 1, 4),
        torch.zeros(len(rows), 1, dtype=torch.bool),
    )


def test_a_twin_names_the_person_whose_codes_it_shows() -> None:
    """Rows 0 to 3 are records, 4 to 6 twins: two like record 1, one like record 3 but for one token's direction."""
    opened = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 1], [1, 1], [1, 1], [0, 1]]).float()
    latents = angled([[0, 0], [0, 90], [0, 0], [0, 90], [10, 80], [5, 90], [0, 60]])
    networks = SimpleNamespace(separator=Told(opened, latents))
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    some = people(records([MI, MI, MI, MI, NORM]), [0, 1, 2, 3, 4], 5)
    member = np.array([False, True, False, False, True])
    named = members_named(networks, codes, published([4, 5, 6]), some, member)  # type: ignore[arg-type]
    assert named == MembersNamed(Proportion(1, 2), 0.25)  # people 1 and 3, once each; NORM-only people are not asked
    assert not named.leak()
    assert MembersNamed(Proportion(30, 40), 0.5).leak()


# Donors, with a real separator


@pytest.mark.parametrize("copies", [True, False], ids=["donors copied", "nothing written"])
def test_donors_are_found_where_their_beat_is_in_the_twin(
    sample_database: Database, monkeypatch: pytest.MonkeyPatch, copies: bool
) -> None:
    config = compose(["separator.width=16", "separator.blocks=1", "separator.heads=2"])
    networks = make_networks(config, 0)
    # As drawn, all gates lie on one side of the threshold, and latents tell age and heart rate rather than the beat.
    with torch.no_grad():
        networks.separator.gate.weight.mul_(50.0)
        networks.separator.stem.patient.weight.zero_()
        networks.editor.paint.weight.zero_()  # writes nothing
        networks.editor.paint.bias.zero_()
    positions = np.arange(0, len(sample_database), 5)
    _, owner = np.unique(sample_database.table["patient_id"].to_numpy()[positions], return_inverse=True)
    some = People.of_records(sample_database, config, positions, owner, int(owner.max()) + 1)
    site = SiteData("test", sample_database, positions, config)
    sick = some.beats.abnormal().numpy()
    donors = sick[np.unique(some.owner[sick], return_index=True)[1]]
    theirs = site.patients(some.positions[donors])

    def copied(editor: Editor, codes: torch.Tensor, patients: Patients, symbols: torch.Tensor) -> Twins:
        assert len(patients) == len(symbols) == len(donors)
        return Twins(theirs.signal, theirs.input.x, theirs.input.valid, torch.ones_like(theirs.signal[:, 0]))

    if copies:
        monkeypatch.setattr(twin_codes, "make_twins", copied)
    given = some.beats.take(torch.from_numpy(donors))
    with torch.no_grad():  # a codebook that describes everybody exactly
        read = networks.separator(given.x, given.covariates, given.valid, given.memory, given.mask)
        codes = torch.nn.functional.normalize(read.latents, dim=-1).flatten(0, 1)  # (q N, D)
    found = donor_recovery(networks, codes, site.healthy, donors, some)
    assert found.donor.among == len(np.unique(some.owner[sick])) == found.control.among + 1
    assert found.donor.top1.trials == len(donors) > 50
    assert found.leak() == copies
    if copies:
        assert found.donor.top1.value > 20 * found.donor.chance1
