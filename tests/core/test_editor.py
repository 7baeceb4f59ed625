"""The editor writes inside an envelope and nowhere else: outside it a twin is its patient, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.config import CodebookConfig, SeparatorConfig
from lavq_core.models.editor import Editor, envelope, low_pass
from lavq_core.signals.leads import einthoven_residual, to_independent, to_twelve

D = 6
SEEDS = st.integers(0, 2**32 - 1)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_editor(stride: int = 8) -> Editor:
    """An editor that changes whole millivolts, so that nothing hides in a tolerance."""
    torch.manual_seed(0)
    editor = Editor(SeparatorConfig(width=16, stride=stride, blocks=2, heads=2), CodebookConfig(size=4, dim=D))
    with torch.no_grad():
        editor.paint.weight.mul_(100.0)
    return editor.eval()


def patients(count: int, samples: int = 400, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(count, 8, samples, generator=rng(seed))


def gates(count: int, tokens: int, seed: int, share: float = 0.3) -> Tensor:
    return (torch.rand(count, tokens, generator=rng(seed)) < share).float()


def some_codes(count: int, tokens: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, tokens, D, generator=rng(seed)), dim=-1)


# --- envelope --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, tokens=st.integers(1, 12), stride=st.sampled_from([2, 4, 8, 40]), share=st.floats(0.0, 1.0))
def test_an_envelope_is_the_gate_held_and_smoothed_by_one_tokens_window(
    seed: int, tokens: int, stride: int, share: float
) -> None:
    gate = gates(2, tokens, seed, share)
    found = envelope(gate, stride)
    assert found.shape == (2, tokens * stride)
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    window = np.hanning(stride + 3)[1:-1]
    for row, opened in zip(found, gate, strict=True):
        held = np.repeat(opened.numpy(), stride)
        expected = np.convolve(np.pad(held, stride // 2), window / window.sum(), mode="valid")
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, stride=st.sampled_from([2, 4, 8, 40]))
def test_an_envelope_reaches_half_a_token_beyond_its_gate_and_no_further(seed: int, stride: int) -> None:
    gate = gates(1, 12, seed)
    found = envelope(gate, stride)[0]
    opened = gate[0].repeat_interleave(stride).numpy() == 1
    for sample, value in enumerate(found.tolist()):
        near = opened[max(0, sample - stride // 2) : sample + stride // 2 + 1].any()
        assert (value > 0) == near


def test_an_envelope_has_no_step() -> None:
    gate = torch.zeros(1, 10)
    gate[0, 4:6] = 1
    found = envelope(gate, 8)[0]
    assert float(found.diff().abs().max()) < 0.25
    assert float(found.max()) == pytest.approx(1.0)


def test_a_wider_gate_has_a_wider_envelope() -> None:
    narrow = gates(3, 20, 1)
    wide = torch.maximum(narrow, gates(3, 20, 2))
    assert bool((envelope(wide, 8) >= envelope(narrow, 8)).all())


# --- editing ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, share=st.floats(0.0, 0.6), heal=st.booleans())
def test_outside_the_envelope_an_edit_is_0_microvolts(seed: int, share: float, heal: bool) -> None:
    editor, x, gate = make_editor(), patients(3, seed=seed), gates(3, 50, seed, share)
    with torch.no_grad():
        edited = editor(x, gate, None if heal else some_codes(3, 50, seed))
    inside = envelope(gate, 8)[:, None].expand_as(x) > 0
    assert torch.equal(edited[~inside], x[~inside])
    twelve, before = to_twelve(edited), to_twelve(x)
    inside = envelope(gate, 8)[:, None].expand_as(twelve) > 0
    assert torch.equal(twelve[~inside], before[~inside])  # the derived leads too


def test_inside_the_envelope_an_edit_is_one() -> None:
    editor, x, gate = make_editor(), patients(2), torch.ones(2, 50)
    with torch.no_grad():
        change = (editor(x, gate, some_codes(2, 50, 0)) - x).abs()
    assert float(change.amax(dim=(1, 2)).min()) > 0.1
    assert bool((change.amax(dim=(0, 2)) > 0).all())  # every lead


@pytest.mark.parametrize("heal", [True, False])
def test_a_shut_gate_is_the_identity(heal: bool) -> None:
    x = patients(2)
    edited = make_editor()(x, torch.zeros(2, 50), None if heal else some_codes(2, 50, 0))
    assert torch.equal(edited, x)


def test_an_untrained_editor_changes_next_to_nothing() -> None:
    torch.manual_seed(0)
    editor = Editor(SeparatorConfig(width=16, blocks=2, heads=2), CodebookConfig(size=4, dim=D))
    change = editor.change(patients(2), torch.ones(2, 50), some_codes(2, 50, 0))
    assert float(change.detach().abs().mean()) < 0.1  # mV


def test_healing_and_writing_are_different_edits_and_codes_matter() -> None:
    editor, x, gate = make_editor(), patients(1), torch.ones(1, 50)
    with torch.no_grad():
        editor.null.normal_(generator=rng(3))
        edits = [editor(x, gate, codes) for codes in (None, some_codes(1, 50, 1), some_codes(1, 50, 2))]
    for i in range(3):
        for j in range(i):
            assert float((edits[i] - edits[j]).abs().max()) > 1e-3


def test_a_code_outside_the_gate_has_no_influence() -> None:
    editor, x, gate = make_editor(), patients(1), gates(1, 50, 4)
    first, second = some_codes(1, 50, 1), some_codes(1, 50, 2)
    mixed = torch.where(gate[..., None] > 0, first, second)
    with torch.no_grad():
        assert torch.equal(editor(x, gate, first), editor(x, gate, mixed))


def test_the_forward_pass_adds_the_change() -> None:
    editor, x, gate, codes = make_editor(), patients(2), gates(2, 50, 5), some_codes(2, 50, 5)
    with torch.no_grad():
        assert torch.equal(editor(x, gate, codes), x + editor.change(x, gate, codes))


def test_an_edit_of_one_patient_does_not_depend_on_the_others() -> None:
    editor, x, gate, codes = make_editor(), patients(3), gates(3, 50, 6), some_codes(3, 50, 6)
    with torch.no_grad():
        together = editor(x, gate, codes)
        alone = torch.cat([editor(x[i : i + 1], gate[i : i + 1], codes[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_einthovens_law_holds_in_every_edit() -> None:
    editor, x = make_editor(), patients(2)
    with torch.no_grad():
        edited = editor(x, torch.ones(2, 50), some_codes(2, 50, 0))
    twelve = to_twelve(edited)
    assert torch.equal(to_independent(twelve), edited)
    assert not einthoven_residual(twelve).any()


@pytest.mark.parametrize(("samples", "stride"), [(1000, 8), (5000, 8), (5000, 40), (400, 2)])
def test_any_sampling_rate_and_stride_keeps_the_length(samples: int, stride: int) -> None:
    editor, x = make_editor(stride), patients(2, samples)
    tokens = samples // stride
    with torch.no_grad():
        assert editor.content(x).shape == (2, 16, tokens)
        assert editor(x, gates(2, tokens, 0), some_codes(2, tokens, 0)).shape == x.shape


def test_gradient_reaches_gate_codes_patient_and_every_weight() -> None:
    editor, x = make_editor(), patients(2).requires_grad_()
    gate, codes = torch.ones(2, 50, requires_grad=True), some_codes(2, 50, 0).requires_grad_()
    (editor(x, gate, codes).square().sum() + editor(x, gate, None).square().sum()).backward()
    for tensor in (x, gate, codes, *editor.parameters()):
        assert tensor.grad is not None
        assert float(tensor.grad.abs().max()) > 0


def test_low_pass_keeps_slow_edits_and_takes_away_fast_ones() -> None:
    time = torch.arange(1000) / 100.0  # s at 100 Hz
    for frequency, left in ((0.0, 1.0), (3.0, 0.95), (12.0, 0.5), (40.0, 0.01)):
        wave = torch.cos(2 * torch.pi * frequency * time).expand(1, 8, -1)
        middle = low_pass(wave, stride=8)[..., 100:-100]
        assert middle.abs().max().item() == pytest.approx(left, abs=0.06)


def test_low_pass_has_the_same_effect_at_500_hz() -> None:
    slow, fast = (torch.cos(2 * torch.pi * 12.0 * torch.arange(10 * rate) / rate) for rate in (100, 500))
    at_100 = low_pass(slow.expand(1, 8, -1), stride=8)[..., 200:-200].abs().max()
    at_500 = low_pass(fast.expand(1, 8, -1), stride=40)[..., 1000:-1000].abs().max()
    assert at_100.item() == pytest.approx(at_500.item(), abs=0.05)
