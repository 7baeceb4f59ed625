from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError
from simulations.partitions import home_sites, partition

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """A database's table: patients with several records, sites unknown or more than one, dates missing."""
    size = draw(st.integers(4, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dates = pd.Series(pd.Timestamp("1990-01-01") + pd.to_timedelta(generator.integers(0, 3000, size), unit="D"))
    table = pd.DataFrame(
        {
            "patient_id": generator.integers(1, draw(st.integers(8, 60)), size),
            "site": generator.integers(-1, draw(st.integers(1, 6)), size),
            "recording_date": dates.where(generator.random(size) > 0.1).to_numpy(),
        },
        index=pd.Index(np.cumsum(generator.integers(1, 5, size)), name="ecg_id"),
    )
    table[list(SUPERCLASSES)] = (generator.random((size, 5)) < 0.3).astype("int64")
    return table


SCHEMES = st.sampled_from(["site", "iid", "dirichlet:0.001", "dirichlet:0.1", "dirichlet:1", "dirichlet:1e4"])


@settings(max_examples=150, deadline=None)
@given(table=tables(), scheme=SCHEMES, sites=st.integers(0, 6), seed=st.integers(0, 2**31))
def test_every_record_once_every_patient_whole_every_client_filled(
    table: pd.DataFrame, scheme: str, sites: int, seed: int
) -> None:
    try:
        clients = partition(table, scheme, sites, seed)
    except ConfigError:
        known = home_sites(table).nunique()  # a site whose patients all belong to others has nobody left
        assert sites == 0 or sites > min(table["patient_id"].nunique(), known)
        return
    everything = np.concatenate(list(clients.values()))
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(table)))
    patients = [set(table["patient_id"].iloc[positions]) for positions in clients.values()]
    assert sum(map(len, patients)) == table["patient_id"].nunique()
    for positions in clients.values():
        assert len(positions) > 0
        assert positions.dtype == np.int64
        assert (np.diff(positions) > 0).all()
    if sites:
        assert len(clients) == sites
    again = partition(table, scheme, sites, seed)
    assert list(again) == list(clients)
    assert all(np.array_equal(again[name], clients[name]) for name in clients)


@settings(max_examples=50, deadline=None)
@given(table=tables())
def test_a_patient_belongs_to_the_site_of_the_earliest_record(table: pd.DataFrame) -> None:
    home = home_sites(table)
    assert set(home.index) == set(table["patient_id"])
    for patient, records in table.groupby("patient_id"):
        dated = records.dropna(subset="recording_date")
        if len(dated):
            earliest = dated[dated["recording_date"] == dated["recording_date"].min()]
            assert home[patient] == earliest.sort_index()["site"].iloc[0]
        else:
            assert home[patient] == records.sort_index()["site"].iloc[0]


def simple(sites: list[int]) -> pd.DataFrame:
    """One record a patient, at these recording sites."""
    table = pd.DataFrame(
        {"patient_id": range(len(sites)), "site": sites}, index=pd.RangeIndex(len(sites), name="ecg_id")
    )
    table["recording_date"] = pd.Timestamp("1990-01-01")
    table[list(SUPERCLASSES)] = 0
    table["NORM"] = 1
    return table


def sizes(clients: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: len(positions) for name, positions in clients.items()}


def test_the_largest_sites_get_a_client_and_the_tail_shares_one() -> None:
    table = simple([7] * 5 + [2] * 9 + [0] * 2 + [4] * 3 + [-1] * 6)
    assert sizes(partition(table, "site", 3)) == {"site-2": 9, "site-7": 5, "rest": 11}
    assert list(partition(table, "site", 3)) == ["site-2", "site-7", "rest"]
    assert sizes(partition(table, "site", 1)) == {"rest": 25}


def test_zero_clients_means_one_for_every_recording_site() -> None:
    table = simple([10] * 2 + [2] * 3 + [-1])
    assert sizes(partition(table, "site", 0)) == {"site-2": 3, "site-10": 2, "site-unknown": 1}
    assert list(partition(table, "site", 0)) == ["site-2", "site-10", "site-unknown"]


def test_two_clients_of_two_recording_sites_are_both_filled() -> None:
    assert sizes(partition(simple([0] * 3 + [1] * 2), "site", 2)) == {"site-0": 3, "rest": 2}


@pytest.mark.parametrize("sites", [3, 9, -1])
def test_more_clients_than_recording_sites_is_refused(sites: int) -> None:
    with pytest.raises(ConfigError, match="2 recording sites known"):
        partition(simple([0] * 3 + [1] * 2), "site", sites)


def test_without_known_sites_other_schemes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"0 recording sites known: .*dirichlet:ALPHA or iid"):
        partition(simple([-1] * 5), "site", 4)
    assert len(partition(simple([-1] * 5), "iid", 4)) == 4


@pytest.mark.parametrize("scheme", ["", "sites", "site:3", "iid:1", "random"])
def test_an_unknown_scheme_is_refused_with_the_choices(scheme: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown partition .*: choose site, dirichlet:ALPHA or iid"):
        partition(simple([0, 1, 2]), scheme, 2)


@pytest.mark.parametrize(
    "scheme", ["dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:x", "dirichlet:1e7"]
)
def test_a_concentration_must_be_above_zero(scheme: str) -> None:
    with pytest.raises(ConfigError, match="concentration above 0"):
        partition(simple([0, 1, 2]), scheme, 2)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:1"])
@pytest.mark.parametrize("sites", [0, 4])
def test_clients_must_fit_the_patients(scheme: str, sites: int) -> None:
    with pytest.raises(ConfigError, match="3 patients"):
        partition(simple([0, 1, 2]), scheme, sites)


@pytest.fixture(scope="module")
def database(sample_database: Database) -> Database:
    return sample_database


def skew(database: Database, scheme: str) -> float:
    """Largest spread between clients of any class's share of records, averaged over seeds."""
    spreads = []
    for seed in range(5):
        clients = partition(database.table, scheme, 4, seed)
        shares = np.stack([database.labels[positions].mean(axis=0) for positions in clients.values()])
        spreads.append(np.ptp(shares, axis=0).max())
    return float(np.mean(spreads))


def test_a_small_concentration_skews_labels_and_a_large_one_does_not(database: Database) -> None:
    assert skew(database, "dirichlet:0.1") > 0.4
    assert skew(database, "dirichlet:1000") < 0.2
    assert skew(database, "iid") < 0.2


def test_seeds_deal_differently(database: Database) -> None:
    first, second = (partition(database.table, "iid", 4, seed)["client-0"] for seed in (0, 1))
    assert not np.array_equal(first, second)
