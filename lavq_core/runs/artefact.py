"""Weights at rest: safetensors files beside one JSON manifest that holds their hashes. No pickle."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lavq_core.errors import RunError

MANIFEST = "manifest.json"


def save_artefact(folder: Path, parts: Mapping[str, Mapping[str, torch.Tensor]], about: Mapping[str, Any]) -> None:
    """Write ``{part: state dict}`` as ``part.safetensors`` files and a manifest, all or nothing.

    Args:
        folder: replaced as a whole if it exists.
        parts: state dicts by name, for example ``{"detector": ..., "codebook": ...}``.
        about: JSON-serialisable facts kept in the manifest (class order, sampling rate, round, ...).
    """
    for kind in ("new", "old"):  # of a write that was killed
        for rubbish in folder.parent.glob(f".{glob.escape(folder.name)}.{kind}-*"):
            shutil.rmtree(rubbish, ignore_errors=True)
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    fresh.mkdir(parents=True)
    try:
        hashes = {}
        for name, state in parts.items():
            file = fresh / f"{name}.safetensors"
            save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, file)
            hashes[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        manifest = {"about": dict(about), "sha256": hashes}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load_artefact(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read what ``save_artefact`` wrote: ``(parts, about)``.

    Raises:
        RunError: no manifest or a damaged one, a file is missing, or a file's hash is not the manifest's.
    """
    manifest_file = folder / MANIFEST
    if not manifest_file.is_file():
        raise RunError(f"no model in {folder}: the run has not got that far, or the folder is not one of a run")
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        hashes, about = manifest["sha256"], manifest["about"]
        files = dict(hashes)
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{manifest_file} is damaged: take the model from a backup") from None
    parts = {}
    for name, expected in files.items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise RunError(f"{file} is missing or was changed since it was written: take the model from a backup")
        parts[file.stem] = load_file(file)
    return parts, about
