"""A round's updates beside each other: sizes that do not belong, and weights that outvote everybody."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavq_core.models.codebook import STATISTICS
from lavq_core.settings import DetectorTrainingConfig, FederationConfig
from server.model import SharedModel, SiteUpdate
from server.screening import Screened, cut_weights, screen

WEIGHTS = 400
TRAINING = DetectorTrainingConfig(epochs=1, batch=10)


def model(moments: bool = False) -> SharedModel:
    zero = torch.zeros(WEIGHTS)
    kinds = {"first.w": zero, "second.w": zero} if moments else {}
    return SharedModel({"w": zero + 5.0}, {}, {"prior.w": zero - 2.0}, kinds)


def update(detector: float = 0.1, networks: float = 0.1, examples: int = 100, **moments: float) -> SiteUpdate:
    """An update that moves every weight by so much."""
    codebook = {name: torch.ones(3) for name in STATISTICS}
    kinds = {f"{name}.w": torch.full((WEIGHTS,), value) for name, value in moments.items()}
    start = model()
    weights, shared = {"w": start.detector["w"] + detector}, {"prior.w": start.networks["prior.w"] + networks}
    return SiteUpdate(weights, codebook, shared, examples, kinds)


def screened(*updates: SiteUpdate, training: DetectorTrainingConfig = TRAINING, **settings: float) -> Screened:
    federation = FederationConfig(**{"max_weight_share": 1.0, **settings})  # type: ignore[arg-type]
    sites = {f"site-{i}": one for i, one in enumerate(updates)}
    return screen(model(bool(updates[0].moments)), sites, federation, training)


# --- the size of an update -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["detector", "networks"])
def test_an_update_beyond_the_cap_is_left_out_with_its_reason(part: str) -> None:
    found = screened(update(), update(), update(**{part: 1.01}))
    assert found.left_out == {"site-2": f"the norm of its {part} is more than 10 times the round's median"}
    assert list(found.updates) == ["site-0", "site-1"]
    assert screened(update(), update(), update(**{part: 0.99})).left_out == {}
    assert screened(update(), update(), update(**{part: 1.01}), norm_cap=0).left_out == {}


@pytest.mark.parametrize(("kind", "limit"), [("first", 10.0), ("second", 100.0)])
def test_moments_have_a_cap_of_their_own(kind: str, limit: float) -> None:
    """Second moments are squares: ten times the gradient is a hundred times the moment."""
    good = update(first=0.1, second=0.1)
    for factor, out in ((0.98, False), (1.02, True)):
        bad = update(**({"first": 0.1, "second": 0.1} | {kind: 0.1 * limit * factor}))
        assert (screened(good, good, bad).left_out == {}) is not out


def test_more_steps_go_further_like_a_random_walk() -> None:
    """A site of 100 times the records takes 100 times the steps and comes 10 times as far: nobody is left out."""
    large, small = update(detector=3.0, examples=10_000), update(detector=0.3, examples=100)
    assert screened(small, small, large, norm_cap=1.5).left_out == {}
    assert list(screened(small, small, replace(large, examples=100), norm_cap=1.5).left_out) == ["site-2"]
    same_steps = DetectorTrainingConfig(epochs=1, steps=5)
    assert list(screened(small, small, large, norm_cap=1.5, training=same_steps).left_out) == ["site-2"]


def test_a_lie_about_the_examples_buys_no_room() -> None:
    liar = update(detector=30.0, examples=10_000_000)
    good = [update() for _ in range(6)]
    assert list(screened(*good, liar, liar, max_weight_share=0.2).left_out) == ["site-6", "site-7"]


def test_sites_that_changed_nothing_are_no_measure() -> None:
    """Networks are not trained before their round, and not where a site lacks healthy or abnormal records."""
    still = update(networks=0.0)
    assert screened(still, still, still).left_out == {}
    assert screened(still, still, still, update()).left_out == {}
    assert list(screened(still, still, still, update(), update(), update(networks=5.0)).left_out) == ["site-5"]


def test_of_two_the_smaller_is_the_measure() -> None:
    assert list(screened(update(), update(detector=100.0)).left_out) == ["site-1"]
    assert screened(update(detector=100.0)).left_out == {}


# --- weights ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_no_weight_exceeds_its_share_and_none_is_cut_without_need(examples: list[int], share: float) -> None:
    counted, share = cut_weights(examples, share), max(share, 1 / len(examples))
    total = sum(counted)
    assert all(0 < weight <= count for weight, count in zip(counted, examples, strict=True))
    assert max(counted) <= share * total * (1 + 1e-6)
    cut = [weight for weight, count in zip(counted, examples, strict=True) if weight < count]
    assert all(weight == pytest.approx(share * total, rel=1e-6) for weight in cut)  # as large as they can be
    order = sorted(range(len(examples)), key=lambda site: examples[site])
    assert [counted[i] for i in order] == pytest.approx(sorted(counted))


def test_two_liars_of_eight_get_their_shares_and_no_more() -> None:
    counted = cut_weights([10**7, 10**7, 50, 50, 50, 50, 50, 50], 0.2)
    assert counted[:2] == pytest.approx([100.0, 100.0])
    assert counted[2:] == [50] * 6


def test_what_is_cut_shrinks_the_sums_of_codes_and_is_told() -> None:
    found = screened(update(examples=900), update(examples=60), update(examples=40), max_weight_share=0.5)
    assert found.updates["site-0"].examples == pytest.approx(100.0)
    torch.testing.assert_close(found.updates["site-0"].codebook["counts"], torch.full((3,), 1 / 9))
    assert found.cut == {"site-0": (0.9, 0.5)}
    assert torch.equal(found.updates["site-1"].codebook["counts"], torch.ones(3))
    assert found.left_out == {}


def test_the_sites_of_a_real_database_are_not_cut() -> None:
    assert cut_weights([4257, 2844, 1702, 460], FederationConfig().max_weight_share) == [4257, 2844, 1702, 460]
