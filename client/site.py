"""Which hospital this process is, and where its data and its folder lie."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData


@dataclass(frozen=True)
class Site:
    """A hospital in one run."""

    data: SiteData
    folder: SiteFolder
    epsilon_max: float | None = None  # the site's own limit of its patients' epsilon; None: no private training here

    @property
    def name(self) -> str:
        """The pseudonym by which the server knows it."""
        return self.data.name


def open_site(context: Context) -> Site:
    """Find out who this node is.

    A simulated node has a ``partition-id`` and gets its share of one database. A deployed node has ``site``,
    ``data-dir`` and ``site-dir`` in its own node config, which the server cannot set: it owns all of that database, and
    writes nowhere but below ``site-dir``.

    Raises:
        LavqError: the configuration or the data cannot be used.
    """
    overrides = tuple(shlex.split(str(context.run_config["overrides"])))
    node = context.node_config
    if "partition-id" in node:
        return _simulated(overrides, int(node["partition-id"]), int(node["num-partitions"]))
    if {"site", "data-dir", "site-dir"} <= set(node):
        return _deployed(overrides, str(node["site"]), str(node["data-dir"]), str(node["site-dir"]))
    raise ConfigError(
        "a node needs site=NAME data-dir=FOLDER site-dir=FOLDER in its node config (flower-supernode --node-config)"
    )


# A Flower process serves many messages: the database is opened and packed once for all of them.
@lru_cache(maxsize=8)
def _simulated(overrides: tuple[str, ...], partition_id: int, sites: int) -> Site:
    from simulations.partitions import partition  # only a simulation deals out one database

    config = _threaded(compose(overrides))
    database = _database(config, config.data.dir)
    shares = partition(database.table, config.partition.scheme, sites, config.partition.seed)
    name, positions = list(shares.items())[partition_id]
    withheld = tuple(item.split(":")[1] for item in config.partition.withhold if item.split(":")[0] == name)
    limit = config.privacy.epsilon_max or config.privacy.epsilon or None
    folder = RunFolder(Path(config.run.dir)).site(name)
    return Site(SiteData(name, database, positions, config, withheld), folder, limit)


@lru_cache(maxsize=2)
def _deployed(overrides: tuple[str, ...], name: str, data_dir: str, site_dir: str) -> Site:
    config = compose(overrides)
    config.data.cache_dir = str(Path(site_dir) / "cache")
    database = _database(config, data_dir)
    return Site(SiteData(name, database, np.arange(len(database)), config), SiteFolder(Path(site_dir)))


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
