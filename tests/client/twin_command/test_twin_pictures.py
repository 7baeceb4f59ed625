"""``lavq twin``: what its pictures show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lavq_core.signals.leads import to_independent
from tests.client.twin_command.ecgs import original


def test_a_picture_shows_the_twin_over_its_reference_with_the_edit_shaded(
    ask: Callable[..., str], drawn: list[dict[str, Any]]
) -> None:
    ask("IMI")
    (page,) = drawn
    assert page["synthetic"] is True
    np.testing.assert_array_equal(to_independent(page["reference"]), original())
    same = (page["signal"] == page["reference"]).all(axis=0)
    assert same[page["envelope"] == 0].all()
    assert not same[page["envelope"] > 0.5].all()
    assert page["gate"].shape == (250,)
    assert page["title"].startswith("00059_lr with IMI   \u00b7   detector: MI 0.")


def test_a_title_leaves_room_for_the_mark(ask: Callable[..., str], drawn: list[dict[str, Any]]) -> None:
    """Longer ones would run into the word SYNTHETIC."""
    ask("IMI+LAFB+NDT+LVH")
    ask("IMI+LAFB", "--rate", 0.95, "--age", 71, "--sex", "female")
    assert [page["title"] for page in drawn] == [
        "00059_lr with NDT+IMI+LVH+LAFB",
        "00059_lr with IMI+LAFB, heart rate times 0.95",
    ]
