"""Twins of a disease that a site never saw: results file ``transfer``.

All records of one superclass are taken away from one site before anything is trained. The federation trains without
them; then that site trains a detector of its own on what it has, with the help of each arm:

===========================  ===========================================================================================
``without``                  nothing: the lower end of the gap
``twins``                    twins of all its patients, ill ones too, of the four diseases in turn
``twins-alone``              ... of the withheld class alone: then every ECG with that label is synthetic
``twins-of-others``          ... of the other three in turn: what twins do without the withheld class among them
``shuffled``                 as ``twins``, where those labelled with the withheld class have the shape of the others
``healthy-twins``            twins of its healthy patients, of each of the four diseases
``healthy-twins-of-others``  ... of each of the other three
``healthy-twins-alone``      ... of the withheld class alone
``rewritten``                ``twins``, and its abnormal records sent through the generator, recomposed and healed
``oversampling``             its healthy records, unedited, labelled with the class
``other-sites``              real records of the class from the other hospitals, which in truth may not travel
``full``                     its own real records back: the upper end of the gap
===========================  ===========================================================================================

``auc.CLASS`` is measured on the site's real held-out records; ``gap_closed.CLASS`` is the share of the way from
``without`` to ``full``. What travels (``SHARES``) is part of the arm's name, ``twins/all`` for example, and so are the
bytes that a site sends in a round: ``bytes_up``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.twins import bootstrap_auc
from lavq_core.models.detector import build_detector
from lavq_core.runs.layout import RunFolder, write_atomic
from lavq_core.training.detector_training import LabelledEcgs, predict, train_detector
from lavq_core.training.site_data import SiteData
from simulations.experiments.generators import train_generator
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.experiments.seeds import over_seeds
from simulations.experiments.transfer_arms import DISEASES, MOST, Arms
from simulations.partitions import partition

SHARES = {
    "all": "[separator,editor,prior]",
    "editor": "[separator,editor]",
    "prior": "[prior]",
    "codebook": "[]",
}
"""What travels beside codebook and detector; without the prior network, codes are drawn from the codebook's counts."""

_HELD_OUT = (9, 10)
_EPOCHS = 12


def run_transfer(
    overrides: Sequence[str],
    seeds: int,
    work: Path,
    workers: int,
    site: str,
    classes: Sequence[str],
    kinds: Sequence[str],
    each: int = 1,
) -> list[Row]:
    """Take every class away from the site in turn, for every seed; finished parts in ``work`` are not repeated.

    Args:
        overrides, seeds, work, workers: as in every experiment.
        site: from whom.
        classes: which.
        kinds: of ``SHARES``, to try.
        each: twins of a record; of the healthy ones, twins of each disease.
    """
    jobs = [(tuple(overrides), seed, work, site, name, tuple(kinds), each) for seed in range(seeds) for name in classes]
    parts = each_seed(transfer_one, jobs, workers, "transfers measured")
    return over_seeds([row for rows in parts for row in rows])


