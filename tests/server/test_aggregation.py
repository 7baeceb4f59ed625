"""The next shared model is the weighted mean of detectors and networks, and the sum of the codebook statistics."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.settings import DetectorTrainingConfig, FederationConfig
from server.aggregation import Aggregator, MergeStatistics
from server.model import SharedModel, SiteUpdate, State
from server.strategies import average as average_by
from tests.packed import held, states


def summed(state: Mapping[str, Tensor], fresh: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        "codes": state["codes"],
        "counts": state["counts"] + torch.stack([part["counts"] for part in fresh]).sum(0),
    }


def average(states: Sequence[State], examples: Sequence[int]) -> State:
    return average_by(states, examples, 1, FedAvg())


def aggregate(model: SharedModel, updates: Mapping[str, SiteUpdate], merge: MergeStatistics = summed) -> SharedModel:
    merged, memory = Aggregator(FederationConfig(), DetectorTrainingConfig(), merge).aggregate(model, updates, 1, {})
    assert memory == {}  # FedAvg remembers nothing
    return merged


def one_weight(value: float, examples: int, shares_networks: bool = True) -> SiteUpdate:
    weight = torch.tensor([value])
    return SiteUpdate({"w": weight}, {"counts": weight}, {"prior.w": weight} if shares_networks else {}, examples)


def one_weight_model(shares_networks: bool = True) -> SharedModel:
    networks = {"prior.w": torch.zeros(1)} if shares_networks else {}
    return SharedModel({"w": torch.zeros(1)}, {"codes": torch.eye(2), "counts": torch.tensor([1.0])}, networks)


@settings(deadline=None)  # Flower's strategy logs, which takes its time on busy cores
@given(
    st.lists(
        st.tuples(st.floats(-100, 100, width=32), st.integers(1, 10_000_000)),
        min_size=1,
        max_size=8,
    )
)
def test_weights_are_the_mean_weighted_by_examples(sites: list[tuple[float, int]]) -> None:
    states = [{"w": torch.tensor([value])} for value, _ in sites]
    averaged = average(states, [examples for _, examples in sites])
    values, weights = np.array(sites, dtype=np.float64).T
    assert averaged["w"].dtype == torch.float32
    np.testing.assert_allclose(averaged["w"].numpy(), [np.average(values, weights=weights)], rtol=1e-5, atol=1e-4)


def test_a_site_with_three_times_the_examples_counts_three_times() -> None:
    averaged = average([{"w": torch.tensor([0.0])}, {"w": torch.tensor([8.0])}], [100, 300])
    assert averaged["w"].item() == 6.0


def test_the_networks_are_averaged_exactly_as_the_detector() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [{name: torch.randn(30, 7, generator=generator) for name in ("a", "b")} for _ in range(3)]
    updates = {f"site-{i}": SiteUpdate(state, {}, state, 7 * i + 3) for i, state in enumerate(drawn)}
    start = {name: torch.zeros(30, 7) for name in ("a", "b")}
    merged = aggregate(SharedModel(start, {}, start), updates, lambda state, _: dict(state))
    assert list(merged.networks) == ["a", "b"]
    for name, value in merged.networks.items():
        assert torch.equal(value, merged.detector[name])
        expected = sum(n * state[name] for n, state in zip((3, 10, 17), drawn, strict=True)) / 30
        torch.testing.assert_close(value, expected)


def test_where_no_network_is_shared_none_appears() -> None:
    merged = aggregate(one_weight_model(False), {"a": one_weight(2.0, 1, False), "b": one_weight(4.0, 1, False)})
    assert merged.networks == {}
    assert set(merged.parts()) == held(merged.records()) == {"detector", "codebook"}
    assert merged.detector["w"].item() == 3.0


def test_all_parts_of_a_model_travel() -> None:
    model = one_weight_model()
    assert held(model.records()) == set(model.parts()) == {"detector", "codebook", "networks"}
    assert torch.equal(states(model.records())["networks"]["prior.w"], model.networks["prior.w"])


def test_shapes_dtypes_and_keys_are_kept() -> None:
    detector = {"a.weight": torch.randn(2, 3, 5), "scalar": torch.tensor(2.0), "d": torch.ones(2, dtype=torch.float64)}
    averaged = average([detector, detector], [1, 1])
    assert list(averaged) == list(detector)
    for name, value in detector.items():
        assert averaged[name].shape == value.shape
        assert averaged[name].dtype == value.dtype
        torch.testing.assert_close(averaged[name], value)


def test_codebook_statistics_are_summed_not_averaged() -> None:
    merged = aggregate(one_weight_model(), {"a": one_weight(2.0, 1), "b": one_weight(5.0, 1000)})
    assert merged.codebook["counts"].item() == 8.0


def test_the_order_of_arrival_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    updates = {
        f"site-{i}": SiteUpdate(
            {"w": torch.randn(1000, generator=generator)},
            {"counts": torch.rand(50, generator=generator)},
            {"prior.w": torch.randn(1000, generator=generator)},
            i + 1,
        )
        for i in range(7)
    }
    start = {"w": torch.zeros(1000)}
    model = SharedModel(start, {"codes": torch.eye(2), "counts": torch.zeros(50)}, {"prior.w": start["w"]})
    forward = aggregate(model, updates)
    backward = aggregate(model, dict(reversed(updates.items())))
    assert torch.equal(forward.detector["w"], backward.detector["w"])
    assert torch.equal(forward.networks["prior.w"], backward.networks["prior.w"])
    assert torch.equal(forward.codebook["counts"], backward.codebook["counts"])


@pytest.mark.parametrize("part", ["detector", "networks"])
def test_a_network_with_integer_entries_is_refused(part: str) -> None:
    counter = {"bn.num_batches_tracked": torch.tensor(3)}
    with pytest.raises(ValueError, match=r"bn\.num_batches_tracked"):
        SharedModel(**{"detector": {}, "codebook": {}, "networks": {}, part: counter})
