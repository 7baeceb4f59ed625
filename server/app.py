"""Flower's ServerApp: from the run config to the round loop."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lavq_core.config import compose, load_config, other_settings, save_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError, RunError
from lavq_core.models.codebook import initial_codebook, merge_statistics
from lavq_core.models.detector import build_detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.models.pretrained import keep_pretrained
from lavq_core.models.stored import load_shared_model, shared_detector
from lavq_core.privacy.statement import privacy_statement
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.lock import held
from lavq_core.runs.scalars import ScalarWriter
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
    """Make the first model from the seed, train, and leave a run folder; or go on in one, with ``run.resume``.

    Raises:
        LavqError: see ``RoundLoop.run`` and ``resume``; an empty or relative ``run.dir``; a folder where another server
            works; settings that are not those of the run to go on with; no TensorBoard where it is asked for.
    """
    run = RunFolder(Path(config.run.dir))
    if not run.root.is_absolute():
        raise ConfigError("run.dir must be an absolute folder, since server and sites run in other working directories")
    about = {
        "seed": config.run.seed,
        "classes": list(SUPERCLASSES),
        "sampling_rate": config.data.sampling_rate,
        "privacy": privacy_statement(config),
    }
    checkpoints = Checkpoints(run, config.federation.rounds, about)
    if config.run.resume:
        require_same_settings(config, run)
    else:
        checkpoints.refuse_used_folder()
    with ExitStack() as closing:
        watchers = [closing.enter_context(ScalarWriter(run.tensorboard))] if config.run.tensorboard else []
        closing.enter_context(held(run))
        loop = RoundLoop(
            grid=grid,
            settings=config.federation,
            aggregator=Aggregator(
                config.federation,
                config.detector_training,
                merge=partial(merge_statistics, decay=config.codebook.decay),
            ),
            checkpoints=checkpoints,
            events=EventLog(run.events, *watchers),
            private=config.privacy.epsilon > 0,
        )
        if config.run.resume:
            loop.resume(initial_model(config))
        else:
            config.detector.pretrained = keep_pretrained(config, run)
            save_config(config, run.config)
            loop.run(first_model(config))


def require_same_settings(config: Config, run: RunFolder) -> None:
    """Make sure that a run which is to go on is the one in the folder.

    Raises:
        RunError: no run is there.
        ConfigError: it was started with other settings; those that change no figure may differ.
    """
    if not run.config.is_file():
        raise RunError(f"there is no run to go on with in {run.root}: start one without run.resume")
    differing = other_settings(load_config(run.config), config)
    if differing:
        named = ", ".join(f"{key} was {before!r} and is {now!r}" for key, (before, now) in differing.items())
        raise ConfigError(
            f"the run in {run.root} was started with other settings ({named}): give those of its config.yaml"
        )


def first_model(config: Config) -> SharedModel:
    """Make what the first round starts from: ``initial_model``, or with the public head that ``detector.start`` names.

    Raises:
        ConfigError: ``detector.start`` is a run of another kind of detector.
        RunError: it is no finished run.
    """
    made = initial_model(config)
    if not config.detector.start:
        return made
    public = load_shared_model(RunFolder.open(config.detector.start)).detector
    detector = shared_detector(config, made.detector)
    if not (isinstance(public, FeatureDetector) and isinstance(detector, FeatureDetector)):
        raise ConfigError(f"detector.start takes a run of detector.kind=features, and {config.detector.start} is none")
    detector.start_from(public)
    return replace(made, detector=detector.state_dict())


def initial_model(config: Config) -> SharedModel:
    """Make a model that nobody has trained; it depends on ``run.seed`` alone."""
    seed = config.run.seed
    detector = build_detector(config.detector, config.data.sampling_rate, seed)
    codebook = initial_codebook(config.codebook, beat_tokens(config), seed)
    networks = make_networks(config, seed).shared(config.federation.share)
    moments = zero_moments(detector) if config.federation.average_moments else {}
    return SharedModel(detector.state_dict(), codebook, networks, moments)
