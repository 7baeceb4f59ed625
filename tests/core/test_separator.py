"""The separator asks the report: padding says nothing, another report says something else, no report is an answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lavq_core.config import CodebookConfig, SeparatorConfig
from lavq_core.models.blocks import ReportAttention, group_norm
from lavq_core.models.separator import Separation, Separator

WIDTH, D, MEMORY = 16, 6, 10


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def separator() -> Separator:
    torch.manual_seed(0)
    made = Separator(SeparatorConfig(width=WIDTH, blocks=2, heads=2), CodebookConfig(size=4, dim=D), MEMORY).eval()
    with torch.no_grad():
        made.gate.weight.mul_(20.0)  # an untrained gate would be .5 everywhere
        made.attention.null.normal_(generator=rng(9))
    return made


def ecgs(count: int = 3, samples: int = 240, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(count, 8, samples, generator=rng(seed))


def reports(lengths: list[int], seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random unit tokens, padded by zeros to the longest report."""
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    tokens = torch.nn.functional.normalize(torch.randn(len(lengths), longest, MEMORY, generator=rng(seed)), dim=-1)
    return tokens * mask[..., None], mask


def assert_same(first: Separation, second: Separation, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(first.probability, second.probability, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(first.latents, second.latents, rtol=tolerance, atol=tolerance)


def differs(first: Separation, second: Separation) -> bool:
    return float((first.latents - second.latents).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("samples", [240, 1000, 5000])
def test_tokens_keep_time(separator: Separator, samples: int) -> None:
    found = separator(ecgs(2, samples), *reports([1, 2]))
    assert found.probability.shape == found.gate.shape == (2, samples // 8)
    assert found.latents.shape == (2, samples // 8, D)


def test_a_change_in_the_ecg_is_seen_where_it_is(separator: Separator) -> None:
    """The far end of a long record cannot know; a norm over all of time would tell it a little."""
    x = ecgs(1, 4000)
    changed = x.clone()
    changed[..., :80] += 1.0
    with torch.no_grad():
        moved = (separator(x, *reports([2])).latents - separator(changed, *reports([2])).latents).abs().amax(-1)[0]
    assert float(moved[:10].max()) > 20 * float(moved[100:].max())


# --- the report ------------------------------------------------------------------------------------------------------


def test_padding_says_nothing(separator: Separator) -> None:
    x, (memory, mask) = ecgs(), reports([2, 1, 3])
    longer = torch.cat([memory, 100.0 * torch.randn(3, 4, MEMORY, generator=rng(5))], dim=1)
    longer_mask = torch.cat([mask, mask.new_zeros(3, 4)], dim=1)
    assert_same(separator(x, memory, mask), separator(x, longer, longer_mask))


def test_the_order_of_statements_says_nothing(separator: Separator) -> None:
    x, (memory, mask) = ecgs(), reports([3, 3, 3])
    assert_same(separator(x, memory, mask), separator(x, memory[:, [2, 0, 1]], mask))


def test_another_patients_report_changes_latents_and_gate(separator: Separator) -> None:
    x, (memory, mask) = ecgs(), reports([2, 2, 2])
    own, other = separator(x, memory, mask), separator(x, memory.roll(1, 0), mask)
    assert differs(own, other)
    assert float((own.probability - other.probability).detach().abs().max()) > 1e-3


def test_a_record_without_statements_is_answered_by_the_null_token(separator: Separator) -> None:
    x = ecgs()
    padded, longer = (separator(x, *reports_without(length)) for length in (1, 4))
    assert torch.isfinite(padded.latents).all()
    assert_same(padded, longer)
    assert differs(padded, separator(x, *reports([2, 2, 2])))
    with torch.no_grad():
        separator.attention.null.add_(torch.randn(MEMORY, generator=rng(3)))
    assert differs(padded, separator(x, *reports_without(1)))


def reports_without(length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(3, length, MEMORY, generator=rng(length)), torch.zeros(3, length, dtype=torch.bool)


def test_the_attention_is_softmax_attention_over_null_and_report() -> None:
    """Against a loop over heads, ECG tokens and report tokens."""
    torch.manual_seed(0)
    attention, tokens = ReportAttention(WIDTH, MEMORY, heads=2), torch.randn(2, 5, WIDTH)
    memory, mask = reports([3, 1])
    with torch.no_grad():
        attention.null.normal_()
        answer = attention(tokens, memory, mask)
        for b in range(2):
            loud = [attention.loudness(token) for token in memory[b, mask[b]]]
            texts = torch.stack([attention.null[0, 0], *loud])  # (1 + L, MEMORY)
            for n in range(5):
                q, k, v = attention.query(tokens[b, n]), attention.key(texts), attention.value(texts)
                heads = []
                for part in (slice(0, 8), slice(8, 16)):
                    scores = (k[:, part] @ q[part]) / 8**0.5
                    heads.append(torch.softmax(scores, dim=0) @ v[:, part])
                torch.testing.assert_close(answer[b, n], attention.out(torch.cat(heads)), rtol=1e-4, atol=1e-5)


# --- the gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_a_gate_is_0_or_1_by_its_threshold(separator: Separator, threshold: float) -> None:
    separator.threshold = threshold
    found = separator(ecgs(6), *reports([1, 2, 3, 1, 2, 3]))
    assert torch.equal(found.gate, (found.probability > threshold).float())
    assert set(found.gate.detach().unique().tolist()) == {0.0, 1.0}
    assert 0.0 <= float(found.probability.min()) <= float(found.probability.max()) <= 1.0


def test_the_gates_gradient_is_that_of_its_probability(separator: Separator) -> None:
    x, report = ecgs(), reports([1, 2, 3])
    weights = torch.randn(3, 30, generator=rng(4))
    by_gate = torch.autograd.grad((separator(x, *report).gate * weights).sum(), separator.gate.weight)[0]
    by_probability = torch.autograd.grad((separator(x, *report).probability * weights).sum(), separator.gate.weight)[0]
    torch.testing.assert_close(by_gate, by_probability)


def test_gradient_through_the_gate_reaches_the_attention(separator: Separator) -> None:
    separator(ecgs(), *reports([1, 2, 3])).gate.sum().backward()
    attention = separator.attention
    for weight in (attention.query.weight, attention.key.weight, attention.value.weight, attention.null):
        assert weight.grad is not None
        assert float(weight.grad.abs().max()) > 0


# --- one patient at a time -------------------------------------------------------------------------------------------


def test_what_is_said_of_one_patient_does_not_depend_on_the_others(separator: Separator) -> None:
    x, (memory, mask) = ecgs(), reports([2, 1, 3])
    together = separator(x, memory, mask)
    for i in range(3):
        alone = separator(x[i : i + 1], memory[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(together.latents[i], alone.latents[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.probability[i], alone.probability[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (12, 6), (7, 7), (11, 1), (48, 8)])
def test_group_norm_takes_as_many_groups_as_divide_the_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups
