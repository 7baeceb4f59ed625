"""A server with a model of seven numbers and a network of two, driven by the real round loop."""

import shlex
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lavq_core.models.codebook import merge_statistics
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import DetectorTrainingConfig, FederationConfig
from server.aggregation import Aggregator
from server.checkpoints import Checkpoints
from server.model import SharedModel
from server.round_loop import RoundLoop

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = dict(item.split("=", 1) for item in shlex.split(str(context.run_config["overrides"])))
    if "crash" in settings:
        raise ValueError(settings["crash"])
    model = SharedModel(
        {"weight": torch.ones(7)},
        {
            "codes": torch.eye(2),
            "counts": torch.zeros(2),
            "sums": torch.zeros(2, 2),
            "prior": torch.zeros(5, 1, 3),
            "requests": torch.zeros(5, 4),
        },
        {"prior.weight": torch.ones(2)},
    )
    run = RunFolder(Path(settings["run.dir"]))
    federation = FederationConfig(
        sites=2, min_sites=int(settings.get("min_sites", 2)), rounds=1, join_timeout=180.0, round_timeout=180.0
    )
    federation.max_weight_share = 1.0  # one of the two toy sites weighs three times the other
    aggregator = Aggregator(federation, DetectorTrainingConfig(), merge_statistics)
    RoundLoop(grid, federation, aggregator, Checkpoints(run, 1, {}), EventLog(run.events)).run(model)
