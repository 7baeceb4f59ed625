"""The leaving guard: nothing leaves that no mechanism released, whatever way it took into the reply."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lavq_core.privacy.guard import LeavingRefused, check_leaving, digest, digests

RELEASED = {"detector": {"head.weight": torch.randn(5, 4, generator=torch.Generator().manual_seed(0))}}
SENT = {"networks": {"editor.null": torch.ones(3)}, "constants": {"counts": torch.zeros(6)}}


def leave(**more: Tensor) -> None:
    check_leaving({**RELEASED, "codebook": more}, digests(RELEASED), SENT)


def test_what_was_released_or_is_public_leaves() -> None:
    leave(counts=torch.zeros(6), null=torch.ones(3), again=RELEASED["detector"]["head.weight"].clone())


@pytest.mark.parametrize(
    "planted",
    [
        torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 0.0]),  # a code's count
        torch.zeros(7),  # another shape of a constant tells a number of things
        torch.zeros(6, dtype=torch.float64),
        RELEASED["detector"]["head.weight"] + 1e-7,  # after it was entered
        torch.tensor(12.0),  # a running mean of BatchNorm, a loss
    ],
)
def test_anything_else_is_refused_by_name(planted: Tensor) -> None:
    with pytest.raises(LeavingRefused, match="codebook/planted"):
        leave(planted=planted)


def test_a_digest_knows_values_shape_and_type() -> None:
    base = torch.arange(6.0)
    others = [base.reshape(2, 3), base.double(), base.flip(0), base[:5]]
    assert len({digest(base), *map(digest, others)}) == 5
    assert digest(base.reshape(2, 3).T.contiguous().T) == digest(base.reshape(2, 3))  # layout is not content
