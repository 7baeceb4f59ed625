"""``lavq personalize``: a patient's detector, what it says of itself, and who may use it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pytest
import torch

from client.commands import detect, personalize
from lavq_core.config import compose, save_config
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.errors import LavqError
from lavq_core.formats.reading import read_usable
from lavq_core.models.networks import make_networks
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.twins.made import code_of
from server.app import initial_model

RECORD = Path(__file__).resolve().parents[2] / "simulations" / "sample" / "records100" / "00000" / "00059_lr"
SMALL = ["detector.width=8", "detector.blocks=2", "separator.width=16", "separator.blocks=1", "codebook.size=6"]
SEEN = {"MI": "IMI", "CD": "CLBBB"}  # no STTC and no HYP


def made_run(folder: Path, seed: int = 0, seen: dict[str, str] = SEEN) -> Path:
    """A run of untrained networks that has seen some diseases."""
    config = compose([*SMALL, f"run.seed={seed}", "personal.steps=3", "personal.twins=2"])
    model = initial_model(config)
    for disease, code in seen.items():
        model.codebook["requests"][SUPERCLASSES.index(disease), diagnostic_statements().index(code)] = 1.0
    model.networks.update(make_networks(config, 0).shared(config.federation.share))
    run = RunFolder(folder)
    save_config(config, run.config)
    save_artefact(run.model, model.parts(), {"classes": list(SUPERCLASSES)})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("run"))


def called(module: object, *arguments: object) -> None:
    parser = argparse.ArgumentParser()
    module.configure(parser)  # type: ignore[attr-defined]
    assert module.execute(parser.parse_args([str(a) for a in arguments])) == 0  # type: ignore[attr-defined]


def test_it_writes_a_detector_with_its_origin_which_detect_takes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "patient"
    called(personalize, RECORD, "--run", run, "--age", 60, "--sex", "female", "--out", out)
    said = capsys.readouterr()
    assert all(name in said.out for name in (*SUPERCLASSES, "population", "personal"))
    assert "no better than controls" in said.err
    parts, about = load_artefact(out)
    assert (about["ecg"], about["run"]) == (code_of(read_usable(RECORD, 100)), run.name)
    assert about["twins"] == {"MI": 2, "CD": 2}
    assert not torch.equal(parts["detector"]["head.bias"], initial_model(compose(SMALL)).detector["head.bias"])

    for name, more in (("population.csv", []), ("own.csv", ["--model", out])):
        called(detect, RECORD, "--run", run, "--out", tmp_path / name, *more)
    population, own = (pd.read_csv(tmp_path / name) for name in ("population.csv", "own.csv"))
    assert list(own.columns) == ["record", *SUPERCLASSES]
    assert not (own[list(SUPERCLASSES)] == population[list(SUPERCLASSES)]).all(axis=None)

    with pytest.raises(LavqError, match="not made from this run's detector"):
        called(detect, RECORD, "--run", made_run(tmp_path / "other", 1), "--model", out, "--out", tmp_path / "p.csv")


def test_a_run_that_has_seen_no_disease_makes_nobody_a_detector(tmp_path: Path) -> None:
    with pytest.raises(LavqError, match="has seen no disease"):
        called(personalize, RECORD, "--run", made_run(tmp_path / "run", seen={}), "--out", tmp_path / "patient")
    assert not (tmp_path / "patient").exists()
