"""What one hospital does in one round; no Flower here.

1. Train separator and editor around the broadcast codebook, with the broadcast detector as frozen judge.
2. Sum the codes of the site's abnormal records: that, and nothing else of the separator, will leave.
3. Make twins of the site's healthy training patients.
4. Train the detector on real records and twins.

Separator and editor stay on the site's disk between rounds.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import DataError
from lavq_core.models.codebook import CodebookState, initial_codebook, perplexity
from lavq_core.models.editor import Editor
from lavq_core.models.stored import StateDict, load_private, save_private, shared_detector
from lavq_core.models.twins import available_diseases, make_twins
from lavq_core.training.detector_training import LabelledEcgs, Stretch, train_detector
from lavq_core.training.device import pick_device
from lavq_core.training.separator_training import SeparatorTrainer
from lavq_core.training.site_data import SiteData


@dataclass
class SiteUpdate:
    """What a round gives."""

    detector: StateDict  # leaves
    statistics: StateDict  # leaves: counts, sums, prior
    examples: int  # leaves: training records, the weight of the average
    measured: dict[str, float]  # stays on site


def train_round(
    site: SiteData, private_model: Path, detector: StateDict, codebook: CodebookState, number: int, rounds: int
) -> SiteUpdate:
    """Train one round (numbered from 1) at one site, starting from the shared state.

    Raises:
        DataError: the site has no record in the training folds.
    """
    config, data = site.config, site.train
    if len(data) == 0:
        raise DataError(f"site {site.name} has no record in the training folds: leave it out of the federation")
    device = pick_device(config.run.device)
    generator = torch.Generator().manual_seed(_round_seed(config.run.seed, site.name, number))
    separator, editor = load_private(config, private_model)
    separator, editor = separator.to(device), editor.to(device)
    model = shared_detector(config, detector).to(device)
    judge = copy.deepcopy(model).eval().requires_grad_(False) if number > 1 else None  # round 1 starts from noise

    trainer = SeparatorTrainer(separator, editor, codebook, judge, config, generator)
    measured = trainer.run(data, config.separator_training.steps)
    if measured:
        statistics = trainer.statistics(data)
        measured["perplexity"] = perplexity(statistics["counts"])
        save_private(private_model, separator, editor, number)
    else:  # no abnormal or no NORM record: an untrained separator has nothing to say
        empty = initial_codebook(config.codebook, 0)
        statistics = {name: torch.zeros_like(empty[name]) for name in ("counts", "sums", "prior")}

    real = LabelledEcgs(data.x, data.y, torch.ones(len(data)))
    twins = None
    if measured and number >= config.twins.from_round:
        local = {"codes": trainer.codes.cpu(), "prior": trainer.prior.cpu()}
        twins = training_twins(site, editor, local, generator)
    measured["twins"] = float(len(twins)) if twins is not None else 0.0
    training = config.detector_training
    stretch = Stretch((number - 1) / rounds, number / rounds)
    everything = real if twins is None else real + twins
    measured["detector_loss"] = train_detector(
        model, everything, training, config.data.sampling_rate, training.epochs, generator, stretch
    )
    return SiteUpdate(_on_cpu(model.state_dict()), statistics, len(data), measured)


def training_twins(
    site: SiteData, editor: Editor, codebook: CodebookState, generator: torch.Generator
) -> LabelledEcgs | None:
    """Twins of the site's NORM-only training records, diseases in equal shares; None when there is nothing to make."""
    config, data = site.config, site.train
    healthy, diseases = data.norm_only(), available_diseases(codebook["prior"])
    if len(healthy) * config.twins.per_record == 0 or len(diseases) == 0:
        return None
    rows = healthy.repeat(config.twins.per_record)
    order = torch.randperm(len(rows), generator=generator) % len(diseases)
    classes = diseases[order]
    made = make_twins(editor, codebook, data.x[rows], data.phases[rows], classes, config.twins.strength, generator)
    y = torch.nn.functional.one_hot(classes, len(SUPERCLASSES)).float()
    return LabelledEcgs(made.signal, y, torch.full((len(rows),), config.twins.weight))


def _round_seed(seed: int, site: str, number: int) -> int:
    """Another stream for every site and round, the same in every process (Python's own hash is salted)."""
    return zlib.crc32(f"{seed}/{site}/{number}".encode())


def _on_cpu(state: StateDict) -> StateDict:
    return {name: value.detach().cpu() for name, value in state.items()}
