"""Which hospital this process is, and where its data and its folder lie."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context

from lavq_core.config import Config, compose
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.training.site_data import SiteData


@dataclass(frozen=True)
class Site:
    """A hospital in one run."""

    data: SiteData
    folder: SiteFolder

    @property
    def name(self) -> str:
        """The pseudonym by which the server knows it."""
        return self.data.name


def open_site(context: Context) -> Site:
    """Find out who this node is.

    A simulated node has a ``partition-id`` and gets its share of one database. A deployed node has ``site`` and
    ``data-dir`` in its own node config, which the server cannot set, and owns all of that database.

    Raises:
        LavqError: the configuration or the data cannot be used.
    """
    overrides = tuple(shlex.split(str(context.run_config["overrides"])))
    node = context.node_config
    if "partition-id" in node:
        return _simulated(overrides, int(node["partition-id"]), int(node["num-partitions"]))
    if "site" in node and "data-dir" in node:
        return _deployed(overrides, str(node["site"]), str(node["data-dir"]))
    raise ConfigError("a node needs site=NAME and data-dir=FOLDER in its node config (flower-supernode --node-config)")


# A Flower process serves many messages: the database is opened and packed once for all of them.
@lru_cache(maxsize=8)
def _simulated(overrides: tuple[str, ...], partition_id: int, sites: int) -> Site:
    from simulations.partitions import partition  # only a simulation deals out one database

    config = _threaded(compose(overrides))
    database = _database(config, config.data.dir)
    shares = partition(database.table, config.partition.scheme, sites, config.partition.seed)
    name, positions = list(shares.items())[partition_id]
    return _site(config, database, name, positions)


@lru_cache(maxsize=2)
def _deployed(overrides: tuple[str, ...], name: str, data_dir: str) -> Site:
    config = compose(overrides)
    database = _database(config, data_dir)
    return _site(config, database, name, np.arange(len(database)))


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


def _site(config: Config, database: Database, name: str, positions: np.ndarray) -> Site:
    folder = RunFolder(Path(config.run.dir)).site(name)
    return Site(SiteData(name, database, positions, config), folder)
