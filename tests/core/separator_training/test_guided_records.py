"""Which records are abnormal, which NORM alone, and what a class weighs."""

from __future__ import annotations

from dataclasses import replace

import torch

from lavq_core.training.guided import NORM, GuidedBeats, class_weights


def test_abnormal_and_norm_only_are_what_they_say(records: GuidedBeats) -> None:
    for row, labels in enumerate(records.y):
        others = labels.clone()
        others[NORM] = 0
        assert (row in records.abnormal()) == bool(others.any())
        assert (row in records.norm_only()) == (bool(labels[NORM]) and not others.any())


def test_a_record_without_any_label_is_neither(records: GuidedBeats) -> None:
    y = torch.zeros(len(records), 5)
    y[1, NORM], y[2, NORM], y[2, 1] = 1, 1, 1
    data = replace(records, y=y)
    assert data.abnormal().tolist() == [2]
    assert data.norm_only().tolist() == [1]


def test_class_weights_are_of_abnormal_labels_only() -> None:
    y = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
    before = y.clone()
    found = class_weights(y)
    assert torch.equal(y, before)
    assert not found[:, NORM].any()
    assert torch.equal(found > 0, (y > 0) & (torch.arange(5) != NORM))
    assert found[1].tolist() == [0, 1, 0, 0, 0]
    assert found[2, 1] == found[2, 3] <= 0.5  # a record with several diseases says less about each
    assert bool((found.sum(1) <= 1.0).all())
