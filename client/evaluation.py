"""What a site measures on its own folds. Scores, predictions and twins are written to its disk and stay there."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch

from client.site import Site
from lavq_core.config import save_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import macro_auc
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.detector import Detector
from lavq_core.models.pretrained import keep_pretrained
from lavq_core.models.prior import available_diseases, draw_statements
from lavq_core.models.stored import load_private, shared_detector
from lavq_core.models.twins import request_twins
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import rounds_in, write_atomic
from lavq_core.text.statements import named
from lavq_core.training.detector_training import predict
from lavq_core.training.site_round import SharedState


def evaluate_round(site: Site, detector: Detector, number: int) -> int:
    """Score the shared detector on the site's validation fold; returns the number of records."""
    fold = site.data.config.data.validation_fold
    positions = site.data.fold_positions(fold)
    if len(positions) == 0:
        return 0
    probabilities = site.data.scores(detector, positions)
    score = macro_auc(site.data.database.labels[positions], probabilities)
    site.log(
        "round-evaluated",
        round=number,
        fold=fold,
        macro_auc=None if math.isnan(score) else score,
        records=len(positions),
    )
    return len(positions)


def accept_model(site: Site, shared: SharedState, number: int) -> None:
    """Keep the shared model of a round for the site's own use: ``lavq serve``, ``detect`` and ``twin`` read it.

    It is in the form of a run folder, with a calibration on the site's own validation fold where it has one. The model
    comes last and as a whole.
    """
    run, detector = site.folder.accepted, shared_detector(site.data.config, shared.detector)
    save_config(site.data.config, run.config)
    keep_pretrained(site.data.config, run)
    positions = site.data.fold_positions(site.data.config.data.validation_fold)
    if len(positions) > 0:
        probabilities = site.data.scores(detector, positions)
        _calibrate(site, detector, positions, probabilities).save(run.calibration)
    parts = {"detector": shared.detector, "codebook": shared.codebook, "networks": shared.networks}
    about = {
        "round": number,
        "seed": site.data.config.run.seed,
        "classes": list(SUPERCLASSES),
        "sampling_rate": site.data.config.data.sampling_rate,
    }
    save_artefact(run.model, {name: state for name, state in parts.items() if state}, about)


def write_predictions(site: Site, detector: Detector) -> int:
    """Write the final detector's probabilities on the validation and test folds; returns the number of test records.

    The validation fold's also give the site its calibration (``lavq_core.models.calibration``).
    """
    settings, parts = site.data.config.data, []
    for fold in (settings.validation_fold, settings.test_fold):
        positions = site.data.fold_positions(fold)
        probabilities = site.data.scores(detector, positions)
        table = site.data.rows(positions)
        frame = pd.DataFrame({"ecg_id": table.index, "patient_id": table["patient_id"].to_numpy()})
        frame["site"], frame["fold"] = site.name, fold
        for column, name in enumerate(SUPERCLASSES):
            frame[name] = probabilities[:, column]
        for column, name in enumerate(SUPERCLASSES):
            frame[f"true_{name}"] = site.data.database.labels[positions][:, column].astype(int)
        parts.append(frame)
        if fold == settings.validation_fold and len(positions) > 0:
            _calibrate(site, detector, positions, probabilities).save(site.folder.calibration)
    write_atomic(site.folder.predictions, pd.concat(parts).to_csv(index=False, float_format="%.6f"))
    return len(parts[-1])


def _calibrate(site: Site, detector: Detector, positions: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """Fit temperatures and thresholds on records of the validation fold."""
    config = site.data.config
    return Calibration.fit(
        site.data.database.labels[positions],
        probabilities,
        config.calibration.sensitivity,
        config.data.validation_fold,
        site.name,
        detector_digest(detector.state_dict()),
    )


def write_gallery(site: Site, detector: Detector, shared: SharedState, number: int) -> int:
    """Make twins of healthy patients whom nothing was trained on, for the report; returns how many.

    Patients are taken from the test and validation folds in the order of the database, each once, diseases in turn.
    """
    config, data = site.data.config, site.data
    held_out = [data.fold_positions(config.data.test_fold), data.fold_positions(config.data.validation_fold)]
    healthy = data.with_beats(data.database.healthy_references(np.concatenate(held_out)))
    chosen = healthy[: config.twins.gallery]
    diseases = available_diseases(shared.codebook["requests"])
    if len(chosen) == 0 or len(diseases) == 0 or not rounds_in(site.folder.private_model):
        return 0
    networks = load_private(config, site.folder.private_model)
    networks.take_over(shared.networks)
    classes = diseases[torch.arange(len(chosen)) % len(diseases)]
    generator = torch.Generator().manual_seed(config.run.seed)
    wanted = named(draw_statements(shared.codebook["requests"], classes, generator))
    patients = data.patients(chosen)
    twins = request_twins(
        networks, shared.codebook["codes"], patients, wanted, config, config.twins.strength, generator
    )
    rows = data.rows(chosen)
    before, after = predict(detector, patients.signal), predict(detector, twins.signal)
    which = torch.arange(len(chosen))
    gate = twins.gate_over_time(config.separator.stride)
    save_artefact(
        site.folder.twins,
        {"twins": {"twin": twins.signal, "reference": patients.signal, "gate": gate, "envelope": twins.envelope}},
        {
            "site": site.name,
            "round": number,
            "sampling_rate": config.data.sampling_rate,
            "disease": [SUPERCLASSES[int(c)] for c in classes],
            "statement": [codes[0] for codes in wanted],
            "record": [str(i) for i in rows.index],
            "age": [None if math.isnan(age) else age for age in rows["age"].astype(float)],
            "sex": [int(sex) for sex in rows["sex"]],
            "before": [round(float(p), 4) for p in before[which, classes]],
            "after": [round(float(p), 4) for p in after[which, classes]],
        },
    )
    return len(chosen)
