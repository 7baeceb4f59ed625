"""A hospital in a private run with a network on public ECGs: its own copy, and nothing of it in a reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavq_core.api import load_run
from lavq_core.config import compose
from lavq_core.models.detector import build_detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.signals.description import SIZE
from tests.conftest import SAMPLE
from tests.networks_on_disk import network_run, private_with
from tests.packed import states

Make = Callable[..., Any]
QUICK = (
    "separator_training.steps=0", "detector_training.steps=2", "detector_training.epochs=2", "federation.rounds=2",
)  # fmt: skip


def test_a_deployed_hospital_reads_its_own_copy_and_sends_nothing_of_it(deployed: Make, tmp_path: Path) -> None:
    """The folder that the server names is not looked at; the same weights have to be in the site's own."""
    servers = network_run(tmp_path / "server")
    settings = [*private_with(servers), *QUICK, "federation.share=[]"]
    own = tmp_path / "own"
    site = deployed({"site": "st-mary", "data-dir": str(SAMPLE), "site-dir": str(own)}, *settings)
    detector = build_detector(compose(settings).detector, 100, 0)
    assert isinstance(detector, FeatureDetector)
    site.shared = replace(site.shared, detector=detector.state_dict(), networks={})
    assert site.train().error.reason == "RunError"  # it has none

    network_run(own / "pretrained", "run.seed=1")
    assert site.train().error.reason == "RunError"  # it has another one
    assert not SiteFolder(own).ledger.exists()

    network_run(own / "pretrained")
    content = site.train().content
    detector_sent = states(content)["detector"]
    assert set(detector_sent) == {"centre", "head.weight"}
    centre = detector_sent["centre"]
    assert len(centre) == SIZE + 5
    assert centre[SIZE:].any()

    assert site.evaluate(number=2).has_content()  # the last: the model is accepted
    accepted = RunFolder(own / "accepted")
    for copy in ((own / "pretrained"), servers.root):
        copy.rename(copy.with_name(f"{copy.name}-gone"))
    run = load_run(accepted.root)
    ecg = run.read(SAMPLE / "records100" / "00000" / "00059_lr")
    assert set(run.detect(ecg)) == {"NORM", "MI", "STTC", "CD", "HYP"}
