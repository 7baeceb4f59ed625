"""``lavq twin``: whose networks make the twin."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from client.commands import twin
from lavq_core.config import compose
from lavq_core.models.networks import make_networks
from lavq_core.models.stored import save_private
from lavq_core.runs.layout import RunFolder
from tests.client.twin_command.ecgs import ROOT, original, stored

SMALL = ["detector.width=8", "detector.blocks=1", "separator.width=16", "separator.blocks=1", "codebook.size=6"]


def test_an_unknown_site_is_refused_with_those_there_are(
    ask: Callable[..., str], tmp_path: Path, finished_run: Callable[..., Path]
) -> None:
    two = finished_run(tmp_path / "run", "federation.share=[]", sites=("rest", "site-0"))
    assert "unknown site 'site-9': choose one of rest, site-0" in ask("IMI", "--site", "site-9", run=two, fails=True)
    assert "networks of site-0" in ask("IMI", "--site", "site-0", run=two)
    assert "networks of rest" in ask("IMI", run=two)
    assert "networks of the federation" in ask("IMI", run=finished_run(tmp_path / "all", sites=("rest", "site-0")))


def test_what_was_shared_comes_from_the_final_model_and_the_rest_from_the_site(
    ask: Callable[..., str], tmp_path: Path, out: Path, finished_run: Callable[..., Path]
) -> None:
    for share in ("[]", "[editor]"):
        folder = finished_run(tmp_path / share, f"federation.share={share}")
        ours = make_networks(compose(SMALL), 0)
        with torch.no_grad():
            ours.editor.paint.weight.zero_()  # a site's own editor that draws its bias only
            ours.editor.paint.bias.zero_()
        save_private(RunFolder(folder).site("site-0").private_model, ours, 1)
        ask("IMI", "--out", out / share, run=folder)
    assert np.array_equal(stored(out / "[]", "00059_lr_IMI_01"), original())
    assert not np.array_equal(stored(out / "[editor]", "00059_lr_IMI_01"), original())


def test_the_examples_in_the_help_name_a_record_that_is_there() -> None:
    words = shlex.split(twin.EXAMPLE.splitlines()[0])
    (record,) = [word for word in words if word.startswith("simulations/")]
    assert (ROOT / record).with_suffix(".hea").is_file()
