"""What crossed in a run, as figures: sums of the event log, and the size of what a hospital sends in a round."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavq_core.report.gallery import gallery_metrics
from lavq_core.runs.layout import RunFolder
from simulations.wire import byte_counts, wire_metrics
from tests.core.run_folders import write_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three rounds of two hospitals; the first one's answer failed in the second round."""
    return write_run(tmp_path / "run", sites=("site-0", "site-1"))


def test_bytes_and_updates_of_every_hospital_are_those_of_the_event_log(run: RunFolder) -> None:
    found = wire_metrics(run)
    assert found["bytes.site.site-1.down"] == 6 * 410_332  # training and evaluation
    assert found["bytes.site.site-1.up"] == 3 * (402_140 + 24)
    assert found["bytes.site.site-0.up"] == 2 * 402_140 + 3 * 24
    assert (found["updates.site.site-0.used"], found["updates.site.site-0.asked"]) == (2, 3)


def test_what_a_hospital_sends_in_a_round_leaves_out_what_only_the_server_sends(run: RunFolder) -> None:
    found = wire_metrics(run)
    assert (found["wire.detector.tensors"], found["wire.detector.values"], found["wire.detector.bytes"]) == (
        1,
        240,
        960,
    )
    sums = 64 + 64 * 32 + 5 * 12 * 65  # the codes themselves go one way
    assert (found["wire.codebook.tensors"], found["wire.codebook.values"]) == (3, sums)


def test_a_run_that_never_got_an_answer_has_no_figures(tmp_path: Path) -> None:
    assert wire_metrics(RunFolder(tmp_path)) == {}
    assert byte_counts([]) == {}
    assert gallery_metrics(RunFolder(tmp_path)) == {}


def test_the_gallerys_probabilities_are_those_that_were_stored(run: RunFolder) -> None:
    found = gallery_metrics(run)
    assert found["gallery.twins"] == 4
    assert found["gallery.site.site-1.01.before"] == pytest.approx(0.05)
    assert found["gallery.site.site-1.01.after"] == pytest.approx(0.71)
