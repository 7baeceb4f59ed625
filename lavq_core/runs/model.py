"""The shared model of a finished run: what hospitals take home."""

from __future__ import annotations

from dataclasses import dataclass

from lavq_core.config import Config, load_config
from lavq_core.errors import RunError
from lavq_core.models.codebook import CodebookState
from lavq_core.models.detector import Detector
from lavq_core.models.editor import Editor
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.training.site_round import load_private, shared_detector


@dataclass(frozen=True)
class SharedModel:
    """Detector and codebook of a run, with its configuration."""

    detector: Detector  # eval mode, CPU
    codebook: CodebookState
    config: Config
    classes: tuple[str, ...]  # order of the detector's outputs


def load_shared_model(run: RunFolder) -> SharedModel:
    """Load the final model of a run.

    Raises:
        RunError: the run has no final model (it was broken off), or a file was changed.
    """
    config = load_config(run.config)
    parts, about = load_artefact(run.model)
    detector = shared_detector(config, parts["detector"])
    return SharedModel(detector, parts["codebook"], config, tuple(about["classes"]))


def load_editor(run: RunFolder, site: str) -> tuple[Editor, SiteFolder]:
    """Load the editor that one hospital of the run keeps for itself.

    Args:
        run: the run folder.
        site: the hospital's name; empty: the only one, or the first by name of several.

    Raises:
        RunError: no such hospital here, or it has trained no editor.
    """
    here = [folder for folder in run.sites() if (folder.private_model / "manifest.json").is_file()]
    if not here:
        raise RunError(f"no hospital in {run.root} has trained an editor: twins are made where one was trained")
    by_name = {folder.root.name: folder for folder in here}
    if site and site not in by_name:
        raise RunError(f"unknown site {site!r}: choose one of {', '.join(by_name)}")
    folder = by_name[site] if site else here[0]
    _, editor = load_private(load_config(run.config), folder.private_model)
    return editor, folder
