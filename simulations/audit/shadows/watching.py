"""What a curious server sees round by round: every site's update, and what each does to the people of that site.

The server is honest, it follows the protocol, and looks at what it gets. For a patient it compares the detector that it
sent with the one that the patient's site sent back: training on somebody raises the confidence in that person's labels
more than training on others does. Trajectories say more than a final model (Liu et al. 2022, *Membership Inference
Attacks by Exploiting Loss Trajectory*). Who sees only the aggregate, as under secure aggregation, has what the server
sends out.

Where separators travel, a site's sums are looked at as well: a code that one latent alone has chosen is that latent,
and the separator that made it came in the same update. Neither is left in the aggregate.
"""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.models.stored import shared_detector
from lavq_core.settings import Config
from server.packing import PARTS, unpack
from simulations.audit.attacks.codebook import codes_of_update, nearest_code
from simulations.audit.attacks.lira import label_margin
from simulations.audit.attacks.people import BeatFrame, People
from simulations.audit.cohort import Cohort
from simulations.audit.published import networks_of
from simulations.audit.shadows.training import Answers
from simulations.partitions import partition


class Watcher(ClientApp):
    """Passes messages to the sites' app and notes what their updates do to the cohort.

    Args:
        config: of the federation.
        cohort: whose records are looked at; each by the updates of its own site.
        frame: the same in the beat frame; None where no separator travels.
    """

    def __init__(self, config: Config, cohort: Cohort, frame: BeatFrame | None = None) -> None:
        super().__init__()
        table = Database.configured(config.data, progress=False).table
        shares = partition(table, config.partition.scheme, config.federation.sites, config.partition.seed)
        self._config, self._cohort, self._people = config, cohort, frame.people if frame else None
        self._shares = list(shares.values())
        self._rows = [np.flatnonzero(np.isin(cohort.positions, share)) for share in shares.values()]
        self._gain = np.zeros(len(cohort.owner))  # (n,) what the site's updates added to the margin, all rounds
        self._level = np.zeros(len(cohort.owner))  # (n,) sum of the aggregates' margins
        self._nearest = np.full(len(cohort), np.nan)  # (P,) cosine of a latent with a code of the site's sums

    def __call__(self, message: Message, context: Context) -> Message:
        """Pass a message on, and look at what an answer to ``train`` changed."""
        from client.app import app

        reply = app(message, context)
        if message.metadata.message_type == MessageType.TRAIN and reply.has_content():
            site = int(str(context.node_config["partition-id"]))
            rows = self._rows[site]
            sent, returned = self._margins(message, rows), self._margins(reply, rows)
            self._gain[rows] += returned - sent
            self._level[rows] += sent
            if self._people is not None:
                self._nearest = np.fmax(self._nearest, self._nearest_code(reply, self._people, site))
        return reply

    def answers(self) -> Answers:
        """Return what was seen of each patient, by ``updates/site``, ``updates/aggregate`` and, where separators
        travel, ``updates/nearest_code``, each ``(P,)``."""
        seen = {
            "updates/site": self._cohort.patient_means(self._gain),
            "updates/aggregate": self._cohort.patient_means(self._level),
        }
        return seen | ({"updates/nearest_code": self._nearest} if self._people is not None else {})

    def _margins(self, message: Message, rows: np.ndarray) -> np.ndarray:
        detector = shared_detector(self._config, _part(message, "detector"))
        return label_margin(self._cohort.logits(detector, rows), self._cohort.y[rows])  # (m,)

    def _nearest_code(self, reply: Message, people: People, site: int) -> np.ndarray:
        """Look for the site's people among the codes of its own sums; NaN for everybody else: ``(P,)``."""
        codes = codes_of_update(_part(reply, "codebook"))
        own = people.take(torch.from_numpy(np.flatnonzero(np.isin(people.positions, self._shares[site]))))
        if len(codes) == 0 or len(own.positions) == 0:
            return np.full(people.count, np.nan)
        networks = networks_of(self._config, _part(reply, "networks"))
        return nearest_code(networks.separator, codes, own)


def _part(message: Message, part: str) -> dict[str, Tensor]:
    return unpack(message.content.array_records[PARTS])[part]
