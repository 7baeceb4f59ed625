"""From what a model and its shadows say about people to the attacks' scores of each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

    Args:
        target: answers of the attacked model.
        shadows: of the same cohort, none of which may tell who was in the attacked model.
        cohort: whose logits are in the answers.
    """
    known = replace(shadows, answers=patient_statistics(shadows.answers, cohort))
    return score(patient_statistics(target, cohort), known)


def patient_statistics(answers: Answers, cohort: Cohort) -> Answers:
    """Turn the logits of one model or of several into what each attack on a detector reads: ``(..., P)`` by name.

    All else is a number a patient already, and stays as it is.
    """
    logits, classes = answers["logits"], cohort.y.shape[1]
    loss = cohort.patient_means(negative_loss(logits, cohort.y))
    detector = {
        "detector/lira": cohort.patient_means(label_margin(logits, cohort.y)),
        "detector/rmia": classes * loss,  # log likelihood of all labels of a record together
        "detector/loss": loss,
    }
    return detector | {name: values for name, values in sorted(answers.items()) if name != "logits"}


def score(target: Answers, shadows: Shadows) -> list[Scores]:
    """Attack a model by ``patient_statistics`` of it and of its shadows.

    The detector: LiRA, RMIA and the loss threshold. Whatever else is known of each patient is brought into LiRA's form:
    how much better its distribution over shadows that were trained on the patient explains it than the other. Where
    the shadows have no such answer it is taken as it is, and then also tells easy people from hard ones.
    """
    scores = []
    for name, own in target.items():
        surface, what = name.split("/")
        known = name in shadows.answers and what != "loss"
        if not known:
            values = own
        elif what == "rmia":
            values = rmia(own, shadows.answers[name])
        else:
            values = calibrated(own, shadows.answers[name], shadows.included)
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
