"""Models on disk: the shared model that hospitals take home, and the separator and editor that stay on site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lavq_core.config import Config, load_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.models.codebook import CodebookState
from lavq_core.models.detector import Detector, build_detector
from lavq_core.models.editor import Editor
from lavq_core.models.separator import Separator
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder, SiteFolder

StateDict = dict[str, Tensor]


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


def make_models(config: Config, seed: int) -> tuple[Separator, Editor]:
    """Make separator and editor from the seed alone: every site starts from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        separator = Separator(config.separator, config.codebook, config.text.width)
        return separator, Editor(config.separator, config.codebook)


def shared_detector(config: Config, state: StateDict) -> Detector:
    """Build the detector and load shared weights into it, in eval mode on the CPU."""
    model = build_detector(config.detector, config.data.sampling_rate, config.run.seed)
    model.load_state_dict(state)
    return model.eval()


def load_private(config: Config, folder: Path) -> tuple[Separator, Editor]:
    """Load the site's separator and editor; before its first round, those that every site starts from."""
    separator, editor = make_models(config, config.run.seed)
    if (folder / "manifest.json").is_file():
        parts, _ = load_artefact(folder)
        separator.load_state_dict(parts["separator"])
        editor.load_state_dict(parts["editor"])
    return separator.eval(), editor.eval()


def save_private(folder: Path, separator: Separator, editor: Editor, number: int) -> None:
    """Keep the site's separator and editor on its disk, atomically."""
    parts = {"separator": separator.state_dict(), "editor": editor.state_dict()}
    save_artefact(folder, parts, {"round": number, "classes": list(SUPERCLASSES), "leaves_the_site": False})
