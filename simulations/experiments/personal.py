"""Personalised detectors against controls: results file ``personal``.

Each seed trains one population detector and one generator at a single site that holds everybody's training folds,
without any record of the people whose detectors are evaluated (``simulations.personal.cohort``; at least as strict as a
cross-fit over them, and a guard refuses to train otherwise). Nothing else is fitted to data: signals are not
normalised, and the text encoder knows the public descriptions alone. Every person then gets one detector an arm
(``simulations.personal.arms``) with the settings of ``personal``, which were not chosen here, and all records but the
reference are scored. The figures are those of ``simulations.personal.figures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.detector import Detector
from lavq_core.models.stored import load_private, shared_detector
from lavq_core.runs.artefact import MANIFEST, load_artefact, save_artefact
from lavq_core.runs.layout import write_atomic
from lavq_core.settings import Config
from lavq_core.training.detector_training import predict
from lavq_core.training.personal import personalise
from lavq_core.training.site_data import SiteData
from simulations.experiments.alone import rounds_alone
from simulations.experiments.generators import ONE_SITE, Generator
from simulations.experiments.jobs import keep_predictions
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.personal.arms import POPULATION, Arms, Others
from simulations.personal.cohort import check_withheld, follow_up, without
from simulations.personal.figures import score

_DECIMALS = 6  # fewer would make ties of what a confident detector says
_EVERY = 25  # people between two lines of progress


def run_personal(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> list[Row]:
    """Train, personalise and score every seed; finished parts in ``work`` are not repeated.

    Returns:
        One row for each arm and metric, means over seeds. Predictions are kept beside the results files.
    """
    jobs = [((*overrides, *ONE_SITE), seed, work) for seed in range(seeds)]
    predictions = pd.concat(each_seed(predict_seed, jobs, workers, "seeds personalised"), ignore_index=True)
    keep_predictions(predictions, "personal")
    database = Database.configured(compose(overrides).data)
    return score(predictions, follow_up(database.table, database.labels), database.table)


def predict_seed(overrides: tuple[str, ...], seed: int, work: Path) -> pd.DataFrame:
    """One seed: what every arm says of every record but the references.

    Returns:
        Columns ecg_id, a probability a superclass, arm, seed.
    """
    torch.set_num_threads(1)
    file = work / f"seed-{seed}.csv"
    if not file.is_file():
        config = compose([*overrides, f"run.seed={seed}"])
        database = Database.configured(config.data, progress=False)
        records = follow_up(database.table, database.labels)
        people = records["patient_id"].unique()
        site = SiteData("everybody", database, without(database, people), config)
        population, generator = train_population(site, people, work / f"seed-{seed}")
        folds = (config.data.validation_fold, config.data.test_fold)
        table = personal_predictions(population, generator, records, Others.of(database, people, folds), database)
        write_atomic(file, table.to_csv(index=False))
    return pd.read_csv(file).assign(seed=seed)


def train_population(site: SiteData, people: np.ndarray, folder: Path) -> tuple[Detector, Generator]:
    """Train the population's detector and the generator of twins; a finished training in ``folder`` is not repeated.

    Raises:
        DataError: a record of ``people`` (patient identifiers) is among the site's.
    """
    check_withheld(site.database, site.positions, people, "the training set")
    config, model = site.config, folder / "model"
    if not (model / MANIFEST).is_file():
        shared = rounds_alone(site, folder / "private", lambda number: _say(config, f"round {number} trained"))
        save_artefact(
            model, {"detector": shared.detector, "codebook": shared.codebook, "networks": shared.networks}, {}
        )
    parts, _ = load_artefact(model)
    networks = load_private(config, folder / "private")
    networks.take_over(parts["networks"])
    return shared_detector(config, parts["detector"]), Generator(networks, parts["codebook"], config)


def personal_predictions(
    population: Detector, generator: Generator, records: pd.DataFrame, others: Others, database: Database
) -> pd.DataFrame:
    """Fine-tune every arm for every person and score that person's records.

    People whose reference has too few beats of one shape get no twins, and are left out of all arms.

    Args:
        population: trained without these people.
        generator: likewise.
        records: of ``follow_up``.
        others: whom the controls are taken from.
        database: all records.

    Returns:
        Columns ecg_id, a probability a superclass, arm.
    """
    config = generator.config
    everybody = records.drop_duplicates("patient_id")["reference"]
    references = database.positions_of(everybody.to_numpy())
    references = references[database.beats.found()[references]]
    parts, scored = [], dict(tuple(records.groupby("reference")))
    for number, (reference, examples) in enumerate(
        zip(
            database.table.index[references],
            Arms(generator, database, references, others, config.run.seed),
            strict=True,
        )
    ):
        ids = scored[reference].index
        x = database.signals(database.positions_of(ids.to_numpy()))
        said = {POPULATION: predict(population, x)}
        for arm, data in examples.items():
            settings = (config.personal, config.detector_training, config.data.sampling_rate, config.run.seed)
            said[arm] = predict(personalise(population, data, *settings), x)
        parts += [_table(ids, probabilities, arm) for arm, probabilities in said.items()]
        if (number + 1) % _EVERY == 0:
            _say(config, f"{number + 1} of {len(references)} people personalised")
    return pd.concat(parts, ignore_index=True).round(_DECIMALS)


def _table(ids: pd.Index, probabilities: torch.Tensor, arm: str) -> pd.DataFrame:
    table = pd.DataFrame(probabilities.numpy().astype(float), columns=list(SUPERCLASSES))
    table.insert(0, "ecg_id", ids.to_numpy())
    return table.assign(arm=arm)


def _say(config: Config, what: str) -> None:
    Console(stderr=True).print(f"seed {config.run.seed}: {what}", highlight=False)
