"""What the arms of the transfer experiment add to the records that a site has left.

A detector that meets a class in synthetic ECGs alone learns what is synthetic, not what is ill. So there are twins of
all four diseases, and what the withheld class's twins add is the distance to twins of the other three. What else tells
them from real records is whose they are: a healthy patient's rhythm and noise are not an ill one's. Twins of everybody,
with the record's own labels beside the twin's, take that away. ``rewritten`` takes another tell away: it sends real
records through the same networks and the same write-back with their own labels, so that having been there says nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.codebook import quantise
from lavq_core.models.editor import envelope
from lavq_core.models.prior import draw_from_counts, draw_statements
from lavq_core.models.twins import Patients, make_twins, request_twins
from lavq_core.signals.write_back import write_back
from lavq_core.text.statements import named
from lavq_core.training.detector_training import LabelledEcgs
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData
from simulations.experiments.generators import Generator

DISEASES = SUPERCLASSES[1:]
MOST = 482  # patients that get twins, or records that an arm adds, at most


class Arms:
    """What one trained generator makes of one site's records.

    Args:
        generator: of the federation, as the site holds it.
        site: without the records of the withheld class.
        seed: of the draws.
        each: twins of a record, whose statements are drawn one by one; of healthy ones, twins of each disease.
        counts: draw from the class prior's counts, where no prior network travels.
    """

    def __init__(self, generator: Generator, site: SiteData, seed: int, each: int = 1, counts: bool = False) -> None:
        self.generator, self.site, self.seed, self.each, self.counts = generator, site, seed, each, counts
        order = torch.randperm(len(site.healthy), generator=torch.Generator().manual_seed(seed))
        self.patients: Patients = site.healthy.take(order[:MOST])

    def of_healthy(self, diseases: Sequence[str]) -> LabelledEcgs:
        """Twins of every healthy patient, of each of these diseases, labelled as asked.

        Those of one disease are the same whatever the others are.
        """
        return together([labelled(self._of_healthy(name), name) for name in diseases])

    def unedited(self, disease: str) -> LabelledEcgs:
        """The healthy patients' own ECGs, labelled with a disease."""
        return labelled(self.patients.signal, disease)

    @torch.no_grad()
    def rewritten(self) -> LabelledEcgs:
        """Send the site's abnormal records through separator and editor, twice: recomposed and healed.

        Recomposed, a record is healed and its own codes are written back: real disease that went through the generator,
        and its labels stay. Healed, it counts as NORM: an edit at the same places that is no disease.
        """
        positions = self.site.with_beats(self.site.train_positions)
        everything = self.site.guided(positions)
        rows = everything.abnormal()
        beats, patients = everything.take(rows), self.site.patients(positions[rows.numpy()])
        separator, editor = self.generator.networks.separator, self.generator.networks.editor
        found = separator(beats.x, beats.covariates, beats.valid, beats.memory, beats.mask)
        gate = (found.probability > separator.threshold).float()
        codes, _ = quantise(found.latents, self.generator.codes)
        shape = envelope(gate, editor.stride)
        heal = editor.draw(beats.x, beats.covariates, gate, None)
        disease = editor.draw(beats.x + shape.unsqueeze(1) * heal, beats.covariates, gate, codes)
        recomposed, healed = (_written(patients, change, shape) for change in (heal + disease, heal))
        return LabelledEcgs(recomposed, beats.y, torch.ones(len(rows))) + labelled(healed, "NORM")

    def of_everybody(self, diseases: Sequence[str], mislabelled: str = "") -> LabelledEcgs:
        """Twins of all training records, ill ones too; labelled with the record's diseases and the one asked for.

        Args:
            diseases: dealt out in equal shares.
            mislabelled: twins that are labelled with this disease get the shape of the others, in turn.
        """
        draws = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/everybody".encode()))
        positions = self.site.with_beats(self.site.train_positions).repeat(self.each)
        columns = torch.tensor([SUPERCLASSES.index(name) for name in diseases])
        told = columns[torch.randperm(len(positions), generator=draws) % len(columns)]
        asked = told.clone()
        if mislabelled:
            column = SUPERCLASSES.index(mislabelled)
            wrong, others = told == column, columns[columns != column]
            asked[wrong] = others[torch.arange(int(wrong.sum())) % len(others)]
        y = torch.from_numpy(self.site.database.labels[positions]).clone()
        y[torch.arange(len(y)), told], y[:, NORM] = 1.0, 0.0
        return LabelledEcgs(self._made(self.site.patients(positions), asked, draws), y, torch.ones(len(y)))

    def _of_healthy(self, disease: str) -> Tensor:
        draws = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{disease}".encode()))
        patients = self.patients.take(torch.arange(len(self.patients)).repeat(self.each))
        return self._made(patients, torch.full((len(patients),), SUPERCLASSES.index(disease)), draws)

    def _made(self, patients: Patients, classes: Tensor, draws: torch.Generator) -> Tensor:
        """One twin ``(n, 8, T)`` of each patient, of a superclass ``(n,)`` each."""
        generator = self.generator
        if self.counts:
            symbols = draw_from_counts(generator.codebook["prior"], classes, draws)
            return make_twins(generator.networks.editor, generator.codes, patients, symbols).signal
        wanted = named(draw_statements(generator.codebook["requests"], classes, draws))
        made = request_twins(generator.networks, generator.codes, patients, wanted, generator.config, 1.0, draws)
        return made.signal


def labelled(signal: Tensor, name: str) -> LabelledEcgs:
    """Give ECGs ``(n, 8, T)`` one class and a real record's weight."""
    y = torch.zeros(len(signal), len(SUPERCLASSES))
    y[:, SUPERCLASSES.index(name)] = 1.0
    return LabelledEcgs(signal, y, torch.ones(len(signal)))


def together(parts: Sequence[LabelledEcgs]) -> LabelledEcgs:
    """Put one or more sets together."""
    first, *others = parts
    for part in others:
        first = first + part
    return first


def _written(patients: Patients, change: Tensor, shape: Tensor) -> Tensor:
    signal, rate = patients.signal.numpy(), patients.sampling_rate
    return torch.from_numpy(write_back(patients.beats, signal, change.numpy(), shape.numpy(), rate)[0])
