"""Every round leaves a checkpoint that can be read, and a folder with a run in it is left alone."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import RecordDict

from lavq_core.errors import RunError
from lavq_core.runs.artefact import load_artefact
from server.model import SharedModel
from simulations.inprocess import InProcessGrid
from tests.server.bad_updates import broken, nan

GridOf = Callable[..., InProcessGrid]


def test_every_round_leaves_a_readable_checkpoint(federation, grid_of: GridOf, model: SharedModel) -> None:
    final = federation.run(grid_of(), rounds=2)
    run = federation.run_folder
    first, about = load_artefact(run.checkpoint(1))
    (done,) = about.pop("history")
    assert about == {"seed": 0, "round": 1, "rounds": 2}
    assert (done["round"], done["sites"]) == (1, ["site-0", "site-1", "site-2"])
    torch.testing.assert_close(first["detector"]["head.bias"], model.detector["head.bias"] + 14 / 6)
    for folder in (run.checkpoint(2), run.model):
        parts, about = load_artefact(folder)
        assert about["round"] == 2
        assert set(parts) == {"detector", "codebook", "networks"}
        for name, state in final.parts().items():
            assert all(torch.equal(parts[name][key], value) for key, value in state.items())


def test_a_checkpoint_survives_a_failure_in_a_later_round(federation, grid_of: GridOf) -> None:
    rounds = iter([False, True])

    def later(content: RecordDict) -> None:
        if next(rounds):
            nan(content)

    with pytest.raises(RunError, match="round 2"):
        federation.run(grid_of({0: broken(later)}), rounds=2, min_sites=3)
    assert load_artefact(federation.run_folder.checkpoint(1))[1]["round"] == 1
    assert not federation.run_folder.checkpoint(2).exists()


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(federation, grid_of: GridOf) -> None:
    federation.run(grid_of())
    before = federation.run_folder.events.read_text()
    with pytest.raises(RunError, match=r"holds a run already: give another run\.dir"):
        federation.run(grid_of())
    assert federation.run_folder.events.read_text() == before
