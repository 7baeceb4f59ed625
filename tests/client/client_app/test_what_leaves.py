"""What a hospital answers, to the last key and byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from flwr.app import MetricRecord

from lavq_core.data.database import Database
from lavq_core.models.codebook import STATISTICS
from lavq_core.runs.layout import SiteFolder
from lavq_core.settings import SHAREABLE
from server.flower_adapter import payload_bytes
from server.validation import ReplyChecker, read_evaluation, read_site_name
from tests.client.client_app.replies import Make, in_folds, newest_networks, share_of
from tests.packed import held, opened, states


def test_hello_is_answered_by_the_pseudonym_and_nothing_else(hospital: Make) -> None:
    for number in (0, 23):
        content = hospital(number).hello().content
        assert read_site_name(content) == f"client-{number}"
        assert {name: dict(record) for name, record in content.items()} == {"site": {"name": f"client-{number}"}}


def test_a_training_reply_is_the_weights_the_statistics_and_a_number(hospital: Make, database: Database) -> None:
    """Not one tensor more, and each as the server sent it."""
    site = hospital()
    content = site.train().content
    sent = site.shared.parts() | {"codebook": {name: site.shared.codebook[name] for name in STATISTICS}}
    assert held(content) == {"detector", "codebook", "networks", "metrics"}
    left = states(content)
    for part, state in sent.items():
        assert left[part].keys() == state.keys()
        for name, value in left[part].items():
            assert (value.shape, value.dtype) == (state[name].shape, torch.float32)
            assert value.isfinite().all()
    metrics = content["metrics"]
    assert isinstance(metrics, MetricRecord)
    share = share_of(database)
    assert dict(metrics) == {"num-examples": len(in_folds(database, share, *range(1, 9)))}
    ReplyChecker(site.shared).update(content)  # the server takes it


def test_moments_leave_where_they_are_averaged_two_numbers_a_weight_and_nowhere_else(hospital: Make) -> None:
    site = hospital(0, "federation.average_moments=true", "detector_training.steps=2")
    content = site.train().content
    names = [f"{kind}.{name}" for kind in ("first", "second") for name in site.shared.detector]
    assert held(content) == {"detector", "codebook", "networks", "moments", "metrics"}
    sizes = {name: value.shape for name, value in states(content)["moments"].items()}
    assert sizes == {name: site.shared.detector[name.split(".", 1)[1]].shape for name in names}
    read = ReplyChecker(site.shared).update(content)  # the server takes it
    assert any(value.any() for value in read.moments.values())
    without = site.content(1, 2)
    with opened(without) as parts:
        del parts["moments"]
    assert site.ask("train", without).error.reason == "KeyError"
    assert not site.ask("evaluate", without).has_error()


@pytest.mark.parametrize("share", [[], ["prior"], ["editor", "separator"]], ids=["none", "prior", "two"])
def test_only_the_networks_that_are_shared_leave(hospital: Make, folder: SiteFolder, share: list[str]) -> None:
    site = hospital(0, f"federation.share=[{','.join(share)}]")
    assert ("networks" in held(site.shared.records())) == bool(share)
    content = site.train().content
    left = states(content).get("networks", {})
    assert {name.split(".")[0] for name in left} == set(share)
    kept = newest_networks(folder)
    assert {name.split(".")[0] for name in kept} == set(SHAREABLE)
    assert all(torch.equal(value, kept[name]) for name, value in left.items())
    ReplyChecker(site.shared).update(content)


def test_what_is_shared_replaces_the_sites_own_and_the_rest_is_kept(hospital: Make, folder: SiteFolder) -> None:
    """While the separator is not trained yet, what goes in is what stays."""
    site = hospital(0, "federation.share=[prior]", "separator_training.after=.9", "twins.after=.9")
    site.train(1, 3)
    before = newest_networks(folder)
    for value in site.shared.networks.values():
        value += 1.0
    site.train(2, 3)
    after = newest_networks(folder)
    for name, value in after.items():
        assert torch.equal(value, site.shared.networks[name] if name.startswith("prior.") else before[name])


def test_a_federation_without_a_separator_leaves_no_networks_at_a_site(hospital: Make, folder: SiteFolder) -> None:
    site = hospital(0, "federation.share=[]", "separator_training.steps=0")
    assert site.train(1).has_content()
    assert site.train(2).has_content()
    assert not folder.private_model.exists()


def test_a_training_reply_has_the_bytes_of_its_tensors(hospital: Make) -> None:
    """Headers aside: no room in which something else could travel."""
    site = hospital()
    content = site.train().content
    weights = [*site.shared.detector.values(), *site.shared.networks.values()]
    tensors = [*weights, *(site.shared.codebook[name] for name in STATISTICS)]
    payload = sum(4 * value.numel() for value in tensors)
    assert payload < payload_bytes(content) < payload + 150 * (len(tensors) + 1)


def test_every_reply_has_the_same_size_whatever_was_measured(hospital: Make) -> None:
    sizes = {payload_bytes(hospital(number).train().content) for number in (0, 1)}
    assert len(sizes) == 1


def test_an_evaluation_reply_is_a_number(hospital: Make, database: Database) -> None:
    validation = len(in_folds(database, share_of(database), 9))
    for number in (1, 2):  # the last one too, in which predictions and twins are written
        content = hospital().evaluate(number).content
        assert {name: dict(record) for name, record in content.items()} == {"metrics": {"num-examples": validation}}
        assert read_evaluation(content) == validation


def test_flowers_own_state_stays_empty(hospital: Make) -> None:
    """It is memory only, and a SuperNode's."""
    site = hospital()
    site.train()
    site.evaluate()
    assert dict(site.context.state) == {}


def test_the_same_message_gives_the_same_bits(hospital: Make, tmp_path: Path) -> None:
    first = hospital().train().content
    shutil.rmtree(tmp_path / "run")
    torch.manual_seed(12345)
    again = hospital().train().content
    assert first == again


def test_hospitals_answer_differently(hospital: Make) -> None:
    first, second = (hospital(number).train().content for number in (0, 1))
    for part in ("detector", "codebook"):
        pairs = zip(states(first)[part].values(), states(second)[part].values(), strict=True)
        assert not all(torch.equal(one, other) for one, other in pairs)
