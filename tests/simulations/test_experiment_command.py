"""``lavq experiment``: every experiment has a function that takes its options, and a layout in the README."""

from __future__ import annotations

import argparse
import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest

from lavq_core.cli.main import main
from simulations.commands import experiment
from simulations.experiments import results_file
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row
from simulations.launch import SAMPLE

COMMON = ["overrides", "seeds", "work", "workers"]


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    experiment.configure(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", list(experiment._NAMES))
def test_an_experiment_is_a_function_of_its_options(name: str) -> None:
    run = getattr(import_module(f"simulations.experiments.{name}"), f"run_{name}")
    parameters = list(inspect.signature(run).parameters.values())
    assert [parameter.name for parameter in parameters[:4]] == COMMON
    needed = [parameter for parameter in parameters[4:] if parameter.default is parameter.empty]
    own = experiment._own(parsed(name))
    assert len(needed) <= len(own) <= len(parameters) - 4
    assert name in LAYOUTS


def test_the_results_file_holds_a_command_that_says_everything(
    tmp_path: Path, packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(*given: object) -> list[Row]:
        asked.append(given)
        return [Row("standard", "macro_auc.site_macro", 0.9, 0.8, 1.0, 5, 1)]

    monkeypatch.setattr("simulations.experiments.shift.run_shift", run)
    monkeypatch.setattr(results_file.write_results, "__defaults__", (tmp_path,))
    cache = f"data.cache_dir='{packs}'"
    words = ["experiment", "shift", "--data", str(SAMPLE), "--seeds", "1", "--work", str(tmp_path)]
    assert main([*words, "preset=ptbxl", cache]) == 0
    overrides, seeds, work, workers, arms = asked[0]
    assert (seeds, work, workers, arms) == (1, tmp_path, 2, ["none", "standard", "tada", "twins", "twins-tada"])
    assert not [word for word in overrides if word.startswith("run.dir=")]
    content = json.loads((tmp_path / "shift.json").read_text(encoding="utf-8"))
    assert content["command"] == (
        "lavq experiment shift --data DIR --seeds 1 preset=ptbxl --arms none standard tada twins twins-tada"
    )
    assert content["data"]["records"] == 520
    _, name, which, *rest = content["command"].replace("DIR", str(SAMPLE)).split()
    assert main([name, which, cache, *rest]) == 0
    assert asked[1][1] == seeds
    assert asked[1][4] == arms


def test_arms_of_another_experiment_are_refused(
    tmp_path: Path, packs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment", "shift", "--data", str(SAMPLE), "--work", str(tmp_path), f"data.cache_dir='{packs}'"]
    assert main([*words, "--arms", "local"]) == 2
    assert "no arm 'local'" in capsys.readouterr().err
