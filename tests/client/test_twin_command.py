"""``lavq twin`` as a user meets it: all kinds of requests and ECGs, and what lies in the folder afterwards."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client.commands import twin
from lavq_core.cli.main import main
from lavq_core.config import compose
from lavq_core.data.labels import diagnostic_statements
from lavq_core.data.records import Ecg, read_record, write_record
from lavq_core.formats.reading import read_usable
from lavq_core.models.networks import make_networks
from lavq_core.models.stored import save_private
from lavq_core.plots.files import PNG_DPI
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import INDEPENDENT_LEADS, einthoven_residual, to_independent
from lavq_core.signals.rpeaks import find_r_peaks
from lavq_core.twins.made import code_of

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "simulations" / "sample" / "records100" / "00000" / "00059_lr"
SMALL = ["detector.width=8", "detector.blocks=1", "separator.width=16", "separator.blocks=1", "codebook.size=6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, finished_run: Callable[..., Path]) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "twins"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be drawn: pictures take long."""
    pages: list[dict[str, Any]] = []

    def draw(signal: np.ndarray, rate: float, **options: Any) -> None:
        pages.append({"signal": signal, "rate": rate, **options})

    monkeypatch.setattr("lavq_core.plots.draw_ecg", draw)
    monkeypatch.setattr("lavq_core.plots.save_figure", lambda figure, path: path)
    return pages


@pytest.fixture
def ask(run: Path, out: Path, drawn: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Ask for one twin; what the command says."""

    def asked(disease: str, *more: object, record: Path = RECORD, run: Path = run, fails: bool = False) -> str:
        arguments = ["twin", "--run", run, record, "--disease", disease, "--count", 1, "--out", out]
        arguments += ["--name", record.stem, *more]
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        if not fails:
            assert status == 0, said
            return said
        assert status == 2
        lines = [line for line in said.strip().splitlines() if "━" not in line]  # but for the progress bar
        assert len(lines) == 1, said
        assert lines[0].startswith("lavq: ")
        assert not out.exists()
        return lines[0]

    return asked


def stored(out: Path, stem: str) -> np.ndarray:
    """A written record's 8 independent leads, mV."""
    return to_independent(read_record(out / stem).signal)


def original() -> np.ndarray:
    return to_independent(read_record(RECORD).signal)


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """Write a changed copy of the record: ``change`` maps its (12, T) mV to others, at ``rate`` Hz."""

    def make(change: Callable[[np.ndarray], np.ndarray], rate: float = 100.0) -> Path:
        ecg = read_record(RECORD)
        return write_record(tmp_path / "given", Ecg("given", change(ecg.signal), rate, ecg.present)).with_suffix("")

    return make


# --- requests --------------------------------------------------------------------------------------------------------


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


# --- ECGs ------------------------------------------------------------------------------------------------------------


def test_an_ecg_that_does_not_read_as_normal_is_noted(
    ask: Callable[..., str], tmp_path: Path, finished_run: Callable[..., Path]
) -> None:
    sick = finished_run(tmp_path / "run", healthy=False)
    assert "note: this ECG does not read as NORM" in ask("IMI", run=sick)
    assert "note" not in ask("IMI")
    assert "note" not in ask("NORM", run=sick)  # nothing is added


def test_a_faster_recording_is_resampled_and_a_slower_one_refused(
    ask: Callable[..., str], altered: Callable[..., Path], out: Path
) -> None:
    assert "sampled at 50 Hz where 100 Hz or more is needed" in ask(
        "IMI", record=altered(lambda signal: signal[:, ::2], 50.0), fails=True
    )
    said = ask("IMI", record=altered(lambda signal: np.repeat(signal, 5, axis=1), 500.0))
    assert "note: resampled from 500 Hz to 100 Hz" in said
    assert read_record(out / "given_IMI_01").sampling_rate == 100


def test_a_run_at_500_hz_makes_twins_at_500_hz(
    ask: Callable[..., str], altered: Callable[..., Path], tmp_path: Path, out: Path, finished_run: Callable[..., Path]
) -> None:
    def finer(signal: np.ndarray) -> np.ndarray:
        whole = np.arange(signal.shape[1])
        return np.stack([np.interp(np.arange(5 * len(whole)) / 5, whole, lead) for lead in signal])

    fast = finished_run(tmp_path / "run", "data.sampling_rate=500", "separator.stride=20")
    ask("IMI", record=altered(finer, 500.0), run=fast)
    made = read_record(out / "given_IMI_01")
    assert made.signal.shape == (12, 5000)
    assert made.sampling_rate == 500


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda signal: np.where(np.arange(12)[:, None] == 8, 0.01, signal), "flat lead V3"),
        (lambda signal: np.random.default_rng(0).normal(0, 0.5, signal.shape), "no plausible R peaks"),
        (lambda signal: np.where(np.arange(12)[:, None] == 6, np.nan, signal), "NaN in V1"),
        (lambda signal: 15 / np.abs(signal).max() * signal, "amplitude 15.0 mV"),
    ],
    ids=["flat", "noise", "hole", "unit"],
)
def test_an_ecg_that_cannot_be_used_is_refused_with_the_reason(
    ask: Callable[..., str],
    altered: Callable[..., Path],
    change: Callable[[np.ndarray], np.ndarray],
    reason: str,
) -> None:
    line = ask("IMI", record=altered(change), fails=True)
    assert "record given is rejected" in line
    assert reason in line
    assert "give another recording" in line


