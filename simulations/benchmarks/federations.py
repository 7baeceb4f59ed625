"""The federation's own work: merging updates, and a whole round beside its local steps alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.evaluation import evaluate_round, write_gallery, write_predictions
from client.site import Site
from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.models.codebook import STATISTICS, merge_statistics
from lavq_core.models.stored import shared_detector
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, train_round
from server.aggregation import Aggregator
from server.app import initial_model
from server.model import SharedModel, SiteUpdate
from simulations.benchmarks.harness import Pair, Way
from simulations.benchmarks.setting import Setting, close, generator
from simulations.inprocess import run_in_process
from simulations.partitions import partition
from simulations.wire import byte_counts


def aggregation(setting: Setting) -> Pair:
    """The server's merge of 16 sites' updates; the reference is a loop over sites and tensors in numpy."""
    model, updates = site_updates(setting.config(), setting.many(16))
    aggregator = make_aggregator(setting.config())
    names = sorted(updates)

    def ours() -> list[np.ndarray]:
        merged, _ = aggregator.aggregate(model, updates, 1, {})
        return [value.numpy() for value in (*merged.detector.values(), *merged.networks.values())]

    def numpy_loop() -> list[np.ndarray]:
        total = sum(updates[name].examples for name in names)
        merged = []
        for part in ("detector", "networks"):
            for key, start in getattr(model, part).items():
                mean = np.zeros(start.shape)
                for name in names:
                    mean += updates[name].examples / total * getattr(updates[name], part)[key].numpy()
                merged.append(mean)
        summed = {key: 0.5 * model.codebook[key].numpy() for key in STATISTICS}
        for name in names:
            for key in STATISTICS:
                summed[key] = summed[key] + updates[name].codebook[key].numpy()
        return merged

    return Pair(Way(ours, len(names)), Way(numpy_loop, len(names)), close)


def make_aggregator(config: Config) -> Aggregator:
    """Make the server's aggregator."""
    merge = partial(merge_statistics, decay=config.codebook.decay)
    return Aggregator(config.federation, config.detector_training, merge)


def site_updates(config: Config, sites: int) -> tuple[SharedModel, dict[str, SiteUpdate]]:
    """Make what a round of so many sites sends back: the first model, each tensor a little moved."""
    model, draw = initial_model(config), generator()

    def moved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value + 0.01 * torch.randn(value.shape, generator=draw) for name, value in state.items()}

    def counted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.rand(state[name].shape, generator=draw) for name in STATISTICS}

    updates = {
        f"site-{number:03d}": SiteUpdate(
            moved(model.detector), counted(model.codebook), moved(model.networks), 100.0 + number
        )
        for number in range(sites)
    }
    return model, updates


_LOCAL = ("federation.rounds=1", "separator_training.after=0", "twins.after=0", "detector_training.epochs=1")


def round_4(setting: Setting) -> Pair:
    """A round of four hospitals of the sample, in this process, with predictions and twins of the last round.

    One epoch and one step of the separator: fewer than any preset takes, so that what Flower adds shows most.
    """
    return federated_round(setting, 4, *_LOCAL, "separator_training.steps=1")


def round_preset(setting: Setting) -> Pair:
    """A round of the preset ``sample`` as configured, in which separator, editor and twins train from the first."""
    return federated_round(
        setting, 4, "preset=sample", "federation.rounds=1", "separator_training.after=0", "twins.after=0"
    )


def round_50(setting: Setting) -> Pair:
    """A round of fifty hospitals of about ten records each."""
    own = ("partition.scheme=iid", "separator_training.steps=1")
    return federated_round(setting, 50, *_LOCAL, *own)


def federated_round(setting: Setting, sites: int, *own: str) -> Pair:
    """A federated round; the reference does the sites' own work in a loop, and merges: no Flower, no wire, no log."""
    asked = setting.overrides(f"federation.sites={sites}", *own)

    def federated() -> list[np.ndarray]:
        place = setting.fresh("round")
        run_in_process([*asked, f"run.dir='{place}'"], sites)
        return _in_order(load_artefact(RunFolder(place).model)[0]["detector"])

    def local_steps() -> list[np.ndarray]:
        return train_locally(compose([*asked, f"run.dir='{setting.fresh('local')}'"]))

    return Pair(Way(federated, 1), Way(local_steps, 1), partial(close, atol=1e-6))


def train_locally(config: Config) -> list[np.ndarray]:
    """Take one round's local work, site after site; the merged detector's weights."""
    run = RunFolder(Path(config.run.dir))
    database = Database.configured(config.data, progress=False)
    shares = partition(database.table, config.partition.scheme, config.federation.sites, config.partition.seed)
    start = initial_model(config)
    sites = [Site(SiteData(name, database, rows, config), run.site(name)) for name, rows in shares.items()]
    updates = {}
    for site in sites:
        sent = SharedState(start.detector, start.codebook, start.networks)
        done = train_round(site.data, site.folder.private_model, sent, 1, 1)
        updates[site.name] = SiteUpdate(done.detector, done.statistics, done.networks, done.examples)
    aggregator = make_aggregator(config)
    screened = aggregator.screen(start, updates).updates
    merged, _ = aggregator.aggregate(start, screened, 1, {})
    for site in sites:
        detector = shared_detector(config, merged.detector)
        evaluate_round(site, detector, 1)
        write_predictions(site, detector)
        write_gallery(site, detector, SharedState(merged.detector, merged.codebook, merged.networks), 1)
    return _in_order(merged.detector)


def _in_order(state: Mapping[str, Tensor]) -> list[np.ndarray]:
    return [state[name].numpy() for name in sorted(state)]


def bytes_of_a_round(setting: Setting) -> dict[str, float]:
    """Bytes of one round and site, of the preset ``ptbxl``'s models, as the event log of a run counts them."""
    place = setting.fresh("bytes")
    few = (
        "detector_training.steps=1",
        "detector_training.epochs=.05",
        "separator_training.steps=1",
        "federation.rounds=1",
    )
    run_in_process([*setting.overrides("preset=ptbxl", *few, *_EARLY), f"run.dir='{place}'"], 4)
    counts = byte_counts(read_events(RunFolder(place).events))
    return {"down": float(counts["bytes_per_round.down"]), "up": float(counts["bytes_per_round.up"])}


_EARLY = ("separator_training.after=0", "twins.after=0", "twins.per_record=0")
