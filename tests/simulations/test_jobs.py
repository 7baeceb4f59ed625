"""Trainings of experiments: each is done once, and one that was broken off is begun anew."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from simulations.experiments.jobs import federate


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, set[int], bool]]:
    """What was asked of the federation: sites, who is absent, and whether something lay in its folder."""
    asked: list[tuple[int, set[int], bool]] = []

    def run(overrides: list[str], clients: int, absent: Collection[int] = ()) -> None:
        folder = Path(next(item for item in overrides if item.startswith("run.dir=")).partition("=")[2])
        asked.append((clients, set(absent), folder.exists()))
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "manifest.json").write_text("{}")

    monkeypatch.setattr("simulations.inprocess.run_in_process", run)
    return asked


def test_a_finished_training_is_not_repeated(tmp_path: Path, begun: list[tuple[int, set[int], bool]]) -> None:
    overrides = ["federation.sites=3", "federation.min_sites=2", f"run.dir={tmp_path / 'run'}"]
    for _ in range(2):
        assert federate(overrides).root == tmp_path / "run"
    assert begun == [(3, set(), False)]


def test_what_a_broken_off_training_has_left_is_removed(
    tmp_path: Path, begun: list[tuple[int, set[int], bool]]
) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "model").mkdir()  # a model is there when its manifest is
    federate([f"run.dir={tmp_path / 'run'}"], 4, absent={1})
    assert begun == [(4, {1}, False)]
