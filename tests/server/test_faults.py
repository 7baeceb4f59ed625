"""Eight sites of which two are bad: what is seen, what a robust strategy withstands, and what nobody sees.

The sites train a classifier of 16 features with AdamW, the server is the real round loop. Every fault is sent in every
round by the same two sites.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from lavq_core.metrics.auc import macro_auc
from lavq_core.models.codebook import STATISTICS
from lavq_core.runs.layout import RunFolder
from server.model import SharedModel
from server.packing import PARTS, pack
from simulations.inprocess import InProcessGrid
from tests.packed import opened, states

SITES, BAD, ROUNDS, STEPS, FEATURES = 8, (2, 5), 6, 8, 16
Records = tuple[Tensor, Tensor]
Site = Callable[[Message, Context], RecordDict]


def records(count: int, name: str) -> Records:
    """Features ``(n, 16)`` and labels ``(n, 5)``: one rule for all sites, each with its own prevalences and gain."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    offset, gain = torch.randn(5, generator=generator), 0.8 + 0.4 * torch.rand(1, generator=generator)
    rule = torch.randn(FEATURES, 5, generator=torch.Generator().manual_seed(1))
    x = torch.randn(count, FEATURES, generator=generator)
    y = (x @ rule + offset + 3.0 * torch.randn(count, 5, generator=generator) > 0).float()
    return gain * x, y


@cache
def data_of(site: int) -> Records:
    return records(40 + 10 * site, f"site-{site}")


@cache
def held_out() -> Records:
    parts = [records(100, f"test-{site}") for site in range(SITES)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def classifier(state: dict[str, Tensor]) -> nn.Module:
    model = nn.Linear(FEATURES, 5)
    model.load_state_dict(state)
    return model


def score(state: dict[str, Tensor]) -> float:
    x, y = held_out()
    return float(macro_auc(y.numpy(), classifier(state)(x).detach().numpy()))


def honest(message: Message, context: Context, data: Records | None = None) -> RecordDict:
    """Train a round as a site does."""
    number, sent = int(context.node_config["partition-id"]), states(message.content)
    model, (x, y) = classifier(sent["detector"]), data or data_of(number)
    generator = torch.Generator().manual_seed(100 * int(str(message.content["round"]["number"])) + number)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.03, fused=True)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (16,), generator=generator)
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(model(x[rows]), y[rows]).backward()
        optimiser.step()
    nothing = {name: torch.zeros_like(sent["codebook"][name]) for name in STATISTICS}
    record = pack({"detector": model.state_dict(), "codebook": nothing})
    return RecordDict({PARTS: record, "metrics": MetricRecord({"num-examples": len(x)})})


def scaled(factor: float, message: Message, context: Context) -> RecordDict:
    """An update of ``factor`` times the honest one."""
    reply, sent = honest(message, context), states(message.content)["detector"]
    with opened(reply) as parts:
        parts["detector"].update(
            {name: sent[name] + factor * (came - sent[name]) for name, came in parts["detector"].items()}
        )
    return reply


def changed(change: Callable[[Tensor], Tensor], message: Message, context: Context) -> RecordDict:
    """One array of the honest update, changed."""
    reply = honest(message, context)
    with opened(reply) as parts:
        parts["detector"]["bias"] = change(parts["detector"]["bias"])
    return reply


def labels_flipped(message: Message, context: Context) -> RecordDict:
    x, y = data_of(int(context.node_config["partition-id"]))
    return honest(message, context, (x, 1.0 - y))


def lying(message: Message, context: Context) -> RecordDict:
    reply = honest(message, context)
    reply["metrics"] = MetricRecord({"num-examples": 10_000_000})
    return reply


FAULTS: dict[str, Site] = {
    "NaN": partial(changed, lambda bias: bias * torch.nan),
    "wrong shape": partial(changed, lambda bias: bias[:-1]),
    "wrong type": partial(changed, lambda bias: bias.double()),
    "huge": partial(scaled, 1000.0),
    "lying num-examples": lying,
    "sign-flipped": partial(scaled, -5.0),
    "label-flipped": labels_flipped,
}