def transfer_one(
    overrides: tuple[str, ...], seed: int, work: Path, site: str, disease: str, kinds: tuple[str, ...], each: int
) -> list[Row]:
    """One seed, one class: all arms."""
    file = work / f"transfer-{site}-{disease}-{'-'.join(kinds)}-{each}-seed-{seed}.json"
    if file.is_file():
        return [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    torch.set_num_threads(1)
    generators = {
        kind: train_generator(
            [*overrides, f"partition.withhold=['{site}:{disease}']", f"federation.share={SHARES[kind]}"],
            work / f"{site}-{disease}-{kind}" / f"seed-{seed}",
            seed,
            site,
        )
        for kind in kinds
    }
    config = generators[kinds[0]].config
    database = Database.configured(config.data, progress=False)
    shares = partition(database.table, "site", config.federation.sites, config.partition.seed)
    lacking = SiteData(site, database, shares[site], config, (disease,))
    whole = SiteData(site, database, shares[site], config)
    others = SiteData("others", database, np.concatenate([v for k, v in shares.items() if k != site]), config)
    added: dict[str, LabelledEcgs | None] = {"without": None}
    for kind, generator in generators.items():
        arms = Arms(generator, lacking, seed, each, counts="prior" not in SHARES[kind])
        added[f"twins/{kind}"] = arms.of_everybody(DISEASES)
        if kind == kinds[0]:
            added |= {f"{name}/{kind}": extra for name, extra in _controls(arms, disease).items()}
            added["oversampling"] = arms.unedited(disease)
    added |= {"other-sites": _first(_with_class(others, disease), seed), "full": _with_class(whole, disease)}
    rows = _score(lacking, disease, added, seed)
    for kind in kinds:
        sent = _bytes_up(RunFolder(work / f"{site}-{disease}-{kind}" / f"seed-{seed}"))
        rows.append(Row(f"twins/{kind}", f"bytes_up.{disease}", sent, sent, sent, len(kinds), 1))
    write_atomic(file, json.dumps([asdict(row) for row in rows]))
    return rows


def _controls(arms: Arms, disease: str) -> dict[str, LabelledEcgs]:
    others = [name for name in DISEASES if name != disease]
    return {
        "twins-alone": arms.of_everybody([disease]),
        "twins-of-others": arms.of_everybody(others),
        "shuffled": arms.of_everybody(DISEASES, mislabelled=disease),
        "healthy-twins": arms.of_healthy(DISEASES),
        "healthy-twins-of-others": arms.of_healthy(others),
        "healthy-twins-alone": arms.of_healthy([disease]),
        "rewritten": arms.of_everybody(DISEASES) + arms.rewritten(),
    }


def _bytes_up(run: RunFolder) -> float:
    """Bytes that a site sends in a training round, mean over sites and rounds."""
    events = [json.loads(line) for line in run.events.read_text(encoding="utf-8").splitlines()]
    return float(np.mean([e["bytes_up"] for e in events if e["event"] == "site-replied" and e["round"] > 0]))


def _with_class(site: SiteData, disease: str) -> LabelledEcgs:
    data = site.ecgs
    chosen = data.y[:, SUPERCLASSES.index(disease)] == 1
    return data.take(chosen)


def _first(data: LabelledEcgs, seed: int) -> LabelledEcgs:
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:MOST]
    return data.take(rows)


def _score(site: SiteData, disease: str, added: dict[str, LabelledEcgs | None], seed: int) -> list[Row]:
    """Train a detector for each arm and compare the class's AUC on the site's held-out records."""
    test = site.fold_positions(*_HELD_OUT)
    x, labels = site.database.signals(test), site.database.labels[test][:, SUPERCLASSES.index(disease)]
    patients = site.rows(test)["patient_id"].to_numpy()
    rows, values = [], {}
    for arm, extra in added.items():
        scores = _detector_scores(site, extra, x, seed)[:, SUPERCLASSES.index(disease)].numpy()
        found = bootstrap_auc(labels, scores, patients)
        values[arm] = found.value
        rows.append(Row(arm, f"auc.{disease}", found.value, found.low, found.high, found.n, 1))
        count = float(len(extra)) if extra is not None else 0.0
        rows.append(Row(arm, f"added.{disease}", count, count, count, found.n, 1))
    gap = values["full"] - values["without"]
    for arm in [name for name in added if name not in ("without", "full")]:
        share = (values[arm] - values["without"]) / gap if gap > 0 else float("nan")
        rows.append(Row(arm, f"gap_closed.{disease}", share, share, share, len(labels), 1))
    return rows


def _detector_scores(site: SiteData, extra: LabelledEcgs | None, x: Tensor, seed: int) -> Tensor:
    config, data = site.config, site.ecgs if extra is None else site.ecgs + extra
    model = build_detector(config.detector, config.data.sampling_rate, seed)
    generator = torch.Generator().manual_seed(seed)
    train_detector(model, data, config.detector_training, config.data.sampling_rate, _EPOCHS, generator)
    return predict(model, x)
