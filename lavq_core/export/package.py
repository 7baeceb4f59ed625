"""``lavq export``: a run's model in a folder that others can check, read and use.

===================  ===============================================================================================
``model/``           detector, codebook and shared networks: safetensors and their manifest, as in the run
``detector.onnx``    the detector for other runtimes; of a features detector ``detector_head.onnx``, which takes
                     descriptions of ECGs
``config.yaml``      the configuration, without folders of the machine that trained
``metrics.json``     every figure of the run, without its command line
``pretrained/``      the network on public ECGs whose logits the detector reads, where there is one
``calibration.json`` temperatures and thresholds
``MODEL_CARD.md``    what it is, how well it does, what it is not for
``manifest.json``    what this is, and the sha256 of every other file
===================  ===============================================================================================

The folder is a run folder too: ``lavq detect --run`` and ``lavq twin --run`` take it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from lavq_core.config import save_config
from lavq_core.errors import RunError
from lavq_core.export.model_card import model_card
from lavq_core.export.onnx_detector import require_onnx, write_onnx
from lavq_core.models.calibration import detector_digest
from lavq_core.models.pretrained import keep_pretrained
from lavq_core.models.stored import SharedModel, load_calibration, load_shared_model
from lavq_core.report.numbers import Metrics
from lavq_core.runs.artefact import MANIFEST
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import INDEPENDENT_LEADS

CARD = "MODEL_CARD.md"
_TELLS_A_PLACE = ("run.command",)  # keys of metrics.json that can hold folders of the machine that trained


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    files: tuple[str, ...]
    evaluated: bool  # the run had figures
    onnx_difference: float | None  # of a probability; None without ONNX


def export_run(run: RunFolder, folder: Path, with_onnx: bool = True) -> Exported:
    """Write a run's package, the whole folder or nothing.

    Args:
        run: finished; with ``metrics.json`` its figures go into the card.
        folder: new, or empty.
        with_onnx: needs the extra ``export``.

    Raises:
        LavqError: the run has no final model or a file of it was changed, the folder is not empty or cannot be
            written, ONNX is wanted and not installed, or fails its parity check.
    """
    if with_onnx:
        require_onnx()
    model = load_shared_model(run)
    calibration = load_calibration(run, model, None)
    metrics = Metrics.read(run) if run.metrics.is_file() else None
    folder = folder.expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is there already and not empty: give a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise RunError(f"cannot write to {folder.parent} ({error.strerror}): choose another folder") from None
    try:
        difference = None
        if with_onnx:
            difference = write_onnx(model.detector, model.classes, model.config.data.sampling_rate, fresh)
        shutil.copytree(run.model, fresh / "model")
        keep_pretrained(model.config, RunFolder(fresh))
        _write_config(model, fresh)
        if calibration is not None:
            calibration.save(RunFolder(fresh).calibration)
        if metrics is not None:
            _write_json(RunFolder(fresh).metrics, {k: v for k, v in metrics.values.items() if k not in _TELLS_A_PLACE})
        card = model_card(run.root.name, model, metrics, calibration, difference)
        (fresh / CARD).write_text(card, encoding="utf-8")
        _write_json(fresh / MANIFEST, {"about": _about(run, model, difference), "sha256": _hashes(fresh)})
        fresh.chmod(0o755)  # mkdtemp's 0700 would hide it from others
        fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    files = tuple(sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()))
    return Exported(folder, files, metrics is not None, difference)


def _write_config(model: SharedModel, folder: Path) -> None:
    """Write the configuration without folders."""
    config = model.config  # its ``pretrained`` lies in a folder of this name here too
    pretrained, start = (Path(given).name for given in (config.detector.pretrained, config.detector.start))
    stripped = replace(
        config,
        run=replace(config.run, dir=""),
        data=replace(config.data, dir="", cache_dir=""),
        detector=replace(config.detector, pretrained=pretrained, start=start),
    )
    save_config(stripped, RunFolder(folder).config)


def _about(run: RunFolder, model: SharedModel, difference: float | None) -> dict[str, object]:
    return {
        "run": run.root.name,
        "lavq": version("lavq"),
        "classes": list(model.classes),
        "leads": list(INDEPENDENT_LEADS),
        "sampling_rate": model.config.data.sampling_rate,
        "detector": detector_digest(model.detector.state_dict()),
        "onnx_largest_difference": difference,
        "note": "research use, not a medical device",
    }


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
