"""Unlike everything that is frequent: distances from clusters of features, after TAPUDD.

Dua, Yang, Li and Choi, *Task Agnostic and Post-hoc Unseen Distribution Detection* (2022): features of training data are
clustered, a sample's score is its Mahalanobis distance from the nearest cluster, and the mean over several numbers of
clusters, so that none has to be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.mixture import GaussianMixture

CLUSTERS = (1, 2, 4, 8)
"""Numbers of clusters that are averaged over."""

_FITTED = 20_000  # samples at most, that are clustered
_RIDGE = 1e-3  # added to the variances of standardised features


@dataclass(frozen=True)
class Clusters:
    """Where frequent leads lie."""

    centre: np.ndarray  # (8, F), of each lead's features
    scale: np.ndarray  # (8, F)
    mixtures: tuple[GaussianMixture, ...]  # one for each number of clusters, of the standardised leads together

    @classmethod
    def fit(cls, features: np.ndarray, seed: int) -> Clusters:
        """Cluster the leads of training records, ``(n, 8, F)``."""
        centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        known = ((features - centre) / scale).reshape(-1, features.shape[-1])  # (8n, F)
        known = known[np.random.default_rng(seed).permutation(len(known))[:_FITTED]]
        mixtures = tuple(GaussianMixture(k, reg_covar=_RIDGE, random_state=seed).fit(known) for k in CLUSTERS)
        return cls(centre, scale, mixtures)

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of leads ``(n, 8, F)`` from the nearest cluster, mean over ``CLUSTERS``: (n, 8)."""
        x = ((features - self.centre) / self.scale).reshape(-1, features.shape[-1])  # (8n, F)
        nearest = []
        for mixture in self.mixtures:
            squared = [
                np.square((x - mean) @ root).sum(axis=1)  # precision = root @ root.T
                for mean, root in zip(mixture.means_, mixture.precisions_cholesky_, strict=True)
            ]
            nearest.append(np.sqrt(np.min(squared, axis=0)))
        return np.mean(nearest, axis=0).reshape(features.shape[:-1])