def test_9_seconds_are_enough_and_5_are_not(ask: Callable[..., str], altered: Callable[..., Path], out: Path) -> None:
    line = ask("IMI", record=altered(lambda signal: signal[:, :500]), fails=True)
    assert "record given is 5 s long, 9 s or more are needed: give a longer recording" in line
    said = ask("IMI", record=altered(lambda signal: signal[:, :923]))
    assert "note: 9.2 s long, the models were trained on 10 s" in said
    assert read_record(out / "given_IMI_01").signal.shape == (12, 920)


def test_beats_of_many_shapes_are_refused(
    ask: Callable[..., str], altered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_beat_another(signal: np.ndarray) -> np.ndarray:
        rng, changed = np.random.default_rng(0), signal.copy()
        for peak in find_r_peaks(to_independent(signal), 100):
            around = slice(max(0, peak - 30), peak + 30)
            changed[:, around] += 1.5 * rng.normal(size=(12, 1)) * np.hanning(changed[0, around].size)
            changed[:, around] *= rng.choice([-1.0, 1.0], size=(12, 1))
        return changed

    record = altered(every_beat_another)
    read_usable(record, 100)  # the quality gate lets it through
    line = ask("IMI", record=record, fails=True)
    assert "record given has fewer than three beats of one shape: a twin needs a regular ECG" in line


def test_eight_leads_are_enough(ask: Callable[..., str], tmp_path: Path, out: Path) -> None:
    import wfdb

    digital = np.round(1000 * original().astype(np.float64)).astype(np.int64).T  # (T, 8)
    names = list(INDEPENDENT_LEADS)
    wfdb.wrsamp(
        "eight", 100, ["mV"] * 8, names, d_signal=digital, fmt=["16"] * 8, adc_gain=[1e3] * 8, baseline=[0] * 8,
        write_dir=str(tmp_path),
    )  # fmt: skip
    ask("IMI", record=tmp_path / "eight")
    ask("IMI")
    assert read_record(out / "eight_IMI_01").signal.shape == (12, 1000)
    assert np.array_equal(stored(out, "eight_IMI_01"), stored(out, "00059_lr_IMI_01"))


def test_the_limb_leads_in_one_lead_are_too_few(ask: Callable[..., str], tmp_path: Path) -> None:
    header = RECORD.with_suffix(".hea").read_text().replace(" V6", " V7")
    (tmp_path / f"{RECORD.name}.hea").write_text(header)
    (tmp_path / f"{RECORD.name}.dat").write_bytes(RECORD.with_suffix(".dat").read_bytes())
    assert "lacks lead V6" in ask("IMI", record=tmp_path / RECORD.name, fails=True)


def test_a_record_that_is_not_there_is_named(ask: Callable[..., str], tmp_path: Path) -> None:
    assert f"no record at {tmp_path / 'x'}" in ask("IMI", record=tmp_path / "x", fails=True)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_an_unknown_site_is_refused_with_those_there_are(
    ask: Callable[..., str], tmp_path: Path, finished_run: Callable[..., Path]
) -> None:
    two = finished_run(tmp_path / "run", sites=("rest", "site-0"))
    assert "unknown site 'site-9': choose one of rest, site-0" in ask("IMI", "--site", "site-9", run=two, fails=True)
    assert "networks of site-0" in ask("IMI", "--site", "site-0", run=two)
    assert "networks of rest" in ask("IMI", run=two)


def test_what_was_shared_comes_from_the_final_model_and_the_rest_from_the_site(
    ask: Callable[..., str], tmp_path: Path, out: Path, finished_run: Callable[..., Path]
) -> None:
    for share in ("[]", "[editor]"):
        folder = finished_run(tmp_path / share, f"federation.share={share}")
        ours = make_networks(compose(SMALL), 0)
        with torch.no_grad():
            ours.editor.paint.weight.zero_()  # a site's own editor that draws its bias only
            ours.editor.paint.bias.zero_()
        save_private(RunFolder(folder).site("site-0").private_model, ours, 1)
        ask("IMI", "--out", out / share, run=folder)
    assert np.array_equal(stored(out / "[]", "00059_lr_IMI_01"), original())
    assert not np.array_equal(stored(out / "[editor]", "00059_lr_IMI_01"), original())


def test_the_examples_in_the_help_name_a_record_that_is_there() -> None:
    words = shlex.split(twin.EXAMPLE.splitlines()[0])
    (record,) = [word for word in words if word.startswith("simulations/")]
    assert (ROOT / record).with_suffix(".hea").is_file()


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_shows_the_twin_over_its_reference_with_the_edit_shaded(
    ask: Callable[..., str], drawn: list[dict[str, Any]]
) -> None:
    ask("IMI")
    (page,) = drawn
    assert page["synthetic"] is True
    np.testing.assert_array_equal(to_independent(page["reference"]), original())
    same = (page["signal"] == page["reference"]).all(axis=0)
    assert same[page["envelope"] == 0].all()
    assert not same[page["envelope"] > 0.5].all()
    assert page["gate"].shape == (250,)
    assert page["title"].startswith("00059_lr with IMI   \u00b7   detector: MI 0.")


def test_a_title_leaves_room_for_the_mark(ask: Callable[..., str], drawn: list[dict[str, Any]]) -> None:
    """Longer ones would run into the word SYNTHETIC."""
    ask("IMI+LAFB+NDT+LVH")
    ask("IMI+LAFB", "--rate", 0.95, "--age", 71, "--sex", "female")
    assert [page["title"] for page in drawn] == [
        "00059_lr with NDT+IMI+LVH+LAFB",
        "00059_lr with IMI+LAFB, heart rate times 0.95",
    ]
