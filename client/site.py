"""Which hospital this process is, and where its data and its folder lie."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context

from client.policy import SitePolicy
from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError, PolicyError
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData

_NODE = ("site", "data-dir", "site-dir", "policy")


@dataclass(frozen=True)
class Site:
    """A hospital in one run."""

    data: SiteData
    folder: SiteFolder
    policy: SitePolicy = field(default_factory=SitePolicy)
    deployed: bool = False

    @property
    def name(self) -> str:
        """The pseudonym by which the server knows it."""
        return self.data.name

    def log(self, event: str, **fields: Any) -> None:
        """Write to the site's event log what its policy allows to be logged."""
        EventLog(self.folder.events).write(event, **self.policy.loggable(fields))


def open_site(context: Context) -> Site:
    """Find out who this node is.

    A simulated node has a ``partition-id`` and gets its share of one database. A deployed node has ``site``,
    ``data-dir``, ``site-dir`` and ``policy`` in its own node config, which the server cannot set: it owns all of that
    database, writes nowhere but below ``site-dir``, and opens the database only if its policy permits.

    Raises:
        LavqError: the configuration or the data cannot be used, or the policy forbids it.
    """
    overrides = tuple(shlex.split(str(context.run_config["overrides"])))
    node = context.node_config
    if "partition-id" in node:
        return _simulated(overrides, int(node["num-partitions"]))[int(node["partition-id"])]
    if set(_NODE) <= set(node):
        name, data_dir, site_dir, policy_file = (str(node[key]) for key in _NODE)
        policy, folder = SitePolicy.load(policy_file), SiteFolder(Path(site_dir))
        try:
            return _permitted(policy, overrides, name, data_dir, folder)
        except PolicyError as error:
            EventLog(folder.events).write("refused", reason=str(error))
            raise
    raise ConfigError(
        "a node needs site=NAME data-dir=FOLDER site-dir=FOLDER policy=FILE in its node config "
        "(flower-supernode --node-config)"
    )


def _permitted(policy: SitePolicy, overrides: tuple[str, ...], name: str, data_dir: str, folder: SiteFolder) -> Site:
    """Open a deployed site, if its policy permits it; what needs no data is asked first."""
    policy.require_launched()
    config = _configured(overrides, str(folder.root))
    policy.require_settings(config)
    data = _deployed(overrides, name, data_dir, str(folder.root))
    policy.require_patients(data.rows(data.train_positions)["patient_id"].nunique())
    return Site(data, folder, policy, deployed=True)


# A Flower process serves many messages of many sites: settings, database and partition are read once for all of them.
@lru_cache(maxsize=2)
def _simulated(overrides: tuple[str, ...], sites: int) -> list[Site]:
    """All hospitals of a simulation; none has read an ECG yet."""
    from simulations.partitions import partition  # only a simulation deals out one database

    config = _threaded(compose(overrides))
    database = _database(config, config.data.dir)
    policy = SitePolicy(epsilon_max=config.privacy.epsilon_max or config.privacy.epsilon or None)
    policy.require_settings(config)
    members = np.loadtxt(config.partition.members, dtype=np.int64, ndmin=1) if config.partition.members else None

    def site(name: str, positions: np.ndarray) -> Site:
        withheld = tuple(item.split(":")[1] for item in config.partition.withhold if item.split(":")[0] == name)
        folder = RunFolder(Path(config.run.dir)).site(name)
        return Site(SiteData(name, database, positions, config, withheld, members), folder, policy)

    shares = partition(database.table, config.partition.scheme, sites, config.partition.seed)
    return [site(name, positions) for name, positions in shares.items()]


@lru_cache(maxsize=2)
def _deployed(overrides: tuple[str, ...], name: str, data_dir: str, site_dir: str) -> SiteData:
    config = _configured(overrides, site_dir)
    database = _database(config, data_dir)
    return SiteData(name, database, np.arange(len(database)), config)


@lru_cache(maxsize=2)
def _configured(overrides: tuple[str, ...], site_dir: str) -> Config:
    config = compose(overrides)
    config.data.cache_dir = str(Path(site_dir) / "cache")
    if config.detector.pretrained:  # wherever the server has it, here it is what the hospital itself has put there
        config.detector.pretrained = str(SiteFolder(Path(site_dir)).pretrained.root)
    return config


def _threaded(config: Config) -> Config:
    """Simulated sites share the cores: one thread each, which also makes their sums repeatable."""
    torch.set_num_threads(1)
    return config


@lru_cache(maxsize=2)
def _open(folder: str, sampling_rate: int, cache_dir: str, minimum_likelihood: float) -> Database:
    return Database.open(folder, sampling_rate, cache_dir or None, minimum_likelihood, progress=False)


def _database(config: Config, folder: str) -> Database:
    data = config.data
    if not folder:
        raise ConfigError("data.dir is empty: give the folder of a database in PTB-XL's layout")
    return _open(folder, data.sampling_rate, data.cache_dir, data.minimum_likelihood)
