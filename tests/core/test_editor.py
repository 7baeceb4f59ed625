"""The editor writes inside an envelope and nowhere else: outside it a twin is its patient, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.models.editor import Editor, envelope
from lavq_core.settings import CodebookConfig, SeparatorConfig
from lavq_core.signals.leads import einthoven_residual, to_independent, to_twelve

D, N, STRIDE = 6, 24, 4
SEEDS = st.integers(0, 2**32 - 1)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_editor(stride: int = STRIDE, tokens: int = N) -> Editor:
    """An editor that changes whole millivolts, so that nothing hides in a tolerance."""
    torch.manual_seed(0)
    editor = Editor(SeparatorConfig(width=16, stride=stride, blocks=2, heads=2), CodebookConfig(size=4, dim=D), tokens)
    with torch.no_grad():
        editor.paint.weight.mul_(100.0)
    return editor.eval()


def patients(count: int, samples: int = N * STRIDE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Median beats and covariates."""
    generator = rng(seed)
    return 0.5 * torch.randn(count, 8, samples, generator=generator), torch.randn(count, 3, generator=generator)


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
    editor, (x, covariates), gate = make_editor(), patients(3, seed=seed), gates(3, N, seed, share)
    with torch.no_grad():
        edited = editor(x, covariates, gate, None if heal else some_codes(3, N, seed))
    inside = envelope(gate, STRIDE)[:, None].expand_as(x) > 0
    assert torch.equal(edited[~inside], x[~inside])
    twelve, before = to_twelve(edited), to_twelve(x)
    inside = envelope(gate, STRIDE)[:, None].expand_as(twelve) > 0
    assert torch.equal(twelve[~inside], before[~inside])  # the derived leads too


def test_inside_the_envelope_an_edit_is_one() -> None:
    editor, (x, covariates) = make_editor(), patients(2)
    with torch.no_grad():
        change = (editor(x, covariates, torch.ones(2, N), some_codes(2, N, 0)) - x).abs()
    assert float(change.amax(dim=(1, 2)).min()) > 0.1
    assert bool((change.amax(dim=(0, 2)) > 0).all())  # every lead


@pytest.mark.parametrize("heal", [True, False])
def test_a_shut_gate_is_the_identity(heal: bool) -> None:
    x, covariates = patients(2)
    edited = make_editor()(x, covariates, torch.zeros(2, N), None if heal else some_codes(2, N, 0))
    assert torch.equal(edited, x)


def test_an_untrained_editor_changes_next_to_nothing() -> None:
    torch.manual_seed(0)
    editor = Editor(SeparatorConfig(width=16, blocks=2, heads=2), CodebookConfig(size=4, dim=D), N)
    change = editor.change(*patients(2), torch.ones(2, N), some_codes(2, N, 0))
    assert float(change.detach().abs().mean()) < 0.1  # mV


def test_healing_and_writing_are_different_edits_and_codes_matter() -> None:
    editor, given, gate = make_editor(), patients(1), torch.ones(1, N)
    with torch.no_grad():
        editor.null.normal_(generator=rng(3))
        edits = [editor(*given, gate, codes) for codes in (None, some_codes(1, N, 1), some_codes(1, N, 2))]
    for i in range(3):
        for j in range(i):
            assert float((edits[i] - edits[j]).abs().max()) > 1e-3


def test_an_edit_depends_on_waveform_covariates_and_place() -> None:
    editor, (x, covariates), gate, codes = make_editor(), patients(2), torch.ones(2, N), some_codes(2, N, 0)
    with torch.no_grad():
        drawn = editor.draw(x, covariates, gate, codes)
        assert float((editor.draw(x.roll(1, 0), covariates, gate, codes) - drawn).abs().max()) > 1e-2
        for column in range(3):
            other = covariates.clone()
            other[:, column] += 1.0
            assert float((editor.draw(x, other, gate, codes) - drawn).abs().max()) > 1e-2
        same = codes[:, :1].expand(-1, N, -1)
        flat = editor.draw(torch.zeros_like(x), covariates, gate, same)
    assert float((flat[..., 32:36] - flat[..., 64:68]).abs().max()) > 1e-2  # tokens 8 and 16


def test_a_code_outside_the_gate_has_no_influence() -> None:
    editor, given, gate = make_editor(), patients(1), gates(1, N, 4)
    first, second = some_codes(1, N, 1), some_codes(1, N, 2)
    mixed = torch.where(gate[..., None] > 0, first, second)
    with torch.no_grad():
        assert torch.equal(editor(*given, gate, first), editor(*given, gate, mixed))


def test_the_forward_pass_adds_what_is_drawn_inside_the_envelope() -> None:
    editor, (x, covariates), gate, codes = make_editor(), patients(2), gates(2, N, 5), some_codes(2, N, 5)
    with torch.no_grad():
        change = editor.change(x, covariates, gate, codes)
        assert torch.equal(change, envelope(gate, STRIDE)[:, None] * editor.draw(x, covariates, gate, codes))
        assert torch.equal(editor(x, covariates, gate, codes), x + change)


def test_an_edit_of_one_patient_does_not_depend_on_the_others() -> None:
    editor, given = make_editor(), (*patients(3), gates(3, N, 6), some_codes(3, N, 6))
    with torch.no_grad():
        together = editor(*given)
        alone = torch.cat([editor(*(part[i : i + 1] for part in given)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_einthovens_law_holds_in_every_edit() -> None:
    with torch.no_grad():
        edited = make_editor()(*patients(2), torch.ones(2, N), some_codes(2, N, 0))
    twelve = to_twelve(edited)
    assert torch.equal(to_independent(twelve), edited)
    assert not einthoven_residual(twelve).any()


@pytest.mark.parametrize(("samples", "stride"), [(96, 4), (96, 8), (480, 20), (480, 40)])
def test_any_sampling_rate_and_stride_keeps_the_length(samples: int, stride: int) -> None:
    tokens = samples // stride
    editor, (x, covariates) = make_editor(stride, tokens), patients(2, samples)
    with torch.no_grad():
        assert editor.content(x, covariates).shape == (2, 16, tokens)
        assert editor(x, covariates, gates(2, tokens, 0), some_codes(2, tokens, 0)).shape == x.shape


def test_gradient_reaches_gate_codes_patient_and_every_weight() -> None:
    editor, (x, covariates) = make_editor(), patients(2)
    gate, codes = torch.ones(2, N, requires_grad=True), some_codes(2, N, 0).requires_grad_()
    x.requires_grad_()
    edits = (editor(x, covariates, gate, filling) for filling in (codes, None))
    sum(edit.square().sum() for edit in edits).backward()  # type: ignore[union-attr]
    for tensor in (x, gate, codes, *editor.parameters()):
        assert tensor.grad is not None
        assert float(tensor.grad.abs().max()) > 0