@pytest.fixture
def play(federation, grid_of) -> Callable[..., float]:
    """Run a federation in which the bad sites send a fault, or none; its score."""
    torch.manual_seed(0)
    start = nn.Linear(FEATURES, 5).state_dict()
    federation.model = SharedModel(dict(start), federation.model.codebook, {})

    def run(fault: str = "", strategy: str = "fedavg") -> float:
        sites = {number: FAULTS[fault] if fault and number in BAD else honest for number in range(SITES)}
        grid: InProcessGrid = grid_of(sites, sites=SITES)
        settings = {"strategy": strategy, "malicious": len(BAD), "max_weight_share": 0.2}  # below 1 / (2 * 2)
        return score(
            federation.run(grid, sites=SITES, min_sites=6, rounds=ROUNDS, round_timeout=300.0, **settings).detector
        )

    return run


def concerned(federation, event: str, **fields: str) -> set[str]:
    """The sites that some events name."""
    return {
        item["site"]
        for item in federation.events(event)
        if all(re.match(pattern, item[name]) for name, pattern in fields.items())
    }


BAD_SITES = {f"site-{number}" for number in BAD}
CLEAN = {"fedavg": 0.845, "multikrum": 0.842, "trimmedmean": 0.843}


@pytest.mark.parametrize("strategy", CLEAN)
def test_a_clean_run_learns_and_names_nobody(federation, play, strategy: str) -> None:
    assert play("", strategy) == pytest.approx(CLEAN[strategy], abs=0.005)
    assert not concerned(federation, "site-left-out") | concerned(federation, "site-weight-cut")
    assert not concerned(federation, "site-replied", status="rejected")


@pytest.mark.parametrize(
    ("fault", "event", "reason"),
    [
        ("NaN", "site-replied", "rejected: detector/bias has values that are not finite"),
        ("wrong shape", "site-replied", r"rejected: detector/bias is not float32 of shape \(5,\)"),
        ("wrong type", "site-replied", r"rejected: detector/bias is not float32 of shape \(5,\)"),
        ("huge", "site-left-out", "rejected: the norm of its detector is more than 10 times the round's median"),
    ],
)
def test_a_fault_that_is_seen_is_named_left_out_and_costs_little(
    federation, play, fault: str, event: str, reason: str
) -> None:
    assert play(fault) > CLEAN["fedavg"] - 0.02
    assert concerned(federation, event, status=reason) == BAD_SITES
    assert {item["sites"] for item in federation.events("round-finished")} == {SITES - len(BAD)}


def test_a_number_of_examples_that_is_a_lie_is_cut_to_the_largest_share(federation, play) -> None:
    assert play("lying num-examples") > CLEAN["fedavg"] - 0.02
    cut = federation.events("site-weight-cut")
    assert {item["site"] for item in cut} == BAD_SITES
    assert {item["counted"] for item in cut} == {0.2}
    assert all(item["declared"] > 0.49 for item in cut)


@pytest.mark.parametrize(("fault", "cost"), [("sign-flipped", 0.3), ("label-flipped", 0.02)])
def test_an_update_of_ordinary_size_in_a_wrong_direction_is_seen_by_nobody(
    federation, play, fault: str, cost: float
) -> None:
    """Federated averaging pays the price, and the event log says nothing: this is what robust strategies are for."""
    assert play(fault) < CLEAN["fedavg"] - cost
    assert not concerned(federation, "site-left-out")
    assert not concerned(federation, "site-replied", status="rejected")


@pytest.mark.parametrize("fault", ["sign-flipped", "label-flipped"])
def test_multikrum_withstands_what_nobody_sees(play, fault: str) -> None:
    assert play(fault, "multikrum") > CLEAN["multikrum"] - 0.02


def test_the_trimmed_mean_withstands_exchanged_labels_but_not_every_turned_sign(play, federation, tmp_path) -> None:
    """It cuts each weight by itself: updates of five times the size drag what remains, a little in every weight."""
    assert play("label-flipped", "trimmedmean") > CLEAN["trimmedmean"] - 0.02
    federation.run_folder = RunFolder(tmp_path / "again")
    assert CLEAN["fedavg"] - 0.3 < play("sign-flipped", "trimmedmean") < CLEAN["trimmedmean"] - 0.02
