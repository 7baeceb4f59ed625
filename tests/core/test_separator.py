"""The separator reads a beat and asks its report: padding says nothing, another report says something else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lavq_core.models.blocks import Attention, ReportAttention, group_norm
from lavq_core.models.separator import Separation, Separator
from lavq_core.settings import CodebookConfig, SeparatorConfig

WIDTH, D, MEMORY, N, STRIDE = 16, 6, 10, 24, 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_separator(tokens: int = N, stride: int = STRIDE) -> Separator:
    torch.manual_seed(0)
    config = SeparatorConfig(width=WIDTH, stride=stride, blocks=2, heads=2)
    made = Separator(config, CodebookConfig(size=4, dim=D), tokens, MEMORY).eval()
    with torch.no_grad():
        made.gate.weight.mul_(60.0)  # an untrained gate would be .5 everywhere
        made.attention.null.normal_(generator=rng(9))
    return made


@pytest.fixture
def separator() -> Separator:
    return make_separator()


def beats(count: int = 3, samples: int = N * STRIDE, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Waveforms, covariates and valid tokens, all of them."""
    generator = rng(seed)
    x = 0.5 * torch.randn(count, 8, samples, generator=generator)
    return x, torch.randn(count, 3, generator=generator), torch.ones(count, N)


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


@pytest.mark.parametrize(("samples", "stride", "tokens"), [(96, 4, 24), (96, 8, 12), (480, 20, 24), (480, 40, 12)])
def test_tokens_keep_time_at_any_sampling_rate(samples: int, stride: int, tokens: int) -> None:
    x, covariates, _ = beats(2, samples)
    found = make_separator(tokens, stride)(x, covariates, torch.ones(2, tokens), *reports([1, 2]))
    assert found.probability.shape == found.gate.shape == (2, tokens)
    assert found.latents.shape == (2, tokens, D)


def test_a_change_in_the_beat_is_seen_where_it_is() -> None:
    """Convolutions see their neighbours; the groups' norms tell the rest of the beat a little."""
    separator, report = make_separator(), reports([2])
    x, covariates, valid = beats(1)
    changed = x.clone()
    changed[..., 8:16] += 0.2
    with torch.no_grad():
        moved = (
            separator(x, covariates, valid, *report).latents - separator(changed, covariates, valid, *report).latents
        )
    moved = moved.abs().amax(-1)[0]  # (N,)
    assert 1 <= int(moved.argmax()) <= 4
    assert float(moved[1:5].mean()) > 3 * float(moved[16:].mean())


def test_covariates_and_the_place_in_the_beat_count(separator: Separator) -> None:
    x, covariates, valid = beats()
    for column in range(3):
        other = covariates.clone()
        other[:, column] += 1.0
        found = (separator(x, given, valid, *reports([1, 2, 3])) for given in (covariates, other))
        assert differs(*found)
    flat = separator(torch.zeros_like(x), covariates, valid, *reports([1, 2, 3])).latents.detach()
    assert float((flat[:, 8] - flat[:, 16]).abs().max()) > 1e-4  # away from the ends, which convolutions see


# --- the report ------------------------------------------------------------------------------------------------------


def test_padding_says_nothing(separator: Separator) -> None:
    given, (memory, mask) = beats(), reports([2, 1, 3])
    longer = torch.cat([memory, 100.0 * torch.randn(3, 4, MEMORY, generator=rng(5))], dim=1)
    longer_mask = torch.cat([mask, mask.new_zeros(3, 4)], dim=1)
    assert_same(separator(*given, memory, mask), separator(*given, longer, longer_mask))


def test_the_order_of_statements_says_nothing(separator: Separator) -> None:
    given, (memory, mask) = beats(), reports([3, 3, 3])
    assert_same(separator(*given, memory, mask), separator(*given, memory[:, [2, 0, 1]], mask))


def test_another_patients_report_changes_latents_and_gate(separator: Separator) -> None:
    given, (memory, mask) = beats(), reports([2, 2, 2])
    own, other = separator(*given, memory, mask), separator(*given, memory.roll(1, 0), mask)
    assert differs(own, other)
    assert float((own.probability - other.probability).detach().abs().max()) > 1e-3


def test_a_record_without_statements_is_answered_by_the_null_token(separator: Separator) -> None:
    given = beats()
    padded, longer = (separator(*given, *reports_without(length)) for length in (1, 4))
    assert torch.isfinite(padded.latents).all()
    assert_same(padded, longer)
    assert differs(padded, separator(*given, *reports([2, 2, 2])))
    with torch.no_grad():
        separator.attention.null.add_(torch.randn(MEMORY, generator=rng(3)))
    assert differs(padded, separator(*given, *reports_without(1)))


