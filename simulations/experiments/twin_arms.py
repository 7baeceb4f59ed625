"""The arms of the twins experiment: what answers the plan's requests.

==============  ========================================================================================================
``prior``       the prior network draws gate and codes for the request: the product
``counts``      gate and codes drawn from the class prior's counts, every token by itself
``donor``       gate and codes of the real record behind the request
``shuffled``    the prior network, asked for the statements of a request that shares no superclass with this one
``untrained``   the prior network and the editor before training
``time-warp``   the patient's own ECG with time stretched and squeezed by up to 10 %
``unedited``    the patient's own ECG
``graft``       the median beat of the real record itself, written back at the patient's beats: no generator at all,
                so what remains between it and real records is rhythm, noise and the seams
==============  ========================================================================================================
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lavq_core.models.beat_input import BeatInput
from lavq_core.models.codebook import quantise
from lavq_core.models.prior import draw_from_counts
from lavq_core.models.separator import Separator
from lavq_core.models.twins import Patients, Twins, make_twins, request_twins
from lavq_core.signals.beats import BEFORE
from lavq_core.signals.write_back import write_back
from lavq_core.training.guided import GuidedBeats, class_weights
from lavq_core.training.site_data import SiteData
from simulations.experiments.generators import Generator
from simulations.judges.bench import Bench, TwinSet

_GRAFT = (-0.1, 0.46, 0.04)  # s from the R peak: first and last of a graft, and how long it fades
_WARP, _KNOTS = 0.1, 6  # largest local change of speed, places where it is drawn


class Arms:
    """Answers of one trained generator to one bench."""

    def __init__(self, generator: Generator, bench: Bench, seed: int) -> None:
        self.generator, self.bench, self.seed = generator, bench, seed
        plan = bench.plan
        data = SiteData("bench", bench.database, np.arange(len(bench.database)), generator.config)
        self.patients: Patients = data.patients(plan.patient)
        self.real: GuidedBeats = data.guided(plan.real)

    def make(self, arm: str) -> TwinSet:
        """Answer every request of the plan."""
        plan = self.bench.plan
        if arm == "unedited":
            return self.bench.unedited()
        if arm == "graft":
            return self._graft()
        if arm == "time-warp":
            return self._warp()
        if arm in ("counts", "donor"):
            symbols = self.donor_symbols() if arm == "donor" else self._counted()
            generator = self.generator
            return self._measured(make_twins(generator.networks.editor, generator.codes, self.patients, symbols))
        statements = self._swapped() if arm == "shuffled" else plan.statements
        used = self.generator.untrained() if arm == "untrained" else self.generator
        return self._measured(self.request(used, self.patients, statements))

    def request(self, used: Generator, patients: Patients, statements: tuple[tuple[str, ...], ...]) -> Twins:
        """Let a generator's prior network answer."""
        draws = torch.Generator().manual_seed(self.seed)
        return request_twins(used.networks, used.codes, patients, statements, used.config, 1.0, draws)

    def donor_symbols(self, threshold: float | None = None) -> Tensor:
        """Codes ``(n, N)`` of the real records behind the requests, K where the gate is shut.

        Args:
            threshold: of the gate probability; the configuration's when left out.
        """
        real, separator = self.real, self.generator.networks.separator
        return disease_symbols(separator, self.generator.codes, real, real.memory, real.mask, threshold)

    def _counted(self) -> Tensor:
        draws = torch.Generator().manual_seed(self.seed)
        labels = torch.from_numpy(self.bench.plan.labels)
        classes = torch.multinomial(class_weights(labels), 1, generator=draws).flatten()
        return draw_from_counts(self.generator.codebook["prior"], classes, draws)

    def _swapped(self) -> tuple[tuple[str, ...], ...]:
        """Give each request the statements of another that shares no superclass; none where there is no such."""
        plan, rng = self.bench.plan, np.random.default_rng(self.seed)
        apart = plan.labels @ plan.labels.T == 0  # (n, n)
        return tuple(plan.statements[rng.choice(np.flatnonzero(row))] if row.any() else () for row in apart)

    def _graft(self) -> TwinSet:
        rate, first, last, fade = self.bench.database.sampling_rate, *_GRAFT
        time = np.arange(self.real.x.shape[-1]) / rate - BEFORE  # (W,) s from the R peak
        shape = np.clip(np.minimum((time - first) / fade, (last - time) / fade), 0.0, 1.0).astype(np.float32)
        change = (self.real.x - self.patients.input.x).numpy()
        envelope = np.repeat(shape[None], len(change), axis=0)
        beats, signal = self.patients.beats, self.patients.signal.numpy()
        return TwinSet.measured(*write_back(beats, signal, change, envelope, rate), rate)

    def _warp(self) -> TwinSet:
        """Stretch time smoothly (Um et al. 2017, *Data Augmentation of Wearable Sensor Data*, time warping)."""
        rate, rng = self.bench.database.sampling_rate, np.random.default_rng(self.seed)
        signal = self.patients.signal.numpy()
        T = signal.shape[-1]
        warped = np.empty_like(signal)
        for row, ecg in enumerate(signal):
            speed = np.interp(np.arange(T), np.linspace(0, T - 1, _KNOTS), 1 + rng.uniform(-_WARP, _WARP, _KNOTS))
            places = np.cumsum(speed) * (T - 1) / speed.sum()
            warped[row] = [np.interp(places, np.arange(T), lead) for lead in ecg]
        return TwinSet.measured(warped, np.ones((len(signal), T), np.float32), rate)

    def _measured(self, twins: Twins) -> TwinSet:
        rate = self.bench.database.sampling_rate
        return TwinSet.measured(twins.signal.numpy(), twins.envelope.numpy(), rate)


@torch.no_grad()
def disease_symbols(
    separator: Separator,
    codes: Tensor,
    beats: BeatInput,
    memory: Tensor,
    mask: Tensor,
    threshold: float | None = None,
) -> Tensor:
    """Read the codes off median beats: symbols ``(n, N)`` int64, K where the gate is shut.

    Args:
        separator: in eval mode.
        codes: ``(K, D)``.
        beats: n records.
        memory, mask: ``(n, L, width)`` and ``(n, L)``, their reports.
        threshold: of the gate probability; the separator's own when left out.
    """
    found = separator(beats.x, beats.covariates, beats.valid, memory, mask)
    _, indices = quantise(found.latents, codes)  # (n, N)
    opened = found.probability > (separator.threshold if threshold is None else threshold)
    return torch.where(opened, indices, torch.full_like(indices, len(codes)))
