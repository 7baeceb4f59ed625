"""Digital twins: the patient's own ECG but inside the envelope, made of shared codes and nobody's ECG."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.models.codebook import initial_codebook
from lavq_core.models.editor import Editor, envelope
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.models.twins import Patients, Twins, make_twins, request_twins
from lavq_core.settings import Config
from lavq_core.signals.beats import find_beats
from lavq_core.signals.leads import einthoven_residual, to_independent, to_twelve
from lavq_core.signals.rpeaks import find_r_peaks

K, N, STRIDE, FLAT = 6, 24, 4, 4  # of six patients, number 4 has no beat


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def patients(sample_database: Database) -> Patients:
    """Five healthy patients of the sample, and between them one whose beats are not found."""
    healthy = np.flatnonzero(sample_database.norm_only() & sample_database.beats.found())[:5]
    signal = sample_database.signals(healthy)
    noise = 0.02 * torch.randn(1, 8, 1000, generator=rng(0))
    age, sex = np.array([50.0, 60, math.nan, 70, 80, 30]), np.array([0.0, 1, 1, math.nan, 0, 1])
    made = Patients.of(torch.cat([signal[:FLAT], noise, signal[FLAT:]]), age, sex, STRIDE, 100)
    assert made.beats.found().tolist() == [row != FLAT for row in range(6)]
    return made


def loud(networks: Networks) -> Networks:
    """Networks that change a beat by tenths of a millivolt, as a disease would; untrained ones hardly change it."""
    with torch.no_grad():
        networks.editor.paint.weight.mul_(3.0)
        networks.editor.null.normal_(generator=rng(1))
    return networks


@pytest.fixture(scope="module")
def networks(make_tiny) -> Networks:
    return loud(make_networks(make_tiny(), 0))


@pytest.fixture(scope="module")
def codes(make_tiny) -> Tensor:
    return initial_codebook(make_tiny().codebook, N, 0)["codes"]


def some_symbols(count: int = 6, seed: int = 0) -> Tensor:
    """Codes in about half of the tokens."""
    drawn = torch.randint(K, (count, N), generator=rng(seed))
    return torch.where(torch.rand(count, N, generator=rng(seed + 1)) < 0.5, drawn, K)


@pytest.fixture(scope="module")
def twins(networks: Networks, codes: Tensor, patients: Patients) -> Twins:
    return make_twins(networks.editor, codes, patients, some_symbols())


def assert_unchanged(made: Twins, patients: Patients, rows: list[int] | slice = slice(None)) -> None:
    assert torch.equal(made.signal[rows], patients.signal[rows])
    assert torch.equal(made.median[rows], patients.input.x[rows])
    assert not made.gate[rows].any()
    assert not made.envelope[rows].any()


# --- where a twin differs from its patient ---------------------------------------------------------------------------


def test_outside_the_envelope_a_twin_is_its_patient_bit_for_bit(twins: Twins, patients: Patients) -> None:
    for signal, reference in ((twins.signal, patients.signal), (to_twelve(twins.signal), to_twelve(patients.signal))):
        outside = (twins.envelope == 0)[:, None].expand_as(signal)
        assert 0.2 < float(outside[[0, 1, 2, 3, 5]].float().mean()) < 0.8
        assert torch.equal(signal[outside].view(torch.int32), reference[outside].view(torch.int32))
        assert float((signal - reference)[~outside].abs().max()) > 0.05  # mV


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0.0, 1.0))
def test_so_it_is_for_any_gate_and_any_dose(
    networks: Networks, codes: Tensor, patients: Patients, seed: int, strength: float
) -> None:
    few = patients.take(torch.tensor([0, FLAT]))
    made = make_twins(networks.editor, codes, few, some_symbols(2, seed % 1000), strength)
    changed = (made.signal != few.signal).any(dim=1)
    assert not changed[made.envelope == 0].any()
    assert torch.isfinite(made.signal).all()


def test_the_gate_is_where_codes_are_and_the_patient_has_a_beat(twins: Twins, patients: Patients) -> None:
    assert twins.gate.dtype == torch.float32
    assert torch.equal(twins.gate, ((some_symbols() < K) & (patients.input.valid > 0)).float())
    assert bool(twins.gate.any(dim=1)[[0, 1, 2, 3, 5]].all())


def test_every_beat_of_the_dominant_shape_is_edited(twins: Twins, patients: Patients) -> None:
    beats = patients.beats
    for row in (0, 1, 2, 3, 5):
        dominant = beats.dominant[row]
        for start, stop in zip(beats.start[row, dominant], beats.stop[row, dominant], strict=True):
            if stop - start > 60:  # not cut off by an end of the record
                assert float(twins.envelope[row, int(start) : int(stop)].max()) > 0.5


def test_the_median_beat_is_changed_inside_the_gates_envelope(twins: Twins, patients: Patients) -> None:
    shape = envelope(twins.gate, STRIDE)[:, None]
    change = twins.median - patients.input.x
    assert not change[(shape == 0).expand_as(change)].any()
    assert float(change.abs().amax(dim=(1, 2))[[0, 1, 2, 3, 5]].min()) > 0.05


def test_what_is_written_at_every_beat_is_the_edit_of_the_median_beat(
    networks: Networks, codes: Tensor, patients: Patients
) -> None:
    symbols = torch.full((6, N), K)
    symbols[:, 11:18] = torch.arange(6)[:, None]  # ST and T
    made = make_twins(networks.editor, codes, patients, symbols)
    written, edit = (made.signal - patients.signal).numpy(), (made.median - patients.input.x).numpy()
    for row in (0, 1, 2, 3, 5):
        places = patients.beats.position[row, patients.beats.dominant[row]]
        for place in places[(places > 50) & (places < 900)]:
            time = place + np.arange(N * STRIDE) - 32  # samples
            found = np.stack([np.interp(time, np.arange(1000), lead) for lead in written[row]])
            inside = slice(44, 68)
            assert np.corrcoef(found[:, inside].ravel(), edit[row][:, inside].ravel())[0, 1] > 0.8
            assert 0.5 < np.abs(found[:, inside]).max() / np.abs(edit[row][:, inside]).max() < 1.5


# --- what a twin keeps -----------------------------------------------------------------------------------------------


def test_the_r_peaks_stay_where_they_are(twins: Twins, patients: Patients) -> None:
    after = find_beats(twins.signal.numpy(), 100)
    for row in (0, 1, 2, 3, 5):
        before, now = (find_r_peaks(x[row].numpy(), 100) for x in (patients.signal, twins.signal))
        before, now = (peaks[(peaks > 20) & (peaks < 980)] for peaks in (before, now))  # not cut in half
        assert len(before) == len(now)
        assert np.abs(before - now).max() <= 2  # samples
        assert 60 / after.rr[row] == pytest.approx(60 / patients.beats.rr[row], abs=1.0)  # beats a minute


def test_einthovens_law_holds_exactly(twins: Twins) -> None:
    twelve = to_twelve(twins.signal)
    assert not einthoven_residual(twelve).any()
    assert torch.equal(to_independent(twelve), twins.signal)


def test_a_record_without_beats_is_left_alone(twins: Twins, patients: Patients) -> None:
    assert_unchanged(twins, patients, [FLAT])


def test_without_a_code_nothing_changes(networks: Networks, codes: Tensor, patients: Patients) -> None:
    assert_unchanged(make_twins(networks.editor, codes, patients, torch.full((6, N), K)), patients)


# --- strength --------------------------------------------------------------------------------------------------------


def test_strength_0_changes_nothing(networks: Networks, codes: Tensor, patients: Patients) -> None:
    assert_unchanged(make_twins(networks.editor, codes, patients, some_symbols(), 0.0), patients)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.8])
def test_strength_scales_the_edit(
    networks: Networks, codes: Tensor, patients: Patients, twins: Twins, strength: float
) -> None:
    weaker = make_twins(networks.editor, codes, patients, some_symbols(), strength)
    for name, reference in (("signal", patients.signal), ("median", patients.input.x)):
        full, part = (getattr(made, name) - reference for made in (twins, weaker))
        torch.testing.assert_close(part, strength * full, rtol=1e-3, atol=1e-5)
    assert torch.equal(weaker.gate, twins.gate)
    assert torch.equal(weaker.envelope, twins.envelope)


# --- one patient at a time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_size_of_batches_changes_nothing(
    networks: Networks, codes: Tensor, patients: Patients, twins: Twins, batch: int
) -> None:
    parts = make_twins(networks.editor, codes, patients, some_symbols(), batch=batch)
    assert torch.equal(parts.gate, twins.gate)
    assert torch.equal(parts.envelope, twins.envelope)
    torch.testing.assert_close(parts.signal, twins.signal, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(parts.median, twins.median, rtol=0.0, atol=1e-5)


def test_a_twin_depends_on_its_own_patient_alone(
    networks: Networks, codes: Tensor, patients: Patients, twins: Twins
) -> None:
    rows = torch.tensor([3, 0, 3])
    some = make_twins(networks.editor, codes, patients.take(rows), some_symbols()[rows])
    torch.testing.assert_close(some.signal, twins.signal[rows], rtol=0.0, atol=1e-5)
    assert torch.equal(some.gate, twins.gate[rows])


def test_no_patients_no_twins(networks: Networks, codes: Tensor, patients: Patients) -> None:
    none = patients.take(torch.zeros(0, dtype=torch.int64))
    made = make_twins(networks.editor, codes, none, torch.zeros(0, N, dtype=torch.int64))
    assert len(none) == 0
    assert made.signal.shape == (0, 8, 1000)
    assert made.median.shape == (0, 8, N * STRIDE)
    assert made.gate.shape == (0, N)
    assert made.envelope.shape == (0, 1000)


def test_making_twins_needs_no_gradient_and_changes_no_patient(
    networks: Networks, codes: Tensor, patients: Patients
) -> None:
    before, symbols = patients.signal.clone(), some_symbols()
    made = make_twins(networks.editor, codes, patients, symbols)
    assert not any(getattr(made, item.name).requires_grad for item in fields(Twins))
    made.signal.zero_()
    assert torch.equal(patients.signal, before)
    assert torch.equal(symbols, some_symbols())


# --- requests --------------------------------------------------------------------------------------------------------


ASKED = [["IMI"], ["NORM"], ["CLBBB", "IMI"], [], ["IMI"], ["LVH"]]


def ask(networks: Networks, patients: Patients, config: Config, asked: list[list[str]], seed: int = 0) -> Twins:
    codes = initial_codebook(config.codebook, beat_tokens(config), 0)["codes"]
    return request_twins(networks, codes, patients, asked, config, 1.0, rng(seed))


def test_asking_for_norm_or_for_nothing_changes_nothing(networks: Networks, patients: Patients, tiny: Config) -> None:
    made = ask(networks, patients, tiny, ASKED)
    assert_unchanged(made, patients, [1, 3, FLAT])
    assert bool(made.gate.any(dim=1)[[0, 2, 5]].all())


def test_the_generator_decides_and_nothing_else(networks: Networks, patients: Patients, tiny: Config) -> None:
    torch.manual_seed(1)
    first = ask(networks, patients, tiny, ASKED)
    torch.manual_seed(2)
    again, other = ask(networks, patients, tiny, ASKED), ask(networks, patients, tiny, ASKED, seed=1)
    for item in fields(Twins):
        assert torch.equal(getattr(first, item.name), getattr(again, item.name))
    assert not torch.equal(first.gate, other.gate)
    assert not torch.equal(first.signal, other.signal)


def test_what_is_asked_for_and_who_is_asked_reach_the_prior_network(patients: Patients, tiny: Config) -> None:
    networks = loud(make_networks(tiny, 0))
    with torch.no_grad():
        networks.prior.statements.attention.out.weight.mul_(30.0)
        networks.prior.patient.weight.mul_(10.0)
    made = [ask(networks, patients, tiny, [[code]] * 6).signal for code in ("IMI", "CLBBB")]
    assert not torch.equal(made[0], made[1])
    older = Patients(patients.signal, patients.beats, patients.input.take(torch.arange(6)), 100)
    older.input.covariates[:, 1] += 1.0
    assert not torch.equal(ask(networks, older, tiny, [["IMI"]] * 6).signal, made[0])


def test_at_500_hz_twins_are_made_alike(patients: Patients, tiny: Config) -> None:
    tiny.data.sampling_rate, tiny.separator.stride = 500, 20
    signal = torch.from_numpy(resample(patients.signal.numpy(), 5000, axis=-1).astype(np.float32))
    fast = Patients.of(signal, np.full(6, 60.0), np.zeros(6), 20, 500)
    assert fast.beats.found().tolist() == patients.beats.found().tolist()
    networks = loud(make_networks(tiny, 0))
    made = ask(networks, fast, tiny, ASKED)
    assert made.signal.shape == (6, 8, 5000)
    assert made.median.shape == (6, 8, 480)
    assert made.gate.shape == (6, 24)
    outside = (made.envelope == 0)[:, None].expand_as(made.signal)
    assert torch.equal(made.signal[outside], signal[outside])
    assert float((made.signal - signal).abs().amax(dim=(1, 2))[[0, 2, 5]].min()) > 0.05
    assert_unchanged(made, fast, [1, 3, FLAT])


# --- patients and pictures -------------------------------------------------------------------------------------------


def test_patients_are_taken_with_their_beats(patients: Patients) -> None:
    rows = torch.tensor([5, 2, 5])
    taken = patients.take(rows)
    assert (len(patients), len(taken)) == (6, 3)
    assert torch.equal(taken.signal, patients.signal[rows])
    assert torch.equal(taken.input.covariates, patients.input.covariates[rows])
    np.testing.assert_array_equal(taken.beats.position, patients.beats.position[rows.numpy()])
    assert taken.sampling_rate == 100


def test_the_gate_over_time_is_the_envelopes_highest_point_in_each_token(twins: Twins) -> None:
    gate = twins.gate_over_time(STRIDE)
    assert gate.shape == (6, 250)
    for row in range(6):
        for n in range(0, 250, 7):
            assert gate[row, n] == twins.envelope[row, n * STRIDE : (n + 1) * STRIDE].max()


def test_the_editor_decides_what_a_code_looks_like(
    networks: Networks, codes: Tensor, patients: Patients, twins: Twins, tiny: Config
) -> None:
    other: Editor = loud(make_networks(tiny, 1)).editor
    assert not torch.equal(make_twins(other, codes, patients, some_symbols()).signal, twins.signal)
    assert not torch.equal(make_twins(networks.editor, codes.roll(1, 0), patients, some_symbols()).signal, twins.signal)
