"""Arms of the federation experiment: which trainings are asked for, and with which settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavq_core.config import compose
from lavq_core.errors import ConfigError
from simulations import sample
from simulations.experiments.federation import METHODS, arms_of, complete_overrides
from simulations.experiments.jobs import Job


def test_a_method_is_tried_in_every_partition_and_a_centralised_one_knows_none() -> None:
    arms = arms_of(["centralised", "fedavg"], ["site", "iid"], [])
    assert arms == ["centralised/site", "fedavg/site", "fedavg/iid"]


def test_an_arm_can_be_asked_for_in_one_partition_alone() -> None:
    arms = arms_of(["fedprox", "fedavg/dirichlet-0.1"], ["site", "iid"], [])
    assert arms == ["fedprox/site", "fedprox/iid", "fedavg/dirichlet-0.1"]


def test_a_hospital_left_out_is_an_arm_of_its_own() -> None:
    arms = arms_of(["leave-out"], ["site"], [f"data.dir='{sample.FOLDER}'"])
    assert arms == [f"leave-out/{name}" for name in ("site-0", "site-1", "site-2", "rest")]


@pytest.mark.parametrize(
    ("methods", "partitions"),
    [(["fedavrg"], ["site"]), (["fedavg"], ["sites"]), (["fedavg/"], ["sites"]), (["fedavg/sites"], ["site"])],
)
def test_what_does_not_exist_is_named_with_what_does(methods: list[str], partitions: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"no arm or partition '(fedavrg|sites)': choose of"):
        arms_of(methods, partitions, [])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_configuration_that_the_program_takes(method: str, tmp_path: Path) -> None:
    where = "rest" if method == "leave-out" else "site"
    config = compose(complete_overrides(Job(f"{method}/{where}", 2, ("federation.rounds=4",), tmp_path / "run")))
    assert config.run.seed == 2
    assert (config.separator_training.steps > 0) == (method == "fedavg")


def test_the_recipe_of_averaged_moments_takes_shorter_rounds_and_as_many_passes(tmp_path: Path) -> None:
    plain, recipe = (
        compose(complete_overrides(Job(f"{name}/site", 0, ("detector_training.epochs=2",), tmp_path)))
        for name in ("fedavg-no-twins", "fedavg-moments")
    )
    passes = [c.federation.rounds * c.detector_training.epochs for c in (plain, recipe)]
    assert passes[0] == passes[1]
    assert recipe.federation.rounds == 4 * plain.federation.rounds
    assert recipe.federation.average_moments
    assert recipe.detector_training.steps > 0
