"""Does what a run claims hold? Lower bounds of epsilon, exact tests of the noise, and the verdict.

All bounds share the permitted error. Two are black-box: the run itself, where members and non-members are told apart
by fold, and the first replica, where by coin. The third is white-box, in the private training step itself, with
canaries that are worth more than people (``training_step``); where the separator trains privately too, a fourth is so
in its step (``separator``). Beside them stand tests of the noise, in the steps and in what the run's own files show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavq_core.data.database import Database
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from simulations.audit.attacks.scores import Scores
from simulations.audit.evidence import Evidence
from simulations.audit.finding import REPLICAS, Finding, Metrics
from simulations.audit.measure import CONFIDENCE
from simulations.audit.privacy.artefacts import ArtefactAudit, audit_artefacts
from simulations.audit.privacy.one_run import SHARES, Attack, Guesses, best_bound, epsilon_lower_bound
from simulations.audit.privacy.separator.training_step import audit_separator_step
from simulations.audit.privacy.step_audit import StepAudit
from simulations.audit.privacy.training_step import audit_training_step
from simulations.audit.verdict import names_members, tells_members, verdict
from simulations.partitions import partition

_BOUNDS = 3  # that share the permitted error where no separator trains
_STEPS = {
    "step": "the training step",
    "separator": "the separator's steps and counts (a short training with the run's settings and whole claim)",
}


@dataclass(frozen=True)
class Claim:
    """What was found about a run's claim."""

    verdict: str
    bounds: dict[str, float]  # by what was attacked: epsilon is at least this, all at 95 %; none unclaimed
    reasons: tuple[str, ...]  # why a claim is contradicted, in words
    checks: dict[str, str]  # of the noise, in words

    def metrics(self) -> Metrics:
        """Return flat metrics."""
        found: Metrics = {f"audit.epsilon_lower_bound.{name}": value for name, value in self.bounds.items()}
        if self.bounds:
            found["audit.epsilon_lower_bound"] = max(self.bounds.values())
        found |= {f"audit.check.{name}": text for name, text in self.checks.items()}
        return found | {"audit.verdict": self.verdict}


def weigh(run: RunFolder, config: Config, database: Database, evidence: Evidence) -> Claim:
    """Hold what a run claims against everything that was found."""
    return _claimed(run, config, database, evidence) if config.privacy.epsilon > 0 else unclaimed(evidence.findings)


def unclaimed(findings: Sequence[Finding]) -> Claim:
    """Where nothing is claimed, whoever finds members has found a leak; only those vote who ask who was trained on."""
    voting = [finding for finding in findings if finding.votes]
    tests = sum(len(finding.points) + (finding.target == REPLICAS) for finding in voting)
    reasons = tuple(reason for finding in voting for reason in _found_by(finding, tests))
    return Claim(verdict([bool(reasons)], 0.0, [], 0.0), {}, reasons, {})


def _found_by(one: Finding, tests: int) -> list[str]:
    """Say, in at most one sentence, that an attack finds members."""
    point = next(iter(one.points.values()))
    if any(names_members(each, tests) for each in one.points.values()):
        return [f"{one.attack} on the {one.surface} names members of the {one.target}"]
    sizes = (point.true_positives.trials, point.false_positives.trials)
    if one.target == REPLICAS and tells_members(one.auc.value, *sizes, tests):
        return [
            f"{one.attack} on the {one.surface} tells members of the replicas from others (AUC {one.auc.value:.3f})"
        ]
    return []


def _claimed(run: RunFolder, config: Config, database: Database, evidence: Evidence) -> Claim:
    """Where epsilon is claimed an attack may name members, if no more than epsilon allows: bounds and noise decide."""
    privacy, seed, site = config.privacy, config.run.seed, largest_site(config, database)
    each = 1.0 - (1.0 - CONFIDENCE) / (_BOUNDS + trains_separator(config))
    steps = {"step": audit_training_step(config, site.described, seed, each)}
    if trains_separator(config):
        steps["separator"] = audit_separator_step(config, site, seed, each)
    files = audit_artefacts(run, database, seed)
    bounds = black_box_bounds(evidence, privacy.delta, each)
    bounds |= {name: step.epsilon_lower_bound for name, step in steps.items()}
    reasons = (*(reason for step in steps.values() for reason in step.reasons), *files.reasons)
    checks = {name: _of_step(name, step) for name, step in steps.items()} | {"files": _of_files(files)}
    people = len(evidence.own_member)
    most = Guesses(people, people, people)
    provable = epsilon_lower_bound(most, privacy.delta, 1.0 - (1.0 - each) / len(SHARES))
    said = verdict([bool(reasons)], privacy.epsilon, list(bounds.values()), provable, checked=True)
    return Claim(said, bounds, reasons, checks)


def trains_separator(config: Config) -> bool:
    """Tell whether separator, editor, prior network and codebook are trained."""
    return config.separator_training.steps > 0


def _of_step(name: str, step: StepAudit) -> str:
    noise = f"{step.noise.ratio:.4f} of what the plan promises ({step.noise.low:.4f} to {step.noise.high:.4f})"
    found = f": {'; '.join(step.reasons)}" if step.reasons else ", none failed"
    return f"In {_STEPS[name]}, noise is {noise}; {len(step.findings)} exact tests{found}"


def _of_files(files: ArtefactAudit) -> str:
    found = f": {'; '.join(files.reasons)}" if files.reasons else ", none failed"
    untested = f"; not tested: {'; '.join(files.untested)}" if files.untested else ""
    return f"In the run's own files, {len(files.findings)} tests of checkpoints and ledgers{found}{untested}"


def black_box_bounds(evidence: Evidence, delta: float, confidence: float) -> dict[str, float]:
    """Lower-bound epsilon by guessing people's memberships, on the run and on its first replica.

    On the replica memberships are fair coins, as the one-run audit needs them. On the run they are folds: as many
    members as there are non-members are drawn, and that people of different folds are exchangeable is assumed.
    """
    member = evidence.own_member
    generator = np.random.default_rng(0)
    fewer = min(int(member.sum()), int((~member).sum()))
    chosen = np.concatenate([generator.permutation(np.flatnonzero(member == side))[:fewer] for side in (True, False)])
    included = evidence.shadows.included[0]
    attacks = {
        "run": [_attack(one, one.values[chosen], member[chosen]) for one in evidence.own if one.calibrated],
        "replica": [_attack(one, one.values, included) for one in evidence.replicas[0] if one.calibrated],
    }
    return {name: best_bound(made, delta, confidence).epsilon for name, made in attacks.items()}


def _attack(scores: Scores, values: np.ndarray, included: np.ndarray) -> Attack:
    known = np.isfinite(values)
    return Attack(f"{scores.surface}/{scores.attack}", values[known], included[known])


def largest_site(config: Config, database: Database) -> SiteData:
    """The site with most training patients: where the real steps are watched."""
    shares = partition(database.table, config.partition.scheme, config.federation.sites, config.partition.seed)
    sites = [SiteData(name, database, positions, config) for name, positions in shares.items()]
    return max(sites, key=lambda site: site.described.patients)
