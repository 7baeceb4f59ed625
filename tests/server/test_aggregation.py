"""The next shared model is the weighted mean of the detectors and the sum of the codebook statistics."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from server.aggregation import SharedModel, SiteUpdate, aggregate, average_detectors


def summed(state: Mapping[str, Tensor], fresh: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        "codes": state["codes"],
        "counts": state["counts"] + torch.stack([part["counts"] for part in fresh]).sum(0),
    }


def one_weight(value: float, examples: int) -> SiteUpdate:
    return SiteUpdate({"w": torch.tensor([value])}, {"counts": torch.tensor([value])}, examples)


@given(
    st.lists(
        st.tuples(st.floats(-100, 100, width=32), st.integers(1, 10_000_000)),
        min_size=1,
        max_size=8,
    )
)
def test_the_detector_is_the_mean_weighted_by_examples(sites: list[tuple[float, int]]) -> None:
    averaged = average_detectors([one_weight(value, examples) for value, examples in sites], 1)
    values, examples = np.array(sites, dtype=np.float64).T
    assert averaged["w"].dtype == torch.float32
    np.testing.assert_allclose(averaged["w"].numpy(), [np.average(values, weights=examples)], rtol=1e-5, atol=1e-4)


def test_a_site_with_three_times_the_examples_counts_three_times() -> None:
    averaged = average_detectors([one_weight(0.0, 100), one_weight(8.0, 300)], 1)
    assert averaged["w"].item() == 6.0


def test_shapes_dtypes_and_keys_are_kept() -> None:
    detector = {"a.weight": torch.randn(2, 3, 5), "scalar": torch.tensor(2.0), "d": torch.ones(2, dtype=torch.float64)}
    averaged = average_detectors([SiteUpdate(detector, {}, 1), SiteUpdate(detector, {}, 1)], 1)
    assert list(averaged) == list(detector)
    for name, value in detector.items():
        assert averaged[name].shape == value.shape
        assert averaged[name].dtype == value.dtype
        torch.testing.assert_close(averaged[name], value)


def test_codebook_statistics_are_summed_not_averaged() -> None:
    model = SharedModel({"w": torch.zeros(1)}, {"codes": torch.eye(2), "counts": torch.tensor([1.0])})
    merged = aggregate(model, {"a": one_weight(2.0, 1), "b": one_weight(5.0, 1000)}, 1, summed)
    assert merged.codebook["counts"].item() == 8.0


def test_the_order_of_arrival_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    updates = {
        f"site-{i}": SiteUpdate(
            {"w": torch.randn(1000, generator=generator)},
            {"counts": torch.rand(50, generator=generator)},
            i + 1,
        )
        for i in range(7)
    }
    model = SharedModel({"w": torch.zeros(1000)}, {"codes": torch.eye(2), "counts": torch.zeros(50)})
    forward = aggregate(model, updates, 1, summed)
    backward = aggregate(model, dict(reversed(updates.items())), 1, summed)
    assert torch.equal(forward.detector["w"], backward.detector["w"])
    assert torch.equal(forward.codebook["counts"], backward.codebook["counts"])


def test_a_detector_with_integer_entries_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bn\.num_batches_tracked"):
        SharedModel({"bn.num_batches_tracked": torch.tensor(3)}, {})
