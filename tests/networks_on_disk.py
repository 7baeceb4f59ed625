"""Runs of small networks that stand for public pre-training; their weights come from the seed."""

from __future__ import annotations

from pathlib import Path

from lavq_core.config import compose, save_config
from lavq_core.models.pretrained import weights_sha256
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from server.app import initial_model

SMALL = ("detector.width=8", "detector.blocks=1")


def network_run(folder: Path, *more: str) -> RunFolder:
    """Write a run as training leaves it."""
    config, run = compose([*SMALL, "data.dir=/somebodys/folder", *more]), RunFolder(folder)
    save_artefact(run.model, initial_model(config).parts(), {"classes": []})
    save_config(config, run.config)
    return run


def private_with(run: RunFolder) -> list[str]:
    """Settings of a private run that reads this network."""
    named = [f"detector.pretrained='{run.root}'", f"detector.pretrained_sha256={weights_sha256(run)}"]
    return ["privacy=eps8", *named]
