"""Each strategy is the published rule, whatever the order of arrival, and remembers only what it hands out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg, FedTrimmedAvg, Strategy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean
from torch import Tensor

from lavq_core.models.codebook import STATISTICS
from lavq_core.settings import STRATEGIES, DetectorTrainingConfig, FederationConfig
from server.aggregation import Aggregator
from server.model import SharedModel, SiteUpdate, State
from server.strategies import average, combine

N = 7


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, scale: float = 1.0) -> State:
    generator = rng(seed)
    return {"w": scale * torch.randn(4, 3, generator=generator), "b": scale * torch.randn(5, generator=generator)}


def flat(state: State) -> np.ndarray:
    return torch.cat([value.flatten() for value in state.values()]).double().numpy()


def updates_of(sent: State, seed: int, sites: int = N) -> list[State]:
    return [{name: sent[name] + step for name, step in drawn(seed + i, 0.1).items()} for i in range(1, sites + 1)]


def combined(strategy: str, sent: State, states: list[State], memory: State | None = None, number: int = 1, **more):
    examples = [10 * (i + 1) for i in range(len(states))]
    return combine(FederationConfig(strategy=strategy, **more), sent, states, examples, number, memory or {})


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_the_mean_is_weighted_by_examples(strategy: str) -> None:
    sent = drawn(0)
    states = updates_of(sent, 0)
    merged, memory = combined(strategy, sent, states)
    expected = np.average([flat(state) for state in states], axis=0, weights=np.arange(1, N + 1))
    np.testing.assert_allclose(flat(merged), expected, rtol=1e-5, atol=1e-6)
    assert memory == {}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), malicious=st.integers(1, 3))
def test_the_trimmed_mean_is_scipys(seed: int, malicious: int) -> None:
    sent = drawn(seed)
    states = updates_of(sent, seed, 2 * malicious + 3)
    merged, _ = combined("trimmedmean", sent, states, malicious=malicious)
    share = (malicious + 0.5) / len(states)
    np.testing.assert_allclose(flat(merged), trim_mean([flat(s) for s in states], share), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("malicious", [1, 2])
def test_multikrum_is_the_weighted_mean_of_those_near_their_neighbours(malicious: int) -> None:
    sent = {name: 300.0 + value for name, value in drawn(0).items()}  # weights far larger than updates
    states = updates_of(sent, 0)
    for bad in range(malicious):
        states[bad] = {name: value + 1.0 for name, value in states[bad].items()}
    x = np.stack([flat(state) for state in states])
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    scores = [np.sort(row)[1 : N - malicious - 2 + 1].sum() for row in distance]
    chosen = np.argsort(scores)[: N - malicious]
    assert not set(range(malicious)) & set(chosen.tolist())
    expected = np.average(x[chosen], axis=0, weights=np.arange(1, N + 1)[chosen])
    merged, memory = combined("multikrum", sent, states, malicious=malicious)
    np.testing.assert_allclose(flat(merged), expected, rtol=0, atol=5e-5)
    assert memory == {}
    assert all(merged[name].dtype == torch.float32 for name in sent)


def test_fedadam_is_the_published_rule_over_three_rounds() -> None:
    sent, memory, lr = drawn(0), None, 0.02
    x, m, v = flat(sent), 0.0, 0.0
    for number in (1, 2, 3):
        states = updates_of(sent, 50 * number)
        delta = np.average([flat(s) for s in states], axis=0, weights=np.arange(1, N + 1)) - x
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        x = x + lr * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1)) * m / (np.sqrt(v) + 1e-3)
        sent, memory = combined("fedadam", sent, states, memory, number, server_lr=lr)
        np.testing.assert_allclose(flat(sent), x, rtol=1e-4, atol=1e-5)
    assert memory is not None
    assert memory.keys() == {f"{kind}.{name}" for kind in ("first", "second") for name in sent}


def model_of(moments: bool = False) -> SharedModel:
    codebook = {"codes": torch.eye(2)} | {name: torch.zeros(2) for name in STATISTICS}
    kinds = {f"{kind}.{name}": torch.zeros_like(v) for kind in ("first", "second") for name, v in drawn(0).items()}
    return SharedModel(drawn(0), codebook, {"prior.w": torch.zeros(3)}, kinds if moments else {})


def replies(model: SharedModel, number: int) -> dict[str, SiteUpdate]:
    found = {}
    for i in range(N):
        g = rng(1000 * number + i)

        def stepped(state: State, g: torch.Generator = g) -> State:
            return {name: value + 0.1 * torch.rand(value.shape, generator=g) for name, value in state.items()}

        codebook: dict[str, Tensor] = {name: torch.rand(2, generator=g) for name in STATISTICS}
        parts = stepped(model.detector), codebook, stepped(model.networks)
        found[f"site-{i}"] = SiteUpdate(*parts, 10 + i, stepped(model.moments))
    return found


def aggregator(strategy: str) -> Aggregator:
    def merge(state, fresh):
        return {"codes": state["codes"]} | {name: torch.stack([p[name] for p in fresh]).sum(0) for name in STATISTICS}

    return Aggregator(FederationConfig(strategy=strategy), DetectorTrainingConfig(), merge)


def same(first: SharedModel, second: SharedModel) -> bool:
    return all(
        torch.equal(value, second.parts()[part][name]) for part, s in first.parts().items() for name, value in s.items()
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_arrival_changes_no_bit(strategy: str) -> None:
    model, rule = model_of(strategy != "fedadam"), aggregator(strategy)
    came = replies(model, 1)
    forward, backward = dict(sorted(came.items())), dict(sorted(came.items(), reverse=True))
    first, memory = rule.aggregate(model, forward, 1, {})
    second, again = rule.aggregate(model, backward, 1, {})
    assert same(first, second)
    assert memory.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in memory.items())
    assert first.parts().keys() == model.parts().keys()


def test_fedadam_goes_on_from_its_memory_bit_by_bit() -> None:
    """A run that was broken off has nothing but a checkpoint: the tensors, and another process's strategy."""
    model, memory = model_of(), State()
    states = []
    for number in (1, 2, 3):
        model, memory = aggregator("fedadam").aggregate(model, replies(model, number), number, memory)
        states.append((model, {name: value.clone() for name, value in memory.items()}))
    model, memory = aggregator("fedadam").aggregate(states[1][0], replies(states[1][0], 3), 3, states[1][1])
    assert same(model, states[2][0])
    assert all(torch.equal(value, states[2][1][name]) for name, value in memory.items())
    forgetful, _ = aggregator("fedadam").aggregate(states[1][0], replies(states[1][0], 3), 3, {})
    assert not same(forgetful, states[2][0])
    assert any("networks/prior.w" in name for name in memory)
    assert any("detector/w" in name for name in memory)


