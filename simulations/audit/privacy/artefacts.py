"""What a finished private run's own files say of its noise, to somebody who holds the data.

A run keeps the shared model after every round, and each site its ledger. The centre of round 1 is the sites' clean
centres plus noise: the data give the one, the plan the size of the other, and the rest is a test of 1,261 numbers. The
steps of later rounds are not kept, so those rounds are trained again from the checkpoint before, a few times with
honest noise and once without (``head_replay``): the distance of the run's weights from those without noise has to be
one of the honest distances. Everything that did not have to change must not have changed.

A finding names the round and what is wrong with it. What cannot be tested is said as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavq_core.config import load_config
from lavq_core.data.database import Database
from lavq_core.errors import LavqError, RunError
from lavq_core.models.codebook import merge_statistics, no_statistics
from lavq_core.models.networks import beat_tokens
from lavq_core.privacy.ledger import Entry, Ledger
from lavq_core.privacy.plan import Plan, make_plan
from lavq_core.privacy.statement import privacy_statement
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.head_training import PatientItems
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import site_seed
from server.app import initial_model
from server.screening import cut_weights
from simulations.audit.privacy.head_reference import Head, centre_sum, standardised
from simulations.audit.privacy.head_replay import SiteHead, head_round_tests
from simulations.audit.privacy.noise_check import Finding, failures, normal_test, scale_test, size_test
from simulations.audit.privacy.public_noise import public_noise_test
from simulations.audit.privacy.training_step import cost_of
from simulations.audit.privacy.watched_training import Scales
from simulations.partitions import partition

Parts = Mapping[str, Mapping[str, Tensor]]
_ROUNDING = 1e-6  # of a mean in float32


@dataclass(frozen=True)
class ArtefactAudit:
    """What a run's files have shown."""

    claimed: float  # epsilon
    findings: tuple[Finding, ...]  # exact tests
    reasons: tuple[str, ...]  # why the run is flagged, in words; empty where it is not
    untested: tuple[str, ...]  # what these files cannot show, in words

    @property
    def flagged(self) -> bool:
        """Whether the claim does not hold."""
        return bool(self.reasons)


@dataclass(frozen=True)
class _Run:
    """A run's files and data."""

    config: Config
    plan: Plan
    checkpoints: dict[int, Parts]
    present: dict[int, list[str]]  # sites whose updates were used, by round
    items: dict[str, PatientItems]  # by site
    ledgers: dict[str, list[Entry]]  # by site, this run's entries
    sizes: dict[str, float]  # released numbers of patients

    def weights(self, number: int) -> dict[str, float]:
        """Share of each site in the average of a round."""
        names, federation = self.present[number], self.config.federation
        counted = cut_weights([max(1, round(self.sizes[name])) for name in names], federation.max_weight_share)
        return {name: count / sum(counted) for name, count in zip(names, counted, strict=True)}


def audit_artefacts(run: RunFolder, database: Database, seed: int = 0) -> ArtefactAudit:
    """Hold a private run's checkpoints and ledgers against its data and its plan.

    Args:
        run: a simulated run, whose sites' folders are in it.
        database: all its records.
        seed: of the honest noise in replays.

    Raises:
        RunError: the run claims no epsilon, or its files are damaged.
    """
    config = load_config(run.config)
    if config.privacy.epsilon == 0:
        raise RunError(f"the run in {run.root} claims no epsilon: there is no noise to look for")
    opened, reasons = _open(run, config, database)
    untested = [] if config.separator_training.steps == 0 else ["codebook and networks, which trained privately too"]
    findings = _size_findings(opened)
    federation = config.federation
    if federation.strategy not in ("fedavg", "fedprox"):
        untested.append(f"centre and head: {federation.strategy} is no mean of the sites' updates")
    elif not opened.sizes or not opened.checkpoints:
        untested.append("centre and head: there is no checkpoint or no ledger")
    else:
        findings += _centre_findings(opened) if 1 in opened.present else []
        findings += _head_findings(opened, seed)
        missing = [str(n) for n in range(1, federation.rounds + 1) if not {n, max(1, n - 1)} <= set(opened.present)]
        untested += [f"rounds without a checkpoint: {', '.join(missing)}"] if missing else []
    untested += [f"{found.name}: the noise hides it at this size" for found in findings if found.blind]
    reasons += [*failures(findings), *_state_reasons(opened), *_final_reasons(run, opened)]
    return ArtefactAudit(config.privacy.epsilon, tuple(findings), tuple(reasons), tuple(untested))


def _open(run: RunFolder, config: Config, database: Database) -> tuple[_Run, list[str]]:
    """Read a run; what is wrong with its ledgers comes beside it."""
    checkpoints: dict[int, Parts] = {}
    present: dict[int, list[str]] = {}
    for number, folder in run.checkpoints().items():
        parts, about = load_artefact(folder)
        checkpoints[number], present[number] = parts, sorted(about["history"][-1]["sites"])
    items, ledgers, sizes, reasons = {}, {}, {}, []
    shares = partition(database.table, config.partition.scheme, config.federation.sites, config.partition.seed)
    plan, name_of_run = make_plan(config, config.federation.rounds), Path(config.run.dir).name
    for name in sorted({site for sites in present.values() for site in sites}):
        if name not in shares:
            raise RunError(f"the run has a site {name!r} that this database does not deal out: give the run's own data")
        withheld = tuple(item.split(":")[1] for item in config.partition.withhold if item.split(":")[0] == name)
        site = SiteData(name, database, shares[name], config, withheld)
        items[name] = site.described
        try:
            every = Ledger(run.site(name).ledger, site.fingerprint, np.inf, config.privacy.delta).entries
        except LavqError as error:
            reasons.append(f"{name}: {error}")
            every = []
        mine = [entry for entry in every if entry.run == name_of_run]
        reasons += [f"{name}: {said}" for said in _ledger_reasons(config, plan, mine, present, name)]
        ledgers[name] = mine
        if released := [entry.public["size"] for entry in mine if "size" in entry.public]:
            sizes[name] = released[0]
    if set(sizes) < set(items):
        sizes = {}  # a mean over sites is known only where all their sizes are
    return _Run(config, plan, checkpoints, present, items, ledgers, sizes), reasons


