"""ECG files of any format through the commands: what comes out, what is said, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from client.commands import personalize
from lavq_core.cli.main import main
from lavq_core.config import compose, save_config
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.data.records import Ecg, read_record, write_record
from lavq_core.formats.reading import read_ecg
from lavq_core.models.networks import make_networks
from lavq_core.models.stored import save_private
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import LEADS, to_independent
from server.app import initial_model
from tests.ecg_files import EIGHT, PATIENT, write_edf, write_muse, write_vendor_dicom

SAMPLE = Path(__file__).resolve().parents[2] / "simulations/sample/records100"
RECORD = SAMPLE / "00000" / "00059_lr"
SMALL = ["detector.width=8", "detector.blocks=1", "separator.width=16", "separator.blocks=1", "codebook.size=6"]
FAST = ["personal.steps=1", "personal.twins=1"]
CLASSES = list(SUPERCLASSES)
TOLD = ("--sampling-rate", 100, "--unit", "mV")


def made_run(folder: Path, *overrides: str) -> Path:
    config = compose([*SMALL, *FAST, *overrides])
    model = initial_model(config)
    model.codebook["requests"][1, diagnostic_statements().index("IMI")] = 1.0
    networks = make_networks(config, 0)
    model.networks.update(networks.shared(config.federation.share))
    run = RunFolder(folder)
    save_config(config, run.config)
    save_artefact(run.model, model.parts(), {"classes": CLASSES})
    save_private(run.site("site-0").private_model, networks, 1)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take long and have tests of their own."""
    monkeypatch.setattr("lavq_core.plots.draw_ecg", lambda *_, **__: None)
    monkeypatch.setattr("lavq_core.plots.save_figure", lambda figure, path: path)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed, or with ``fails`` end in one line; what it says."""

    def called(*arguments: object, fails: bool = False) -> str:
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert status == (2 if fails else 0), said
        lines = [line for line in said.strip().splitlines() if "━" not in line]  # but for the progress bar
        assert not fails or len(lines) == 1
        return "\n".join(lines)

    return called


def signal() -> np.ndarray:
    """(12, 1000) mV."""
    return read_record(RECORD).signal


def csv(path: Path, rows: np.ndarray, names: tuple[str, ...] = LEADS) -> Path:
    np.savetxt(path, rows.T, fmt="%.6f", delimiter=",", header=",".join(names), comments="")
    return path


def write(folder: Path, kind: str, x: np.ndarray) -> Path:
    match kind:
        case "muse":
            return write_muse(folder / "ecg.xml", to_independent(x), EIGHT, rate=100)
        case "edf":
            return write_edf(folder / "ecg.edf", x, LEADS, rate=100, annotations=True)
        case "dicom":
            return write_vendor_dicom(folder / "ecg.dcm", x, LEADS, rate=100)
        case _:
            return csv(folder / "ecg.csv", x)


@pytest.mark.parametrize("kind", ["muse", "edf", "dicom", "csv"])
def test_detect_scores_every_format_as_the_wfdb_record(
    run: Path, tmp_path: Path, call: Callable[..., str], kind: str
) -> None:
    path = write(tmp_path, kind, signal())
    call("detect", "--run", run, path, *(TOLD if kind == "csv" else ()), "--out", tmp_path / "other.csv")
    call("detect", "--run", run, RECORD, "--out", tmp_path / "wfdb.csv")
    other, wfdb = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("other", "wfdb"))
    assert list(other["record"]) == ["ecg"]
    np.testing.assert_allclose(other[CLASSES], wfdb[CLASSES], atol=0.002)


def test_detect_takes_files_of_several_formats_rates_and_lengths_and_names_the_bad_ones(
    run: Path, tmp_path: Path, call: Callable[..., str]
) -> None:
    fine = np.repeat(signal(), 5, axis=1)
    good = write_vendor_dicom(tmp_path / "a.dcm", np.tile(fine, 6), LEADS)
    short = write_muse(tmp_path / "b.xml", to_independent(fine)[:, :4600], EIGHT)
    bad = tmp_path / "c.dcm"
    bad.write_bytes(b"%PDF-1.7")
    said = call("detect", "--run", run, good, short, bad, RECORD, "--out", tmp_path / "p.csv")
    assert list(pd.read_csv(tmp_path / "p.csv")["record"]) == ["a", "b", RECORD.name]
    assert "note: a: resampled from 500 Hz to 100 Hz" in said
    assert "note: a: 0 to 10 s of 60 s are used" in said
    assert "note: b: 9.2 s long" in said
    assert f"left out {bad}: {bad} is a PDF document" in said
    other = call("detect", "--run", run, good, "--start", 20, "--out", tmp_path / "q.csv")
    assert "note: a: 20 to 30 s of 60 s are used" in other


def test_a_missing_chest_lead_is_blank_only_where_the_detector_was_trained_so(
    run: Path, tmp_path: Path, call: Callable[..., str]
) -> None:
    rows = [i for i in range(12) if LEADS[i] != "V3"]
    path = csv(tmp_path / "ecg.csv", signal()[rows], tuple(LEADS[i] for i in rows))
    assert "V3 missing: read as a blank lead" in call("detect", "--run", run, path, *TOLD, "--out", tmp_path / "p.csv")
    without = made_run(tmp_path / "run", "detector_training.lead_dropout=0")
    for command, more in (("detect", []), ("twin", ["--disease", "IMI"]), ("personalize", [])):
        which = without if command == "detect" else run  # twins need every chest lead, however the detector was trained
        line = call(command, "--run", which, path, *TOLD, *more, "--out", tmp_path / "out", fails=True)
        assert "lacks lead V3" in line
        assert not (tmp_path / "out").exists()


def test_a_twin_of_a_dicom_as_a_dicom_names_no_patient_and_says_synthetic(
    run: Path, tmp_path: Path, call: Callable[..., str]
) -> None:
    given = write_vendor_dicom(tmp_path / "Doe_Jane_1950", signal(), LEADS, rate=100)
    out = tmp_path / "twins" / "twin.dcm"
    call("twin", "--run", run, given, "--disease", "IMI", "--out", out)
    assert [path.name for path in out.parent.iterdir()] == ["twin.dcm"]
    assert not any(word.encode() in out.read_bytes() for word in (*PATIENT, "Doe", "Jane", "1950"))
    dataset = pydicom.dcmread(out)
    assert dataset.SyntheticData == "YES"
    note = dataset.WaveformAnnotationSequence[0].UnformattedTextValue
    assert re.fullmatch(r"SYNTHETIC: digital twin of ecg-[0-9a-f]{8} with IMI, strength 1, seed 0", note)
    said = call("detect", "--run", run, out, "--out", tmp_path / "p.csv")
    assert "note: twin: SYNTHETIC: the file says that it is no recording" in said


def test_twins_are_the_same_in_both_formats(run: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    for form in ("wfdb", "dicom"):
        more = ["--disease", "IMI", "--count", 2, "--name", "59", "--format", form]
        call("twin", "--run", run, RECORD, *more, "--out", tmp_path / form)
    assert sorted(p.name for p in (tmp_path / "dicom").iterdir()) == [f"59_IMI_0{i}.dcm" for i in (1, 2)]
    for i in (1, 2):
        first, second = (tmp_path / f"wfdb/59_IMI_0{i}.hea", tmp_path / f"dicom/59_IMI_0{i}.dcm")
        np.testing.assert_array_equal(read_ecg(first).signal, read_ecg(second).signal)


def test_several_twins_need_a_folder(run: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    out = tmp_path / "x.dcm"
    line = call("twin", "--run", run, RECORD, "--disease", "IMI", "--count", 3, "--out", out, fails=True)
    assert "is one file and --count 3 asks for several" in line
    assert not out.exists()


def test_personalize_takes_any_format(
    run: Path, tmp_path: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personalize, "_SEEDS", 1)
    call("personalize", "--run", run, write(tmp_path, "muse", signal()), "--out", tmp_path / "patient")
    assert load_artefact(tmp_path / "patient")[1]["ecg"].startswith("ecg-")


def test_convert_drops_the_patient_and_keeps_rate_and_length(tmp_path: Path, call: Callable[..., str]) -> None:
    given = write_muse(tmp_path / "a.xml", to_independent(np.tile(signal(), 2)), EIGHT, rate=500)
    said = call("convert", given, "--out", tmp_path / "b.hea")
    assert "III, aVR, aVL, aVF computed from I and II" in said
    assert "12 leads, 500 Hz, 4 s; nothing about the patient" in said
    np.testing.assert_allclose(read_record(tmp_path / "b").signal, read_ecg(given).signal, atol=0.00051)
    for file in (tmp_path / "b.hea", tmp_path / "b.dat"):
        assert not any(word.encode() in file.read_bytes() for word in PATIENT)
    assert "end it with .hea or .dcm" in call("convert", given, "--out", tmp_path / "b.edf", fails=True)


def test_convert_draws_an_ecg_on_paper_without_its_name(
    tmp_path: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # a real picture, for once
    given = write_vendor_dicom(tmp_path / "Doe_Jane.dcm", np.tile(signal(), 6), LEADS, rate=100)
    call("convert", given, "--out", tmp_path / "ecg.svg", "--layout", "6x2")
    picture = (tmp_path / "ecg.svg").read_text(encoding="utf-8")
    assert 'width="270mm"' in picture  # 10 s of 60 s
    assert picture.count('class="ecg lead-') == 12
    assert not [word for word in (*PATIENT, "Doe", "Jane") if word in picture]
    assert "no ECG layout '4x3'" in call("convert", given, "--out", tmp_path / "no.svg", "--layout", "4x3", fails=True)
    assert not (tmp_path / "no.svg").exists()


def test_convert_tells_what_is_wrong_with_a_recording(tmp_path: Path, call: Callable[..., str]) -> None:
    flat = csv(tmp_path / "x.csv", np.where(np.arange(12)[:, None] == 8, 0.01, signal()))
    said = call("convert", flat, *TOLD, "--out", tmp_path / "x.dcm")
    assert "note: as it was recorded: flat lead V3; detections and twins are refused" in said
    assert "as it was recorded" not in call(
        "convert", csv(tmp_path / "y.csv", signal()), *TOLD, "--out", tmp_path / "y.hea"
    )


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda folder: csv(folder / "x.csv", signal()[:1], ("I",)), "lacks lead II"),
        (lambda folder: csv(folder / "x.csv", 1000 * signal()), "microvolts given as millivolts"),
        (lambda folder: csv(folder / "x.csv", signal()[:, :800]), "8 s long, 9 s or more are needed"),
        (lambda folder: csv(folder / "x.csv", np.where(np.arange(12)[:, None] == 6, np.nan, signal())), "NaN in V1"),
        (lambda folder: csv(folder / "x.csv", 0 * signal()), "flat lead I"),
        (lambda folder: write_record(folder, Ecg("x", signal(), 50.0, np.ones(12, bool))), "sampled at 50 Hz"),
        (lambda folder: (folder / "x.dcm").write_bytes(b"%PDF-1.7") and folder / "x.dcm", "is a PDF document"),
    ],
)
@pytest.mark.parametrize("command", ["detect", "twin"])
def test_a_bad_file_ends_in_one_line_and_writes_nothing(
    run: Path,
    tmp_path: Path,
    call: Callable[..., str],
    command: str,
    spoil: Callable[[Path], Path],
    match: str,
) -> None:
    path, out = spoil(tmp_path), tmp_path / "out"
    more = ["--disease", "IMI"] if command == "twin" else []
    assert match in call(command, "--run", run, path, *TOLD, *more, "--out", out, fails=True)
    assert not out.exists()


def test_what_a_database_says_itself_is_not_told_again(run: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    database = SAMPLE.parent
    line = call("detect", "--run", run, "--database", database, *TOLD, "--out", tmp_path / "p.csv", fails=True)
    assert "leave out --sampling-rate, --unit, --leads and --start" in line