def test_moments_are_averaged_with_the_weights_and_picked_with_them() -> None:
    model = model_of(moments=True)
    came = replies(model, 1)
    merged, _ = aggregator("fedavg").aggregate(model, came, 1, {})
    weights = [update.examples for update in came.values()]
    for name, value in merged.moments.items():
        expected = np.average([u.moments[name].numpy() for u in came.values()], axis=0, weights=weights)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6)
    far = came["site-3"]
    came["site-3"] = SiteUpdate(
        {name: value + 9.0 for name, value in far.detector.items()}, far.codebook, far.networks, 10**6,
        {name: value + 9.0 for name, value in far.moments.items()},
    )  # fmt: skip
    merged, _ = aggregator("multikrum").aggregate(model, came, 1, {})
    assert all(float((value - model.moments[name]).abs().max()) < 0.2 for name, value in merged.moments.items())


def test_a_strategy_that_is_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown strategy"):
        combined("fedsgd", drawn(0), [drawn(1)])


def network(seed: int) -> State:
    """Tensors of two dtypes, one of them without dimensions and one without numbers."""
    g = rng(seed)
    shapes = {"a": (4, 3, 5), "b": (), "c": (7,), "d": (0,), "e": (2, 2)}
    return {
        name: torch.randn(shape, generator=g, dtype=torch.float64 if name == "c" else torch.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("rule", [FedAvg, partial(FedTrimmedAvg, beta=0.2)])
def test_joined_weights_are_aggregated_as_each_alone_to_the_last_bit(rule: Callable[[], Strategy]) -> None:
    states, examples = [network(i) for i in range(5)], [3.0, 1.0, 4.0, 1.5, 9.0]
    merged = average(states, examples, 1, rule())
    for name, value in states[0].items():
        if value.numel() > 1:  # NumPy adds up a lone number's trimmed mean in another order
            alone = average([{name: state[name]} for state in states], examples, 1, rule())[name]
            assert torch.equal(merged[name], alone)
        assert (merged[name].dtype, merged[name].shape) == (value.dtype, value.shape)
