"""Membership by codebook and separator: statistics of every patient that are higher for who was trained on.

Each statistic is a loss that the training pressed down on its own records, as in the loss attack of Yeom et al. 2018,
or something that the codebook says outright. They are compared with what shadows say of the same patient
(``simulations.audit.attacks.lira``): on its own a statistic also tells easy patients from hard ones. The attacker holds
the patient's ECGs with labels and reports, and

=================  =================================================================================================
``commitment``     codes and separator: how near the latents of gated tokens lie to their codes
``reconstruction`` codes, separator and editor: how well an abnormal beat comes back from healed beat and codes
``healthy_gate``   the separator alone: how surely it leaves a normal beat shut
``nearest_code``   codes, and an encoder of the attacker's own: whether a code is one of the patient's latents
``rare_statement`` the codebook alone: how often the rarest of the patient's statements was counted
=================  =================================================================================================

A patient whom a statistic cannot score gets NaN, in every shadow alike: a patient of no usable record; one of NORM
records only for ``commitment``, ``reconstruction`` and ``rare_statement`` (their latents enter neither codes nor
counts, nor are they put together again); and one without a NORM-only record for ``healthy_gate``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from lavq_core.data.labels import SUPERCLASSES, statement_classes
from lavq_core.models.codebook import CodebookState, quantise
from lavq_core.models.networks import Networks
from lavq_core.models.separator import Separation, Separator
from lavq_core.training.guided import NORM, GuidedBeats
from lavq_core.training.separator_losses import relative_error
from simulations.audit.attacks.people import People

_SMALLEST_ERROR = 0.01  # relative, added before its logarithm: a gate that stays shut leaves no error at all
_BATCH = 256  # records


def codebook_statistics(networks: Networks, codebook: CodebookState, people: People) -> dict[str, np.ndarray]:
    """Compute what an attacker reads who holds everything that a run publishes of codebook, separator and editor.

    Args:
        networks: in eval mode, on the CPU.
        codebook: the shared state; counts, sums and codes as the run left them.
        people: members and others.

    Returns:
        ``(P,)`` float64 by name: all of the module's table but ``nearest_code``.
    """
    return {
        "commitment": commitment(networks.separator, codebook["codes"], people),
        "reconstruction": reconstruction(networks, codebook["codes"], people),
        "healthy_gate": healthy_gate(networks.separator, people),
        "rare_statement": rare_statement(codebook["requests"], people),
    }


@torch.no_grad()
def commitment(separator: Separator, codes: Tensor, people: People) -> np.ndarray:
    """Mean cosine of latents and their codes, tokens weighted by their gate probability: ``(P,)``.

    It is minus the commitment loss, up to a constant, with a soft gate in place of the hard one, so that a record whose
    gate stays shut in some shadow is scored all the same.

    Args:
        separator: in eval mode.
        codes: ``(K, D)``.
        people: NORM-only records are left out.
    """
    rows = people.beats.abnormal()
    values = np.full(len(people.beats), np.nan)
    for part in rows.split(_BATCH):
        found = _separate(separator, people.beats.take(part))
        weight = found.probability.clamp_min(1e-6)  # (b, N)
        values[part.numpy()] = ((_cosine(found.latents, codes) * weight).sum(1) / weight.sum(1)).numpy()
    return people.means(values)


@torch.no_grad()
def reconstruction(networks: Networks, codes: Tensor, people: People) -> np.ndarray:
    """Minus the logarithm of the relative error with which abnormal beats come back from their codes: ``(P,)``.

    The error is that of the training's reconstruction loss, without the noise on the content.

    Args:
        networks: in eval mode.
        codes: ``(K, D)``.
        people: NORM-only records are left out.
    """
    rows, editor = people.beats.abnormal(), networks.editor
    values = np.full(len(people.beats), np.nan)
    for part in rows.split(_BATCH):
        sick = people.beats.take(part)
        found = _separate(networks.separator, sick)
        quantised, _ = quantise(found.latents, codes)
        healed = editor(sick.x, sick.covariates, found.gate, None)
        recomposed = healed + editor.change(healed, sick.covariates, found.gate, quantised)
        error = vmap(lambda y, x: relative_error(y[None], x[None]))(recomposed, sick.x)  # (b,)
        values[part.numpy()] = -(error + _SMALLEST_ERROR).log().numpy()
    return people.means(values)


@torch.no_grad()
def healthy_gate(separator: Separator, people: People) -> np.ndarray:
    """Mean logit with which the gates of NORM-only records are shut: ``(P,)``.

    The training presses their gate probability p down; log(1 - p) - log p does not saturate as p does.

    Args:
        separator: in eval mode.
        people: other records than NORM-only ones are left out.
    """
    values = np.full(len(people.beats), np.nan)
    for part in people.beats.norm_only().split(_BATCH):
        healthy = people.beats.take(part)
        found = _separate(separator, healthy)
        margin = -torch.logit(found.probability, eps=1e-6) * healthy.valid  # (b, N)
        values[part.numpy()] = (margin.sum(1) / healthy.valid.sum(1).clamp_min(1.0)).numpy()
    return people.means(values)


@torch.no_grad()
def nearest_code(encoder: Separator, codes: Tensor, people: People) -> np.ndarray:
    """Largest cosine of any latent of a patient with any code: ``(P,)``; 1 where a code is one of the latents.

    A codebook whose dead codes were revived by copying latents of the batch gives such patients away. Which encoder?
    The codebook does not bring the one that made the latents. Where the run shares its separator, that is it. Where
    not, the attacker has the weights that every site starts from (``make_networks`` of the run's public seed) and can
    train them on people of its own around the run's codes: both encoders speak the language of one start, and the
    commitment pulls both towards one set of codes. The start alone finds copies of the first steps only, since the
    sites' encoders move away from it. An encoder that was trained on some of ``people`` favours those, whatever the
    codes: use one for all shadows, so that codes are all that differs between them, and not a shadow's own.

    Every valid token of every record counts, normal ones too: what a faulty revival copies is not known.

    Args:
        encoder: in eval mode.
        codes: ``(K, D)``.
        people: scored.
    """
    values = np.full(len(people.beats), np.nan)
    for part in torch.arange(len(people.beats)).split(_BATCH):
        records = people.beats.take(part)
        cosine = _cosine(_separate(encoder, records).latents, codes)  # (b, N)
        values[part.numpy()] = cosine.masked_fill(records.valid == 0, -1.0).amax(1).numpy()
    return people.largest(values)


def codes_of_update(statistics: Mapping[str, Tensor]) -> Tensor:
    """Read one site's sums of one round as codes, as whoever receives its update can: ``(K', D)``.

    A code that a single latent chose is that latent, exactly, seen with the separator that came in the same update:
    for ``nearest_code`` on that site's people. After the sites' sums have been added and their separators averaged it
    is neither, so the final codebook may look innocent where every update told.

    Args:
        statistics: ``counts (K,)`` and ``sums (K, D)`` of the update; codes that no latent chose are left out.
    """
    return F.normalize(statistics["sums"][statistics["counts"] > 0], dim=-1)


def rare_statement(requests: Tensor, people: People) -> np.ndarray:
    """Square root of the count of a patient's rarest abnormal statement in the codebook's ``requests``: ``(P,)``.

    Without noise a count is exact: a statement that was never counted clears everybody who has it, and one that a
    single record can explain names whoever is known to have it. The root of a count varies alike, be it large or small
    (Bartlett 1936), as the common variance of the likelihood ratio asks.

    Args:
        requests: ``(C, S)`` running counts.
        people: records without an abnormal statement are left out.
    """
    abnormal = torch.from_numpy(statement_classes()[[c for c in range(len(SUPERCLASSES)) if c != NORM]].any(axis=0))
    counted = requests.sum(0).double().sqrt()  # (S,)
    own = (people.beats.statements > 0) & abnormal  # (n, S)
    rarest = counted.expand(own.shape).masked_fill(~own, torch.inf).amin(1).numpy()  # (n,)
    return -people.largest(-np.where(np.isfinite(rarest), rarest, np.nan))


def _separate(separator: Separator, records: GuidedBeats) -> Separation:
    found: Separation = separator(records.x, records.covariates, records.valid, records.memory, records.mask)
    return found


def _cosine(latents: Tensor, codes: Tensor) -> Tensor:
    """Cosine of each latent ``(b, N, D)`` with the nearest of the codes ``(K, D)``: ``(b, N)``."""
    return (F.normalize(latents, dim=-1) @ codes.T).amax(dim=-1)
