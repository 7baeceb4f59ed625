"""From what a model and its shadows say about people to the attacks' scores of each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.audit.attacks.lira import fit_worlds, label_margin, log_likelihood_ratio, negative_loss
from simulations.audit.attacks.rmia import rmia
from simulations.audit.cohort import Cohort
from simulations.audit.shadows.training import Answers, Shadows


@dataclass(frozen=True)
class Scores:
    """One attack's scores."""

    surface: str  # detector, updates, codebook or twins
    attack: str
    values: np.ndarray  # (P,) higher for likelier members, NaN where a patient could not be scored
    calibrated: bool  # by shadows: it asks who was trained on, and not who is easy

    @property
    def votes(self) -> bool:
        """Whether it is evidence of a leak: an uncalibrated one is none, but for codes that are somebody's latents."""
        return self.calibrated or self.attack == "nearest_code"


def attack(target: Answers, shadows: Shadows, cohort: Cohort) -> list[Scores]:
    """Attack a model by every attack for which it has answers.

    The detector: LiRA, RMIA and the loss threshold. Whatever else is known of each patient is brought into LiRA's form:
    how much better its distribution over shadows that were trained on the patient explains it than the other. Where
    the shadows have no such answer it is taken as it is, and then also tells easy people from hard ones.

    Args:
        target: answers of the attacked model.
        shadows: of the same cohort, none of which may tell who was in the attacked model.
        cohort: whose logits are in the answers.
    """
    classes = cohort.y.shape[1]
    loss = cohort.patient_means(negative_loss(target["logits"], cohort.y))  # (P,)
    losses = cohort.patient_means(negative_loss(shadows.answers["logits"], cohort.y))  # (N, P)
    margin = cohort.patient_means(label_margin(target["logits"], cohort.y))
    margins = cohort.patient_means(label_margin(shadows.answers["logits"], cohort.y))
    scores = [
        Scores("detector", "lira", calibrated(margin, margins, shadows.included), True),
        Scores("detector", "rmia", rmia(classes * loss, classes * losses), True),  # of all labels of a record together
        Scores("detector", "loss", loss, False),
    ]
    for name in sorted(target.keys() - {"logits"}):
        surface, what = name.split("/")
        known = name in shadows.answers
        values = calibrated(target[name], shadows.answers[name], shadows.included) if known else target[name]
        scores.append(Scores(surface, what, values, known))
    return scores


def calibrated(target: np.ndarray, shadows: np.ndarray, included: np.ndarray) -> np.ndarray:
    """LiRA of any statistic, for the patients that have one in every shadow; NaN for the others.

    Args:
        target: ``(P,)``.
        shadows: ``(N, P)``.
        included: ``(N, P)`` bool.
    """
    known = np.isfinite(shadows).all(axis=0) & np.isfinite(target)
    scores = np.full(len(target), np.nan)
    if known.any() and shadows[:, known].std(axis=0).max() > 0:
        worlds = fit_worlds(shadows[:, known], included[:, known])
        scores[known] = log_likelihood_ratio(target[known], worlds)
    return scores