def reports_without(length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(3, length, MEMORY, generator=rng(length)), torch.zeros(3, length, dtype=torch.bool)


def test_the_attention_is_softmax_attention_over_null_and_report() -> None:
    """Against a loop over heads, ECG tokens and report tokens."""
    torch.manual_seed(0)
    attention, tokens = ReportAttention(WIDTH, MEMORY, heads=2), torch.randn(2, 5, WIDTH)
    asked = attention.attention
    memory, mask = reports([3, 1])
    with torch.no_grad():
        attention.null.normal_()
        answer = attention(tokens, memory, mask)
        for b in range(2):
            loud = [attention.loudness(token) for token in memory[b, mask[b]]]
            texts = torch.stack([attention.null[0, 0], *loud])  # (1 + L, MEMORY)
            for n in range(5):
                q, k, v = asked.query(tokens[b, n]), asked.key(texts), asked.value(texts)
                heads = []
                for part in (slice(0, 8), slice(8, 16)):
                    scores = (k[:, part] @ q[part]) / 8**0.5
                    heads.append(torch.softmax(scores, dim=0) @ v[:, part])
                torch.testing.assert_close(answer[b, n], asked.out(torch.cat(heads)), rtol=1e-4, atol=1e-5)


# --- the gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_a_gate_is_0_or_1_by_its_threshold(separator: Separator, threshold: float) -> None:
    given = (*beats(6), *reports([1, 2, 3, 1, 2, 3]))
    with torch.no_grad():
        separator.gate.bias -= separator(*given).probability.logit().median()  # half of the tokens above .5
    separator.threshold = threshold
    found = separator(*given)
    assert torch.equal(found.gate, (found.probability > threshold).float())
    assert set(found.gate.detach().unique().tolist()) == {0.0, 1.0}
    assert bool(((found.probability >= 0) & (found.probability <= 1)).all())


def test_the_gates_gradient_is_that_of_its_probability(separator: Separator) -> None:
    given, weights = (*beats(), *reports([1, 2, 3])), torch.randn(3, N, generator=rng(4))
    by_gate = torch.autograd.grad((separator(*given).gate * weights).sum(), separator.gate.weight)[0]
    by_probability = torch.autograd.grad((separator(*given).probability * weights).sum(), separator.gate.weight)[0]
    torch.testing.assert_close(by_gate, by_probability)


def test_gradient_through_the_gate_reaches_the_attention(separator: Separator) -> None:
    separator(*beats(), *reports([1, 2, 3])).gate.sum().backward()
    asked = separator.attention.attention
    for weight in (asked.query.weight, asked.key.weight, asked.value.weight, separator.attention.null):
        assert weight.grad is not None
        assert float(weight.grad.abs().max()) > 0


def test_what_belongs_to_the_next_beat_is_never_gated(separator: Separator) -> None:
    x, covariates, valid = beats(6)
    report = reports([1, 2, 3, 1, 2, 3])
    free = separator(x, covariates, valid, *report)
    valid[:, 14:] = 0.0
    found = separator(x, covariates, valid, *report)
    assert bool(free.gate[:, 14:].any())
    assert not found.probability[:, 14:].any()
    assert not found.gate[:, 14:].any()
    assert torch.equal(found.gate[:, :14], free.gate[:, :14])
    found.gate[:, 14:].sum().backward()
    assert separator.gate.weight.grad is not None
    assert not separator.gate.weight.grad.any()  # nor does it learn to


# --- the codes -------------------------------------------------------------------------------------------------------


def test_each_code_says_its_superclasses_by_itself(separator: Separator) -> None:
    codes = torch.randn(2, N, D, generator=rng(6))
    told = separator.read_codes(codes)
    assert told.shape == (2, N, 5)
    torch.testing.assert_close(separator.read_codes(codes[:, 3:4]), told[:, 3:4])


# --- one patient at a time -------------------------------------------------------------------------------------------


def test_what_is_said_of_one_patient_does_not_depend_on_the_others(separator: Separator) -> None:
    given, (memory, mask) = beats(), reports([2, 1, 3])
    together = separator(*given, memory, mask)
    for i in range(3):
        alone = separator(*(part[i : i + 1] for part in (*given, memory, mask)))
        torch.testing.assert_close(together.latents[i], alone.latents[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.probability[i], alone.probability[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (12, 6), (7, 7), (11, 1), (48, 8)])
def test_group_norm_takes_as_many_groups_as_divide_the_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_attention_without_a_mask_is_attention_to_everything() -> None:
    torch.manual_seed(0)
    attention, tokens, memory = Attention(WIDTH, MEMORY, 2), torch.randn(2, 5, WIDTH), torch.randn(2, 3, MEMORY)
    there = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(attention(tokens, memory), attention(tokens, memory, there))
