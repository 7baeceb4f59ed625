"""What public ECGs do for private training: more arms of the results file ``privacy``.

The hospital with the most records takes part in no federation and in no test: its training records count as public. The
other hospitals train the same private detector with it and without, so these arms compare with one another and not with
those of all hospitals.

===============  =======================================================================================================
``public-alone``  the head trained on the public records, scored at the other hospitals: nobody there trains
``without``      private training of the other hospitals, nothing public
``start``        ... from the public head
``pretrained``   ... from the public head, with the logits of a network trained on the public records
``untrained``    control: the same with those of the same network before it was trained
===============  =======================================================================================================

The network is ``preset=detector`` as it stands, trained to its end. How public records are used, and the
smaller learning rate where a head is not new, were chosen on fold 9 of one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lavq_core.config import compose, save_config
from lavq_core.errors import ConfigError
from lavq_core.models.pretrained import weights_sha256
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from simulations.experiments.federation import hospitals_of, scores_at
from simulations.experiments.jobs import Job, federate
from simulations.experiments.pool import each_seed
from simulations.experiments.privacy_arms import ARMS, costs
from simulations.experiments.results_file import Row
from simulations.experiments.scores import gains, score
from simulations.launch import quoted

ALONE = "public-alone"
_LEVELS = tuple(arm for arm in ARMS if arm != "off")
_WAYS = {"without": (), "start": ("head",), "pretrained": ("head", "network"), "untrained": ("head", "untrained")}
_RATES = {"eps8": 5.0, "eps3": 2.5, "eps1": 1.25}  # learning rates, where training starts from the public head
_CONTROLS = {"start": ("without",), "pretrained": ("without", "start", "untrained")}  # what a way's gain is over


def public_site(overrides: Sequence[str]) -> str:
    """Name the hospital that counts as public: the one with the most records.

    Raises:
        ConfigError: there is one hospital alone.
    """
    _, shares = hospitals_of(compose(overrides))
    if len(shares) < 2:
        raise ConfigError("one hospital alone cannot be public to others: set federation.sites=2 or more")
    return max(shares, key=lambda name: len(shares[name]))


def run_public(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> tuple[pd.DataFrame, list[Row]]:
    """Train what is public, then every arm, with every seed; finished trainings in ``work`` are not repeated.

    Returns:
        Predictions on the test fold, and rows: macro AUC, ``macro_auc_gain.ARM`` over another arm, ``epsilon``, bytes.
    """
    given = tuple(overrides)
    each_seed(_train_public, [(given, work, seed) for seed in range(seeds)], workers, "public trainings done")
    arms = [ALONE, *(f"{way}/{level}" for way in _WAYS for level in _LEVELS)]
    jobs = [
        Job(arm, seed, given, work / arm.replace("/", "-") / f"seed-{seed}") for seed in range(seeds) for arm in arms
    ]
    done = each_seed(_train, [(job, work) for job in jobs], workers, "trainings done")
    predictions = pd.concat(done, ignore_index=True)
    pairs = [(f"{way}/{level}", f"{than}/{level}") for way in _CONTROLS for level in _LEVELS for than in _CONTROLS[way]]
    pairs += [(f"pretrained/{level}", ALONE) for level in _LEVELS]
    return predictions, score(predictions) + gains(predictions, pairs) + costs([j for j in jobs if j.arm != ALONE])


def _train_public(overrides: Sequence[str], work: Path, seed: int) -> None:
    """Train a network and a head on the public hospital's records, and make an untrained network."""
    from server.app import initial_model

    plain = [override for override in overrides if not override.startswith("preset=")]
    network = (*plain, "preset=detector", "partition.scheme=site", "twins.gallery=0")
    head = (*overrides, *ARMS["off"], "partition.scheme=site", "twins.gallery=0")
    for kind, settings in (("network", network), ("head", head)):
        _federate([*settings, f"run.seed={seed}"], _folder(work, kind, seed), {public_site(overrides)}, overrides)
    untrained = RunFolder(_folder(work, "untrained", seed))
    if not untrained.model.is_dir():
        config = compose([*network, f"run.seed={seed}", f"run.dir={quoted(untrained.root)}"])
        save_config(config, untrained.config)
        save_artefact(untrained.model, initial_model(config).parts(), {"classes": []})


def _train(job: Job, work: Path) -> pd.DataFrame:
    """Train one arm in a process of its own; its predictions on the test fold of the hospitals that are not public."""
    public = public_site(job.overrides)
    config = compose(job.overrides)
    if job.arm == ALONE:
        database, shares = hospitals_of(config)
        run = RunFolder(_folder(work, "head", job.seed))
        table = pd.concat([scores_at(name, database, shares[name], run) for name in shares if name != public])
    else:
        way, level = job.arm.split("/")
        used = {kind: RunFolder(_folder(work, kind, job.seed)) for kind in _WAYS[way]}
        added = []
        if "head" in used:
            added += [f"detector.start={quoted(used['head'].root)}", f"detector_training.lr={_RATES[level]}"]
        for network in (used[kind] for kind in used if kind != "head"):
            added += [f"detector.pretrained={quoted(network.root)}"]
            added += [f"detector.pretrained_sha256={weights_sha256(network)}"]
        _, shares = hospitals_of(config)
        taking_part = set(shares) - {public}
        _federate(
            [*job.overrides, *ARMS[level], *added, f"run.seed={job.seed}"], job.folder, taking_part, job.overrides
        )
        run = RunFolder(job.folder)
        table = pd.concat([pd.read_csv(run.site(name).predictions) for name in sorted(taking_part)])
        table = table[table["fold"] == config.data.test_fold]
    return table.assign(arm=job.arm, seed=job.seed)


def _federate(settings: Sequence[str], folder: Path, taking_part: set[str], overrides: Sequence[str]) -> None:
    """Run a federation of some hospitals of the partition; a finished one is not repeated."""
    config = compose(overrides)
    _, shares = hospitals_of(config)
    sites = len(taking_part)
    smallest = min(sites, config.federation.min_sites)
    size = [f"federation.sites={sites}", f"federation.min_sites={smallest}", f"run.dir={quoted(folder)}"]
    absent = {number for number, name in enumerate(shares) if name not in taking_part}
    federate([*settings, *size], len(shares), absent=absent)


def _folder(work: Path, kind: str, seed: int) -> Path:
    return work / f"public-{kind}" / f"seed-{seed}"
