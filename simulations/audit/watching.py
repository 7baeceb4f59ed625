"""What a curious server sees round by round: every site's update, and what each does to the people of that site.

The server is honest, it follows the protocol, and looks at what it gets. For a patient it compares the detector that it
sent with the one that the patient's site sent back: training on somebody raises the confidence in that person's labels
more than training on others does. Trajectories say more than a final model (Liu et al. 2022, *Membership Inference
Attacks by Exploiting Loss Trajectory*). Who sees only the aggregate, as under secure aggregation, has what the server
sends out.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp

from lavq_core.data.database import Database
from lavq_core.models.stored import shared_detector
from lavq_core.settings import Config
from simulations.audit.cohort import Cohort
from simulations.audit.lira import label_margin
from simulations.audit.shadows import Answers
from simulations.partitions import partition


class Watcher(ClientApp):
    """Passes messages to the sites' app and notes what their updates do to the cohort.

    Args:
        config: of the federation.
        cohort: whose records are looked at; each by the updates of its own site.
    """

    def __init__(self, config: Config, cohort: Cohort) -> None:
        super().__init__()
        table = Database.configured(config.data, progress=False).table
        shares = partition(table, config.partition.scheme, config.federation.sites, config.partition.seed)
        self._config, self._cohort = config, cohort
        self._rows = [np.flatnonzero(np.isin(cohort.positions, share)) for share in shares.values()]
        self._gain = np.zeros(len(cohort.owner))  # (n,) what the site's updates added to the margin, all rounds
        self._level = np.zeros(len(cohort.owner))  # (n,) sum of the aggregates' margins

    def __call__(self, message: Message, context: Context) -> Message:
        """Pass a message on, and look at what an answer to ``train`` changed."""
        from client.app import app

        reply = app(message, context)
        if message.metadata.message_type == MessageType.TRAIN and reply.has_content():
            rows = self._rows[int(str(context.node_config["partition-id"]))]
            sent, returned = self._margins(message, rows), self._margins(reply, rows)
            self._gain[rows] += returned - sent
            self._level[rows] += sent
        return reply

    def answers(self) -> Answers:
        """Return what was seen of each patient: ``updates/site`` and ``updates/aggregate``, each ``(P,)``."""
        return {
            "updates/site": self._cohort.patient_means(self._gain),
            "updates/aggregate": self._cohort.patient_means(self._level),
        }

    def _margins(self, message: Message, rows: np.ndarray) -> np.ndarray:
        state = dict(message.content.array_records["detector"].to_torch_state_dict())
        detector = shared_detector(self._config, state)
        return label_margin(self._cohort.logits(detector, rows), self._cohort.y[rows])  # (m,)
