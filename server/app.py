"""Flower's ServerApp: from the run config to the round loop."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lavq_core.config import compose, save_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError
from lavq_core.models.codebook import initial_codebook, merge_statistics
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.local_steps import zero_moments
from server.aggregation import Aggregator
from server.checkpoints import Checkpoints
from server.model import SharedModel
from server.round_loop import RoundLoop

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federated training; ``context.run_config["overrides"]`` holds shell-quoted Hydra overrides."""
    serve(grid, compose(shlex.split(str(context.run_config["overrides"]))))


def serve(grid: Grid, config: Config) -> None:
    """Make the first model from the seed, train, and leave a run folder.

    Raises:
        LavqError: see ``RoundLoop.run``; an empty or relative ``run.dir``.
    """
    run = RunFolder(Path(config.run.dir))
    if not run.root.is_absolute():
        raise ConfigError("run.dir must be an absolute folder, since server and sites run in other working directories")
    about = {
        "seed": config.run.seed,
        "classes": list(SUPERCLASSES),
        "sampling_rate": config.data.sampling_rate,
    }
    checkpoints = Checkpoints(run, config.federation.rounds, about)
    checkpoints.refuse_used_folder()
    save_config(config, run.config)
    loop = RoundLoop(
        grid=grid,
        settings=config.federation,
        aggregator=Aggregator(
            config.federation,
            config.detector_training,
            merge=partial(merge_statistics, decay=config.codebook.decay),
        ),
        checkpoints=checkpoints,
        events=EventLog(run.events),
    )
    loop.run(initial_model(config))


def initial_model(config: Config) -> SharedModel:
    """Make what every site starts from; it depends on ``run.seed`` alone."""
    seed = config.run.seed
    detector = build_detector(config.detector, config.data.sampling_rate, seed)
    codebook = initial_codebook(config.codebook, beat_tokens(config), seed)
    networks = make_networks(config, seed).shared(config.federation.share)
    moments = zero_moments(detector) if config.federation.average_moments else {}
    return SharedModel(detector.state_dict(), codebook, networks, moments)
