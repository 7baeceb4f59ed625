"""A site's privacy ledger as its operator sees it: what was released, what is left, and which data it counts for.

When records are added, corrected or taken out, the data have another fingerprint, and the ledger refuses them: nobody
but the operator can tell whether the same patients are in them. ``declare_successor`` is how the operator does. Nothing
that a server can call leads here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from client.policy import SitePolicy
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError
from lavq_core.privacy.ledger import Ledger
from lavq_core.runs.layout import SiteFolder
from lavq_core.settings import PrivacyConfig
from lavq_core.training.site_data import fingerprint_of
from server.deployment.folders import SiteNodeFolder

_DELTA = PrivacyConfig().delta


def open_data(folder: SiteNodeFolder, sampling_rate: int) -> Database:
    """Open the site's data as its runs do.

    Raises:
        ConfigError: ``site.toml`` cannot be read, or names no data.
        DataError: the data cannot be read.
    """
    data_dir = folder.settings().data_dir
    if not data_dir:
        raise ConfigError("data_dir in site.toml is empty: give a folder in PTB-XL's layout")
    return Database.open(data_dir, sampling_rate, folder.state / "cache")


def site_ledger(folder: SiteNodeFolder, policy: SitePolicy | None, fingerprint: str) -> Ledger:
    """Open and verify the ledger for some data; without entries if nothing was released yet.

    Raises:
        LedgerError: it is damaged, or of other data.
    """
    limit = policy.epsilon_max if policy and policy.epsilon_max is not None else math.inf
    return Ledger(SiteFolder(folder.state).ledger, fingerprint, limit, _DELTA)


def fingerprint(database: Database) -> str:
    """Fingerprint of a site that owns a whole database."""
    return fingerprint_of(database, np.arange(len(database)))


def ledger_in_words(ledger: Ledger) -> str:
    """Say what the ledger holds."""
    entries = ledger.entries
    if not entries:
        return "nothing was released privately yet"
    limit = "no limit" if math.isinf(ledger.epsilon_max) else f"{ledger.epsilon_max:g} allowed"
    runs = len({entry.run for entry in entries})
    return (
        f"{_number(entries, 'release')} in {runs} run(s); epsilon {ledger.epsilon():.3f} of every patient at delta "
        f"{ledger.delta:g}, {limit}"
    )


def declare_successor(folder: SiteNodeFolder, policy: SitePolicy, former: str, database: Database) -> str:
    """Enter that these data follow those with the fingerprint ``former``, and say what that means.

    Raises:
        LedgerError: the ledger is damaged, does not know ``former``, or is not there.
    """
    ledger = site_ledger(folder, policy, former)
    ledger.succeed(fingerprint(database))
    return (
        f"entered: the data in {database.folder} follow those with the fingerprint {former}. "
        f"{ledger_in_words(ledger)}: that counts for every patient from now on, also for those who came later and have "
        "paid less"
    )


def _number(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