def _ledger_reasons(
    config: Config, plan: Plan, entries: list[Entry], present: Mapping[int, list[str]], name: str
) -> list[str]:
    """Say where a site's ledger is not what its rounds must have written."""
    reasons, claimed = [], config.privacy.epsilon
    entered = {entry.round for entry in entries}
    if absent := [str(number) for number, sites in present.items() if name in sites and number not in entered]:
        reasons.append(f"the ledger has no entry of round {', '.join(absent)}, in which the site took part")
    sized = False
    for entry in entries:
        if entry.mechanisms != plan.of_round(entry.round, sized):
            reasons.append(f"the ledger's mechanisms of round {entry.round} are not those of the plan")
        sized = sized or "size" in entry.public
    cost = cost_of([mechanism for entry in entries for mechanism in entry.mechanisms], config.privacy.delta)
    if cost > claimed * 1.02:
        reasons.append(f"the ledger's entries cost epsilon {cost:.2f}, and {claimed:g} is claimed")
    return reasons


def _size_findings(run: _Run) -> list[Finding]:
    sigma = run.plan.size.noise_multiplier
    # A released number of patients is at least 1: where it is, nothing can be said of its noise.
    deviations = [(size - run.items[name].patients) / sigma for name, size in run.sizes.items() if size > 1]
    return [size_test(deviations)] if deviations else []


def _centre_findings(run: _Run) -> list[Finding]:
    """Test the noise of round 1: the centre less the mean of the sites' clean centres."""
    weights = run.weights(1)
    clean = sum((weights[name] / run.sizes[name]) * centre_sum(run.items[name]) for name in weights)
    std = Scales.of(run.config).centre * np.sqrt(sum((weights[name] / run.sizes[name]) ** 2 for name in weights))
    noise = ((run.checkpoints[1]["detector"]["centre"].double() - clean) / std).numpy()
    seeds = sorted({0, 1, 42, run.config.run.seed, *(site_seed(run.config.run.seed, name, 1) for name in weights)})
    return [scale_test("centre", noise), normal_test("centre", noise), public_noise_test("centre", noise, seeds)]


def _head_findings(run: _Run, seed: int) -> list[Finding]:
    """Test the rounds of the head against replays of each from the checkpoint before."""
    rounds = [number for number in sorted(run.checkpoints) if number > 1 and number - 1 in run.checkpoints]
    if not rounds:
        return []
    head, noise = Head.of(run.config), run.plan.detector.noise_multiplier * run.config.privacy.clipping_norm
    centre = run.checkpoints[rounds[0]]["detector"]["centre"]
    seen = {name: standardised(items.x, centre) for name, items in run.items.items()}
    at = {number: parts["detector"]["head.weight"].double() for number, parts in run.checkpoints.items()}
    sites = {
        number: [
            SiteHead(seen[name], run.items[name], run.sizes[name], weight)
            for name, weight in run.weights(number).items()
        ]
        for number in rounds
    }
    return head_round_tests(at, sites, head, noise, seed)


def _state_reasons(run: _Run) -> list[str]:
    """Say what changed in the shared model and had no reason to, or left and has no name."""
    reasons = []
    start = initial_model(run.config)
    idle = run.config.separator_training.steps == 0
    codebook, nothing = dict(start.codebook), no_statistics(run.config.codebook, beat_tokens(run.config))
    for number, parts in sorted(run.checkpoints.items()):
        expected = {"detector": start.detector, "codebook": start.codebook, "networks": start.networks}
        for part, state in parts.items():
            if extra := set(state) - set(expected.get(part, {})):
                reasons.append(f"round {number}: {part} holds {', '.join(sorted(extra))}, which no mechanism releases")
        if number > 1 and 1 in run.checkpoints and not _near(parts, run.checkpoints[1], "detector", "centre"):
            reasons.append(f"round {number}: the centre has changed, which round 1 alone releases")
        if not idle:
            continue
        codebook = merge_statistics(codebook, [nothing], run.config.codebook.decay)
        for part, fixed in (("codebook", codebook), ("networks", start.networks)):
            for name in parts.get(part, {}):
                if not _near(parts, {part: fixed}, part, name):
                    reasons.append(f"round {number}: {part}/{name} has changed, and nothing private trains it")
    return reasons


def _final_reasons(run: RunFolder, opened: _Run) -> list[str]:
    """Say where the final model is not the last round's, or states another privacy than was planned."""
    try:
        final, about = load_artefact(run.model)
    except RunError:
        return []  # the run was broken off: nothing final is claimed
    reasons = []
    last = opened.checkpoints.get(opened.config.federation.rounds)
    if last is not None and any(
        not _near(final, last, part, name, 0.0) for part, state in final.items() for name in state
    ):
        reasons.append("the final model is not that of the last round")
    if about.get("privacy") != privacy_statement(opened.config):
        reasons.append("the final model states another privacy than its configuration gives")
    return reasons


def _near(first: Parts, second: Parts, part: str, name: str, rounding: float = _ROUNDING) -> bool:
    """Compare one tensor; a mean over sites of what all have is that but for its rounding."""
    other = second.get(part, {}).get(name)
    return other is not None and torch.allclose(first[part][name], other, rtol=rounding, atol=rounding)
