"""Twins of patients nobody trained on, before judges that never trained them: results file ``twins``.

Folds 1 to 5 train the generator, 6 to 8 the judges, and folds 9 and 10 are judged. Settings were chosen on other seeds'
figures of the same folds 9 and 10, so the figures are somewhat optimistic; see the README.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from lavq_core.data.database import Database
from lavq_core.runs.layout import write_atomic
from simulations.experiments.generators import ONE_SITE, train_generator
from simulations.experiments.pool import each_seed
from simulations.experiments.results_file import Row
from simulations.experiments.seeds import over_seeds
from simulations.experiments.separator_figures import diversity_rows, separator_rows, threshold_rows
from simulations.experiments.twin_arms import Arms
from simulations.judges.bench import set_up
from simulations.judges.disease import real_disease_figures
from simulations.judges.evaluate import REAL, evaluate
from simulations.judges.likeness import real_patient_figures
from simulations.judges.plan import HELD_OUT
from simulations.judges.probe import EPOCHS

ARMS = ("prior", "counts", "donor", "shuffled", "untrained", "time-warp", "unedited", "graft")
_PROBED = ("prior", "graft")  # arms for which a probe network is trained: minutes each


def run_twins(overrides: Sequence[str], seeds: int, work: Path, workers: int) -> list[Row]:
    """Train and judge every seed; finished seeds in ``work`` are not repeated.

    Returns:
        One row for each arm and metric, means over seeds.
    """
    parts = each_seed(judge_seed, [(tuple(overrides), seed, work) for seed in range(seeds)], workers, "twins judged")
    return over_seeds([row for rows in parts for row in rows])


def judge_seed(overrides: tuple[str, ...], seed: int, work: Path) -> list[Row]:
    """Train one seed's generator on all sites' records together, and judge its twins and the other arms."""
    file = work / f"twins-seed-{seed}.json"
    if file.is_file():
        return [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    torch.set_num_threads(1)
    central = train_generator([*overrides, *ONE_SITE], work / "centralised" / f"seed-{seed}", seed)
    database = Database.configured(central.config.data, progress=False)
    bench = set_up(database, database.beats, seed)
    arms = Arms(central, bench, seed)
    rows = [*separator_rows(arms), *diversity_rows(arms), *threshold_rows(arms)]
    for arm in ARMS:
        rows += evaluate(arm, arms.make(arm), bench, EPOCHS if arm in _PROBED else 0)
    figures = [*real_disease_figures(bench), *real_patient_figures(bench, HELD_OUT)]
    rows += [Row(REAL, name, found.value, found.low, found.high, found.n, 1) for name, found in figures]
    write_atomic(file, json.dumps([asdict(row) for row in rows]))
    return rows
