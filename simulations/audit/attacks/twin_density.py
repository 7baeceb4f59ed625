"""Membership by twins: do they lie more densely where a patient's own beat is, because the editor was trained on it?"""

from __future__ import annotations

import numpy as np

from simulations.audit.attacks.identity_search import beat_distance
from simulations.audit.attacks.people import People

_NEAREST = 1e-4  # mV, added to a distance before its logarithm


def twin_density(twins: np.ndarray, people: People) -> np.ndarray:
    """Logarithm of the density of twins where a patient's own beat lies, up to scale and constant: ``(P,)`` float64.

    The estimate from the nearest neighbour, minus the logarithm of its distance (Loftsgaarden and Quesenberry 1965):
    one twin that copies a patient is enough, where a wider kernel would average it away. A patient counts by the
    densest place of the patient's records. Its difference to what shadow editors' twins say of the same patient is the
    density ratio of van Breugel et al. 2023 (DOMIAS, *Membership Inference Attacks against Synthetic Data through
    Overfitting Detection*), with shadows in place of a reference sample.

    Args:
        twins: ``(t, 8, W)`` mV, median beats, see ``published_twins``.
        people: scored by all their records.
    """
    nearest = beat_distance(people.beats.x.numpy(), twins).min(axis=1)  # (n,) mV
    return people.largest(-np.log(nearest + _NEAREST))
