"""What the arms of the transfer experiment add to the records that a site has left.

A detector that meets a class in synthetic ECGs alone learns what is synthetic, not what is ill. So twins of all four
diseases are the arm, and twins of the other three its control: what the withheld class's twins add lies between them.
``rewritten`` goes further and sends real records through the same networks and the same write-back, with their own
labels, so that having been through them says nothing about any label.
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
        each: twins of a disease that a healthy patient gets; their statements are drawn one by one.
        counts: draw from the class prior's counts, where no prior network travels.
    """

    def __init__(self, generator: Generator, site: SiteData, seed: int, each: int = 1, counts: bool = False) -> None:
        self.generator, self.site, self.seed, self.each, self.counts = generator, site, seed, each, counts
        order = torch.randperm(len(site.healthy), generator=torch.Generator().manual_seed(seed))
        self.patients: Patients = site.healthy.take(order[:MOST])

    def twins(self, diseases: Sequence[str]) -> LabelledEcgs:
        """Twins of these diseases, labelled as asked; those of one disease are the same in every arm."""
        return together([labelled(self._requested([name], name), name) for name in diseases])

    def mislabelled(self, disease: str) -> LabelledEcgs:
        """As many twins as of one disease, labelled with it, whose shape is that of the others in turn."""
        return labelled(self._requested([name for name in DISEASES if name != disease], disease), disease)

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

    def _requested(self, asked: Sequence[str], label: str) -> Tensor:
        """Twins ``(n, 8, T)`` of every patient, the classes asked for taking turns."""
        draws = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{label}/{','.join(asked)}".encode()))
        patients = self.patients.take(torch.arange(len(self.patients)).repeat(self.each))
        turns = torch.arange(len(patients)) % len(asked)
        classes = torch.tensor([SUPERCLASSES.index(name) for name in asked])[turns]
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
