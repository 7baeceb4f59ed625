"""Deal the records of one database out to simulated hospitals. Every patient goes to exactly one.

``site`` keeps PTB-XL's recording sites, a natural feature shift: sites differ in device, report language, label quality
and patients at once. ``dirichlet:ALPHA`` skews the labels (Hsu et al., arXiv 1909.06335, here over patients); ``iid``
skews nothing. A deployment has real hospitals and needs none of this.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lavq_core.data.database import chronological
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.ptbxl import UNKNOWN_SITE
from lavq_core.errors import ConfigError

REST = "rest"
"""The client that pools all recording sites without a client of their own."""

LARGEST_ALPHA = 1e6
"""Concentrations beyond it deal no more evenly."""

UNKNOWN = "site-unknown"
"""The client of patients whose recording site is unknown, when every recording site has its own."""


def partition(table: pd.DataFrame, scheme: str, sites: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Split a database's records over clients.

    Args:
        table: ``Database.table``, a row per record.
        scheme: ``site``; ``dirichlet:ALPHA`` with a concentration above 0, the smaller the more skewed; or ``iid``.
        sites: number of clients. With ``site`` the largest recording sites get one each, ``site-0`` and so on by their
            numbers, and the last client, ``rest``, pools all others; 0 gives every recording site its own.
        seed: of ``dirichlet`` and ``iid``.

    Returns:
        Ascending positions (int64) by client name. Every record is in exactly one, all of a patient's in the same.

    Raises:
        ConfigError: an unknown scheme, or a number of clients that these records cannot fill.
    """
    kind, _, argument = scheme.partition(":")
    if kind == "site" and not argument:
        owner = _by_site(table, sites)
    elif kind == "iid" and not argument:
        owner = _iid(_patients(table, sites), sites, np.random.default_rng(seed))
    elif kind == "dirichlet":
        owner = _dirichlet(table, sites, _concentration(scheme, argument), np.random.default_rng(seed))
    else:
        raise ConfigError(f"unknown partition {scheme!r}: choose site, dirichlet:ALPHA or iid")
    client = table["patient_id"].map(owner).to_numpy()  # (n,) client names
    return {name: np.flatnonzero(client == name) for name in sorted(owner.unique(), key=_number)}


def home_sites(table: pd.DataFrame) -> pd.Series:
    """Give each patient one recording site, that of the earliest record: site indexed by patient_id."""
    return chronological(table).drop_duplicates("patient_id").set_index("patient_id")["site"]


def _by_site(table: pd.DataFrame, sites: int) -> pd.Series:
    """Client names indexed by patient_id."""
    home = home_sites(table)
    records = table["patient_id"].map(home).value_counts()  # per site, after every patient has one
    known = sorted((site for site in records.index if site != UNKNOWN_SITE), key=lambda site: (-records[site], site))
    if sites == 0:
        return home.map(lambda site: f"site-{site}" if site != UNKNOWN_SITE else UNKNOWN)
    if sites < 0 or sites > len(records) or sites - 1 > len(known):
        raise ConfigError(
            f"{sites} clients by recording site asked for, {len(known)} recording sites known: ask for fewer "
            "(federation.sites), or use partition dirichlet:ALPHA or iid"
        )
    own = set(known[: sites - 1])
    return home.map(lambda site: f"site-{site}" if site in own else REST)


def _iid(patients: np.ndarray, sites: int, generator: np.random.Generator) -> pd.Series:
    parts = np.array_split(generator.permutation(patients), sites)
    return _owners(parts)


def _dirichlet(table: pd.DataFrame, sites: int, alpha: float, generator: np.random.Generator) -> pd.Series:
    """Per label, deal its patients out in proportions drawn from a symmetric Dirichlet distribution.

    A patient with several labels counts for one of them, drawn at random. A client left empty takes a patient from the
    largest one, so that none is without data.
    """
    patients = _patients(table, sites)
    any_label = table.groupby("patient_id")[list(SUPERCLASSES)].max().loc[patients].to_numpy()  # (patients, 5)
    weights = np.column_stack([any_label, any_label.sum(axis=1) == 0])  # the last column: no superclass at all
    label = (generator.random(weights.shape) * weights).argmax(axis=1)
    parts: list[list[int]] = [[] for _ in range(sites)]
    for value in range(weights.shape[1]):
        shuffled = generator.permutation(patients[label == value])
        shares = generator.dirichlet(np.full(sites, alpha))
        ends = np.round(np.cumsum(shares)[:-1] * len(shuffled)).astype(int)
        for part, some in zip(parts, np.split(shuffled, ends), strict=True):
            part += some.tolist()
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return _owners([np.asarray(part) for part in parts])


def _owners(parts: list[np.ndarray]) -> pd.Series:
    """Client names ``client-0``... indexed by the patients dealt to each."""
    names = np.repeat([f"client-{i}" for i in range(len(parts))], [len(part) for part in parts])
    return pd.Series(names, index=np.concatenate(parts))


def _patients(table: pd.DataFrame, sites: int) -> np.ndarray:
    """Patient numbers, ascending; at least one a client."""
    patients = np.unique(table["patient_id"].to_numpy())
    if not 1 <= sites <= len(patients):
        raise ConfigError(f"{sites} clients asked for, {len(patients)} patients there: set federation.sites between")
    return patients


def _concentration(scheme: str, text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0.0 < alpha <= LARGEST_ALPHA:
        raise ConfigError(
            f"partition {scheme!r} needs a concentration above 0 and at most {LARGEST_ALPHA:g}: write dirichlet:0.5, "
            "for example"
        )
    return alpha


def _number(name: str) -> tuple[bool, int]:
    """Sort clients by their numbers, those without one last."""
    number = name.rpartition("-")[2]
    return (not number.isdigit(), int(number) if number.isdigit() else 0)
