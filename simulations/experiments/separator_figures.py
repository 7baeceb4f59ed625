"""Does the gate mean something? Figures of the separator, of twins' diversity, and the paper's threshold ablation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.distances import dtw
from lavq_core.metrics.twins import bootstrap_mean, diversity_ratio, gate_iou
from lavq_core.models.twins import make_twins
from lavq_core.signals.beats import BEFORE
from lavq_core.training.site_data import SiteData
from simulations.experiments.results_file import Row
from simulations.experiments.twin_arms import Arms

SEGMENTS = {"STTC": (0.06, 0.42), "CD": (-0.08, 0.12)}  # s from the R peak: ST and T; QRS
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
_TWINS, _REQUESTS = 10, 10  # twins of one request; requests by statement


def separator_rows(arms: Arms) -> Iterator[Row]:
    """Figures of the gate on held-out records.

    Yields:
        ``gate_norm``: share of tokens that a NORM report opens on healthy patients. ``gate_abnormal``: the same for
        abnormal records. ``shuffled_report_iou``: overlap of the gates under a record's own report and under one that
        shares no superclass. ``segment.CLASS``: share of the opened tokens that lie in the textbook's segment, records
        of that class alone; arm ``chance``: that segment's share of a beat's tokens.
    """
    real, patients = arms.real, arms.bench.patients(arms.bench.plan.real)
    K = len(arms.generator.codes)
    own = (arms.donor_symbols() < K).numpy()
    yield _row("separator", "gate_abnormal", own.mean(axis=1), patients)
    yield _row("separator", "gate_norm", _norm_gate(arms).mean(axis=1), arms.bench.patients(arms.bench.plan.healthy))
    other = torch.from_numpy(np.random.default_rng(arms.seed).permutation(len(real)))
    apart = ((real.y * real.y[other]).sum(1) == 0).numpy()
    with torch.no_grad():
        memory, mask = real.memory[other], real.mask[other]
        swapped = arms.generator.networks.separator(real.x, real.covariates, real.valid, memory, mask).gate > 0.5
    yield _row("separator", "shuffled_report_iou", gate_iou(own, swapped.numpy())[apart], patients[apart])
    tokens = own.shape[1]
    time = (np.arange(tokens) + 0.5) * arms.generator.config.separator.stride
    time = time / arms.bench.database.sampling_rate - BEFORE
    valid = real.valid.numpy() > 0
    for name, (first, last) in SEGMENTS.items():
        column = SUPERCLASSES.index(name)
        alone = ((real.y[:, column] == 1) & (real.y.sum(1) == 1)).numpy() & own.any(axis=1)
        inside = (time >= first) & (time < last)
        if alone.any():
            share = (own & inside).sum(axis=1)[alone] / own.sum(axis=1)[alone]
            yield _row("separator", f"segment.{name}", share, patients[alone])
            chance = (valid & inside).sum(axis=1)[alone] / valid.sum(axis=1)[alone]
            yield _row("chance", f"segment.{name}", chance, patients[alone])


@torch.no_grad()
def _norm_gate(arms: Arms) -> np.ndarray:
    bench = arms.bench
    data = SiteData("bench", bench.database, np.arange(len(bench.database)), arms.generator.config)
    well = data.guided(bench.plan.healthy)
    found = arms.generator.networks.separator(well.x, well.covariates, well.valid, well.memory, well.mask)
    return (found.gate > 0.5).numpy()


def diversity_rows(arms: Arms) -> Iterator[Row]:
    """Ten twins of one request beside ten real records of the statement: ``diversity`` ratio for each commonest one."""
    plan, rng = arms.bench.plan, np.random.default_rng(arms.seed)
    for statement in plan.commonest(10):
        rows = np.flatnonzero(plan.has(statement))
        if len(rows) < 2:
            continue
        real = arms.bench.beats.median[plan.real[rng.permutation(rows)[:_TWINS]]]
        ratios = []
        for row in rng.permutation(rows)[:_REQUESTS]:
            patient = arms.patients.take(torch.full((_TWINS,), int(row)))
            made = arms.request(arms.generator, patient, ((statement,),) * _TWINS)
            ratios.append(diversity_ratio(made.median.numpy(), real))
        yield _row("prior", f"diversity.{statement}", np.array(ratios), np.arange(len(ratios)))


def threshold_rows(arms: Arms) -> Iterator[Row]:
    """The paper's ablation (appendix B): twins with donors' codes over a sweep of gate thresholds.

    Yields, arm ``threshold/T``: ``dtw`` of twin and original median beats; ``ecg_accuracy``: share of the twins of
    single-class requests in which the trees find that class above all other abnormal ones; ``ate``: mean change of the
    trees' probability of the requested classes.
    """
    bench, owners = arms.bench, arms.bench.patients(arms.bench.plan.patient)
    labels = bench.plan.labels
    before = bench.jury.trees.scores(arms.patients.input.x.numpy())
    single = labels.sum(axis=1) == 1
    for threshold in THRESHOLDS:
        symbols = arms.donor_symbols(threshold)
        made = make_twins(arms.generator.networks.editor, arms.generator.codes, arms.patients, symbols)
        after = bench.jury.trees.scores(made.median.numpy())
        found = 1 + after[:, 1:].argmax(axis=1) == labels.argmax(axis=1)
        effect = ((after - before) * labels).sum(axis=1) / labels.sum(axis=1)
        arm = f"threshold/{threshold:g}"
        yield _row(arm, "dtw", dtw(arms.patients.input.x.numpy(), made.median.numpy()), owners)
        yield _row(arm, "ecg_accuracy", found[single], owners[single])
        yield _row(arm, "ate", effect, owners)


def _row(arm: str, metric: str, values: np.ndarray, patients: np.ndarray) -> Row:
    found = bootstrap_mean(np.asarray(values, dtype=float), patients)
    return Row(arm, metric, found.value, found.low, found.high, found.n, seeds=1)
