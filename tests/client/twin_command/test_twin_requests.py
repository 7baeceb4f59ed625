"""``lavq twin``: all kinds of requests, and what lies in the folder afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavq_core.cli.main import main
from lavq_core.data.labels import diagnostic_statements
from lavq_core.data.records import read_record
from lavq_core.formats.reading import read_usable
from lavq_core.plots.files import PNG_DPI
from lavq_core.signals.leads import einthoven_residual, to_independent
from lavq_core.signals.rpeaks import find_r_peaks
from lavq_core.twins.made import code_of
from tests.client.twin_command.ecgs import RECORD, original, stored


def test_each_twin_is_a_record_and_a_picture_that_say_synthetic(run: Path, out: Path) -> None:
    arguments = ["twin", "--run", run, RECORD, "--disease", "IMI", "--count", 2, "--out", out]
    assert main([str(argument) for argument in arguments]) == 0
    code = code_of(read_usable(RECORD, 100))
    assert sorted(path.name for path in out.iterdir()) == [
        f"{code}_IMI_0{i}.{suffix}" for i in (1, 2) for suffix in ("dat", "hea", "png")
    ]
    header = (out / f"{code}_IMI_01.hea").read_text()
    assert f"# SYNTHETIC: digital twin of {code} with IMI, strength 1, seed 0" in header
    assert "# research use, not a medical device" in header
    assert "00059" not in header
    with Image.open(out / f"{code}_IMI_01.png") as picture:
        assert picture.size[0] / PNG_DPI > 10  # inches: 10 s at 25 mm/s


def test_a_code_is_of_the_samples_alone() -> None:
    ecg = read_record(RECORD)
    assert code_of(replace(ecg, name="Muster, Erika")) == code_of(ecg)
    assert code_of(replace(ecg, signal=-ecg.signal)) != code_of(ecg)


def test_a_twin_is_a_12_lead_ecg_that_obeys_einthoven_and_keeps_the_heart_rate(
    ask: Callable[..., str], out: Path
) -> None:
    ask("IMI")
    made = read_record(out / "00059_lr_IMI_01")
    assert made.signal.shape == (12, 1000)
    assert made.sampling_rate == 100
    assert made.present.all()
    assert float(einthoven_residual(made.signal)) <= 0.002  # mV: three leads are rounded to 1 uV
    assert not np.array_equal(to_independent(made.signal), original())
    before, after = (find_r_peaks(signal, 100) for signal in (original(), to_independent(made.signal)))
    assert len(before) == len(after)


def test_norm_changes_nothing(ask: Callable[..., str], out: Path) -> None:
    said = ask("NORM")
    assert np.array_equal(stored(out, "00059_lr_NORM_01"), original())
    assert "note" not in said


def test_a_dose_of_0_changes_nothing_and_half_a_dose_half_as_much(ask: Callable[..., str], out: Path) -> None:
    for strength in (0, 0.5, 1):
        ask("IMI", "--strength", strength, "--out", out / str(strength))
    none, half, whole = (stored(out / str(strength), "00059_lr_IMI_01") - original() for strength in (0, 0.5, 1))
    assert not none.any()
    np.testing.assert_allclose(half, whole / 2, atol=0.0011)  # rounded to 1 uV


@pytest.mark.parametrize("disease", ["MI", "mi"])
def test_of_a_superclass_the_statements_that_the_federation_has_seen_are_drawn(
    ask: Callable[..., str], out: Path, disease: str
) -> None:
    said = ask(disease, "--count", 8)
    headers = [path.read_text() for path in sorted(out.glob("00059_lr_MI_0*.hea"))]
    drawn = [next(code for code in diagnostic_statements() if f"with {code}," in text) for text in headers]
    assert len(drawn) == 8
    assert set(drawn) == {"IMI", "ASMI"}
    for code in set(drawn):
        assert f"{drawn.count(code)} with {code}" in said
    assert "detector's MI: " in said


def test_statements_are_joined_and_every_superclass_of_theirs_is_read(ask: Callable[..., str], out: Path) -> None:
    said = ask("lafb + IMI")
    assert (out / "00059_lr_IMI-LAFB_01.hea").is_file()  # WFDB takes no plus sign
    assert "with IMI+LAFB," in (out / "00059_lr_IMI-LAFB_01.hea").read_text()
    assert "detector's MI: " in said
    assert "detector's CD: " in said


def test_a_name_that_no_file_can_have_is_changed(ask: Callable[..., str], out: Path) -> None:
    ask("LAO/LAE")
    assert (out / "00059_lr_LAO-LAE_01.hea").is_file()


def test_a_statement_of_form_alone_has_no_superclass_to_read(ask: Callable[..., str]) -> None:
    assert "detector's NORM: " in ask("LOWT")


def test_a_diagnosis_that_no_record_had_is_noted(ask: Callable[..., str]) -> None:
    assert "note: this federation has seen no record with LVH" in ask("LVH+IMI")
    assert "note" not in ask("IMI+LOWT")


def test_a_superclass_that_no_record_had_is_refused(ask: Callable[..., str]) -> None:
    line = ask("HYP", fails=True)
    assert "this federation has seen no record with HYP: ask for one of its statements" in line


@pytest.mark.parametrize(
    ("disease", "reason"),
    [
        ("AFIB", "AFIB (atrial fibrillation) is a rhythm: a twin keeps the patient's own R peaks"),
        ("PACE", "is a rhythm"),
        ("PVC", "is a beat out of turn"),
        ("3AVB", "has P waves without their QRS"),
        ("FLU", "unknown disease 'FLU': choose one of MI, STTC, CD, HYP"),
        ("CLBB", "did you mean CLBBB"),
        ("MI+CD", "MI is a superclass: ask for it alone"),
        ("NORM+IMI", "NORM means that nothing changes"),
        ("IMI+", "statements joined with '+'"),
    ],
)
def test_what_a_twin_cannot_show_is_refused_with_the_reason(ask: Callable[..., str], disease: str, reason: str) -> None:
    assert reason in ask(disease, fails=True)


def test_another_seed_gives_another_twin_and_the_same_seed_the_same(ask: Callable[..., str], out: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        ask("IMI", "--seed", seed, "--out", out / folder)
    first, again, other = (stored(out / folder, "00059_lr_IMI_01") for folder in ("a", "b", "c"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_twins_of_one_request_differ(ask: Callable[..., str], out: Path) -> None:
    ask("IMI", "--count", 2)
    assert not np.array_equal(stored(out, "00059_lr_IMI_01"), stored(out, "00059_lr_IMI_02"))


def test_age_and_sex_count_and_are_written_down(ask: Callable[..., str], out: Path) -> None:
    ask("IMI", "--out", out / "unknown")
    ask("IMI", "--age", 71, "--sex", "female", "--out", out / "told")
    assert not np.array_equal(stored(out / "unknown", "00059_lr_IMI_01"), stored(out / "told", "00059_lr_IMI_01"))
    header = (out / "told" / "00059_lr_IMI_01.hea").read_text().splitlines()
    assert {"# age 71", "# female"} <= set(header)
    assert "age" not in (out / "unknown" / "00059_lr_IMI_01.hea").read_text()


def test_another_heart_rate_is_a_condition_of_its_own(ask: Callable[..., str], out: Path) -> None:
    ask("NORM", "--rate", 0.9)
    before, after = (find_r_peaks(signal, 100) for signal in (original(), stored(out, "00059_lr_NORM_01")))
    assert np.median(np.diff(after)) == pytest.approx(np.median(np.diff(before)) / 0.9, abs=1.0)
    assert "# heart rate times 0.9" in (out / "00059_lr_NORM_01.hea").read_text()


def test_a_heart_rate_that_the_record_does_not_give_is_refused_with_those_it_gives(
    ask: Callable[..., str],
) -> None:
    line = ask("IMI", "--rate", 3, fails=True)
    slow, fast = map(float, line.split("can be ")[1].split(":")[0].split(" to "))
    assert 0.5 < slow < 1.0 < fast < 2.0
    for factor in (slow, fast):
        ask("NORM", "--rate", factor)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--count", 0),
        ("--strength", 2),
        ("--strength", "nan"),
        ("--rate", 0),
        ("--rate", "nan"),
        ("--age", -3),
        ("--seed", 10**20),
        ("--name", "Muster, Erika"),
    ],
)
def test_a_number_out_of_range_is_named(ask: Callable[..., str], option: str, value: object) -> None:
    assert option in ask("IMI", option, value, fails=True)
