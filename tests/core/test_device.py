"""Where to compute, and in which precision."""

from __future__ import annotations

import pytest
import torch

from lavq_core.errors import ConfigError
from lavq_core.training.device import mixed_precision, pick_device


def precision(wide: bool) -> torch.dtype:
    """Of a product of matrices on the CPU."""
    a = torch.ones(4, 4)
    with mixed_precision(torch.device("cpu"), wide=wide):
        return (a @ a).dtype


@pytest.mark.parametrize(
    ("matrix_units", "wide", "expected"),
    [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)],
)
def test_a_processor_takes_bfloat16_where_it_has_matrix_units_and_the_network_is_wide(
    monkeypatch: pytest.MonkeyPatch, matrix_units: bool, wide: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": matrix_units})
    assert precision(wide) == expected


def test_a_processor_of_another_make_names_no_such_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"})
    assert precision(wide=True) == torch.float32


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU here"):
        pick_device("cuda")
