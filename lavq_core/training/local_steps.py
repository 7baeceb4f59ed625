"""The detector's steps in one round, so planned that sites stay together.

Two plans. With ``detector_training.steps`` = 0 a site passes ``epochs`` times over its records in batches of ``batch``,
so that a site of ten times the records takes ten times the steps. Otherwise every site takes ``steps`` steps, each with
the same share ``epochs / steps`` of its own records: batches are proportional to the sites' sizes without any site or
the server knowing another's. (Under differential privacy that share is the public sampling rate.)

With ``federation.average_moments`` AdamW does not start anew in a round: it goes on from the moments that the server
averaged like the weights. Restarted moments are most of what federated averaging loses to central training here.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavq_core.settings import Config, DetectorTrainingConfig
from lavq_core.training.detector_training import (
    LabelledEcgs,
    Stretch,
    draw_seed,
    epoch_batches,
    make_optimiser,
    take_steps,
)

MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}
"""Names of AdamW's moments in a message, and in the optimiser's state."""


@dataclass(frozen=True)
class Round:
    """Which round, where."""

    site: str
    number: int  # from 1
    rounds: int

    @property
    def stretch(self) -> Stretch:
        """Its part of the one learning-rate schedule over all rounds."""
        return Stretch((self.number - 1) / self.rounds, self.number / self.rounds)


def rounds_before(share: float, rounds: int) -> int:
    """Rounds that pass before something starts, for a share of all: 3 of 12 for .25, none of 2."""
    return int(share * rounds)


def steps_in_round(config: DetectorTrainingConfig, records: int) -> int:
    """Count the steps that a site of so many records takes."""
    return config.steps or int(config.epochs) * math.ceil(records / config.batch)


def zero_moments(model: nn.Module) -> dict[str, Tensor]:
    """Make the moments that the first round starts from: ``first.NAME`` and ``second.NAME``, like each weight."""
    return {f"{kind}.{name}": torch.zeros_like(value) for kind in MOMENTS for name, value in model.state_dict().items()}


def train_in_round(
    model: nn.Module,
    data: LabelledEcgs,
    config: Config,
    place: Round,
    moments: dict[str, Tensor],
    generator: torch.Generator,
) -> tuple[float, dict[str, Tensor]]:
    """Take a round's steps in place.

    Args:
        model: with the broadcast weights, on its device.
        data: the site's records and twins.
        config: its ``detector_training`` and ``federation``.
        place: which round and site.
        moments: as broadcast; empty where they do not travel.
        generator: a CPU generator.

    Returns:
        The mean loss (of the last epoch, or of all steps), and the moments, on the CPU and named as they came.
    """
    training, seed = config.detector_training, draw_seed(generator)
    if training.steps:
        batches = step_batches(len(data), training, config.run.seed, place)
        last = len(batches)
    else:
        batches = epoch_batches(len(data), training.batch, int(training.epochs), generator)
        last = math.ceil(len(data) / training.batch)
    optimiser = make_optimiser(model, training)
    if moments:
        _load_moments(optimiser, model, moments, done=(place.number - 1) * len(batches))
    proximal = config.federation.proximal if config.federation.strategy == "fedprox" else 0.0
    losses = take_steps(
        model, data, batches, optimiser, training, config.data.sampling_rate, seed, place.stretch, proximal
    )
    return float(losses[-last:].mean()), _read_moments(optimiser, model) if moments else {}


def step_batches(records: int, config: DetectorTrainingConfig, seed: int, place: Round) -> list[Tensor]:
    """Choose the rows of each step of a round; rounds go on where the last one stopped.

    An epoch is a permutation that depends on seed, site and its number alone, so nothing has to be kept between rounds,
    and over the rounds every record comes as often as every other (up to the part of a batch that ends an epoch).
    """
    batch = min(records, max(1, round(records * config.epochs / config.steps)))
    per_epoch = records // batch
    chosen: list[Tensor] = []
    for step in range((place.number - 1) * config.steps, place.number * config.steps):
        epoch, position = divmod(step, per_epoch)
        if not chosen or position == 0:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{place.site}/epoch-{epoch}".encode()))
            order = torch.randperm(records, generator=generator)
        chosen.append(order[position * batch : (position + 1) * batch])
    return chosen


def _load_moments(optimiser: torch.optim.Optimizer, model: nn.Module, moments: dict[str, Tensor], done: int) -> None:
    """Let AdamW go on: ``done`` steps lie behind it, which its bias correction counts."""
    for name, weights in model.named_parameters():
        state = {own: moments[f"{kind}.{name}"].to(weights.device, copy=True) for kind, own in MOMENTS.items()}
        optimiser.state[weights] = {"step": torch.tensor(float(done), device=weights.device), **state}


def _read_moments(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{kind}.{name}": optimiser.state[weights][own].detach().cpu()
        for kind, own in MOMENTS.items()
        for name, weights in model.named_parameters()
    }
