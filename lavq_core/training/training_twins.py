"""Twins of a site's own healthy patients, for its detector to train on."""

from __future__ import annotations

import torch

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.networks import Networks
from lavq_core.models.prior import available_diseases, draw_statements
from lavq_core.models.twins import request_twins
from lavq_core.text.statements import named
from lavq_core.training.detector_training import LabelledEcgs
from lavq_core.training.site_data import SiteData


def training_twins(
    site: SiteData, networks: Networks, codes: torch.Tensor, known: torch.Tensor, generator: torch.Generator
) -> LabelledEcgs | None:
    """Twins of the site's NORM-only training records, diseases in equal shares; None when there is nothing to make.

    Args:
        site: whose patients.
        networks: in eval mode.
        codes: ``(K, D)``.
        known: ``(C, S)`` counts of statements: the diseases that the federation has seen, this site or not.
        generator: CPU generator.
    """
    config, patients = site.config, site.healthy
    diseases = available_diseases(known)
    if len(patients) * config.twins.per_record == 0 or len(diseases) == 0:
        return None
    rows = torch.arange(len(patients)).repeat(config.twins.per_record)
    classes = diseases[torch.randperm(len(rows), generator=generator) % len(diseases)]
    wanted = named(draw_statements(known, classes, generator))
    made = request_twins(networks, codes, patients.take(rows), wanted, config, config.twins.strength, generator)
    y = torch.nn.functional.one_hot(classes, len(SUPERCLASSES)).float()
    return LabelledEcgs(made.signal, y, torch.full((len(rows),), config.twins.weight))
