"""Digital twins: the patient's own ECG but inside the envelope, made of the shared prior and nobody's ECG."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lavq_core.config import CodebookConfig, SeparatorConfig
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.codebook import CodebookState, initial_codebook
from lavq_core.models.editor import Editor, envelope
from lavq_core.models.prior import PHASES
from lavq_core.models.twins import Twins, available_diseases, make_twins
from lavq_core.signals.leads import to_twelve

K, D, TOKENS = 5, 6, 50
MI, STTC, CD = 1, 2, 3


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def editor() -> Editor:
    torch.manual_seed(0)
    made = Editor(SeparatorConfig(width=16, blocks=1, heads=2), CodebookConfig(size=K, dim=D)).eval()
    with torch.no_grad():
        made.paint.weight.mul_(50.0)
    return made


@pytest.fixture
def codebook() -> CodebookState:
    """Counts of MI and STTC; CD was seen but left normal throughout; HYP was never seen."""
    state = initial_codebook(CodebookConfig(size=K, dim=D), 0)
    state["prior"][[MI, STTC]] = torch.rand(2, PHASES, K + 1, generator=rng(0)) + 0.1
    state["prior"][:, :3, :K] = 0.0  # three phases in which nothing is ever edited
    state["prior"][CD, :, K] = 9.0
    return state


@pytest.fixture
def patients() -> Tensor:
    return 0.5 * torch.randn(6, 8, 8 * TOKENS, generator=rng(1))


PHASES_OF = torch.arange(TOKENS).remainder(PHASES).repeat(6, 1)
DISEASES = torch.tensor([MI, STTC, MI, STTC, MI, STTC])


def make(
    editor: Editor,
    codebook: CodebookState,
    patients: Tensor,
    classes: Tensor = DISEASES,
    strength: float = 1.0,
    seed: int = 0,
    batch: int = 128,
) -> Twins:
    return make_twins(editor, codebook, patients, PHASES_OF, classes, strength, rng(seed), batch)


def test_outside_the_envelope_a_twin_is_its_patient_bit_for_bit(
    editor: Editor, codebook: CodebookState, patients: Tensor
) -> None:
    twins = make(editor, codebook, patients)
    assert twins.signal.shape == patients.shape
    assert torch.equal(twins.envelope, envelope(twins.gate, 8))
    for signal, reference in ((twins.signal, patients), (to_twelve(twins.signal), to_twelve(patients))):
        outside = (twins.envelope == 0)[:, None].expand_as(signal)
        assert bool(outside.any())
        assert torch.equal(signal[outside], reference[outside])
        assert float((signal - reference)[~outside].abs().max()) > 0.05


def test_a_twin_is_edited_where_the_prior_edits(editor: Editor, codebook: CodebookState, patients: Tensor) -> None:
    gate = make(editor, codebook, patients).gate
    assert gate.shape == (6, TOKENS)
    assert set(gate.unique().tolist()) == {0.0, 1.0}
    assert not gate[PHASES_OF < 3].any()
    assert bool(gate.any(dim=1).all())


@pytest.mark.parametrize("disease", [CD, SUPERCLASSES.index("HYP")])
def test_a_disease_without_codes_leaves_the_patient_alone(
    editor: Editor, codebook: CodebookState, patients: Tensor, disease: int
) -> None:
    twins = make(editor, codebook, patients, torch.full((6,), disease))
    assert torch.equal(twins.signal, patients)
    assert not twins.gate.any()
    assert not twins.envelope.any()


def test_strength_0_leaves_the_patient_alone_and_more_edits_more(
    editor: Editor, codebook: CodebookState, patients: Tensor
) -> None:
    doses = [make(editor, codebook, patients, strength=strength) for strength in (0.0, 0.3, 1.0)]
    assert torch.equal(doses[0].signal, patients)
    for weaker, stronger in pairwise(doses):
        assert bool((stronger.gate >= weaker.gate).all())


def test_the_generator_decides(editor: Editor, codebook: CodebookState, patients: Tensor) -> None:
    first, again, other = (make(editor, codebook, patients, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.signal, again.signal)
    assert torch.equal(first.gate, again.gate)
    assert not torch.equal(first.signal, other.signal)


def test_batches_do_not_matter(editor: Editor, codebook: CodebookState, patients: Tensor) -> None:
    whole, parts = make(editor, codebook, patients), make(editor, codebook, patients, batch=2)
    assert torch.equal(whole.gate, parts.gate)
    torch.testing.assert_close(whole.signal, parts.signal, rtol=1e-4, atol=1e-5)


def test_no_patients_no_twins(editor: Editor, codebook: CodebookState) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    twins = make_twins(editor, codebook, torch.zeros(0, 8, 400), none.reshape(0, 50), none, 1.0, rng(0))
    assert twins.signal.shape == (0, 8, 400)
    assert twins.gate.shape == (0, 50)
    assert twins.envelope.shape == (0, 400)


def test_making_twins_needs_no_gradient_and_changes_neither_patients_nor_codebook(
    editor: Editor, codebook: CodebookState, patients: Tensor
) -> None:
    before = {name: value.clone() for name, value in codebook.items()}, patients.clone()
    twins = make(editor, codebook, patients)
    assert not twins.signal.requires_grad
    assert torch.equal(patients, before[1])
    assert all(torch.equal(value, before[0][name]) for name, value in codebook.items())
    torch.testing.assert_close(make(editor, codebook, patients).signal, twins.signal)
    twins.signal.zero_()
    assert torch.equal(patients, before[1])


def test_the_diseases_that_can_be_made_are_those_with_codes(codebook: CodebookState) -> None:
    assert available_diseases(codebook["prior"]).tolist() == [MI, STTC]
    codebook["prior"][SUPERCLASSES.index("NORM")] = 5.0  # healthy is no disease
    assert available_diseases(codebook["prior"]).tolist() == [MI, STTC]
    assert available_diseases(torch.zeros(5, PHASES, K + 1)).tolist() == []
