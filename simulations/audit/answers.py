"""What a run's final model says about everybody: its detector, and where networks are published, codebook and twins."""

from __future__ import annotations

from simulations.audit.attacks.codebook import codebook_statistics, nearest_code
from simulations.audit.attacks.twin_density import twin_density
from simulations.audit.cohort import Cohort
from simulations.audit.published import PublishedModel, PublishedNetworks
from simulations.audit.shadows.training import Answers


def model_answers(model: PublishedModel, cohort: Cohort) -> Answers:
    """Ask a final model about the cohort; without published networks its detector alone."""
    answers = {"logits": cohort.logits(model.detector)}
    if model.networks is None:
        return answers
    published, people = model.networks, model.networks.frame.people
    found = codebook_statistics(published.networks, published.codebook, people)
    answers |= {f"codebook/{name}": values for name, values in found.items()}
    answers["twins/density"] = twin_density(published.twins.median, people)
    return answers


def own_nearest_code(published: PublishedNetworks) -> Answers:
    """Look for codes that are latents of somebody, with the run's own separator.

    Shadows have no say in it: a copied latent is the same latent, whoever else was trained on.
    """
    codes, people = published.codebook["codes"], published.frame.people
    return {"codebook/nearest_code": nearest_code(published.networks.separator, codes, people)}
