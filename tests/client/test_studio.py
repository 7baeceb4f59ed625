"""The twin studio: the command as it is started, its page in a real browser, and what the server refuses."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from client.studio.library import Library
from client.studio.uploads import MOST_BYTES, unpacked
from lavq_core.cli.main import main
from lavq_core.errors import DataError, LavqError
from lavq_core.formats.reading import read_ecg, read_usable
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from lavq_core.twins.made import code_of
from simulations import sample
from tests.pages import faults_of

RECORD = sample.FOLDER / "records100" / "00000" / "00059_lr"
KEY = "records100/00000/00059_lr"
WFDB = [str(RECORD.with_suffix(suffix)) for suffix in (".hea", ".dat")]


def upload(*names_and_contents: tuple[str, bytes]) -> list[dict[str, str]]:
    return [{"name": name, "data": base64.b64encode(content).decode()} for name, content in names_and_contents]


def record_files(name: str = RECORD.name) -> list[tuple[str, bytes]]:
    return [(f"{name}{suffix}", RECORD.with_suffix(suffix).read_bytes()) for suffix in (".hea", ".dat")]


# --- the command, started -------------------------------------------------------------------------------------------


@dataclass
class Started:
    """A studio that runs."""

    address: str
    port: int
    token: str

    def post(self, path: str, body: bytes = b"{}", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"x-lavq-token": self.token, "content-type": "application/json"}
        connection.request("POST", path, body, given | {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def ask(self, name: str, **body: Any) -> tuple[int, Any]:
        status, _, content = self.post(f"/api/{name}", json.dumps(body).encode())
        return status, json.loads(content)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, finished_run: Callable[..., Path]) -> Path:
    """A finished run with a calibration that halves every logit."""
    folder = RunFolder(finished_run(tmp_path_factory.mktemp("run") / "first"))
    digest = detector_digest(load_shared_model(folder).detector.state_dict())
    Calibration((2.0,) * 5, (0.5,) * 5, (0.5,) * 5, 0.9, 9, 76, "four sites", digest).save(folder.calibration)
    return folder.root


@pytest.fixture(scope="module")
def studio(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    own = tmp_path_factory.mktemp("own")
    for name, content in record_files():
        (own / name).write_bytes(content)
    command = [sys.executable, "-c", "import sys; from lavq_core.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    process = subprocess.Popen(
        [*command, "studio", str(run), "--folder", str(own), "--no-browser"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)/#(\S+)", line)
        if found:
            yield Started(found[0], int(found[1]), found[2])
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0, "".join(lines)
    assert "Traceback" not in process.stderr.read()


@pytest.fixture
def page(studio: Started, open_page: Callable[..., Page]) -> Page:
    found = open_page(studio.address)
    expect(found.locator("#shown")).to_be_visible()
    return found


# --- the page in a browser ------------------------------------------------------------------------------------------


def test_the_page_shows_a_twin_over_its_original_with_the_detectors_readings(page: Page) -> None:
    assert page.locator("#paper svg .twin").count() == 13
    assert page.locator("#paper svg .reference").count() == 13
    assert page.locator("#paper svg .edited").count() > 0
    assert page.locator("#paper svg .gate").count() == 1
    assert page.locator("#beats svg .twin").count() == 12
    assert page.locator("#paper svg .watermark").count() == 1
    rows = page.locator("#readings tbody tr")
    assert [rows.nth(i).locator("th").inner_text().split()[0] for i in range(5)] == ["NORM", "MI", "STTC", "CD", "HYP"]
    assert "Calibrated on fold 9 of four sites (76 records)" in page.inner_text("#basis")


def test_everybody_can_read_it(page: Page) -> None:
    assert faults_of(page) == []


def test_it_is_worked_from_the_keyboard_alone(page: Page) -> None:
    def tab_to(name: str) -> None:
        for _ in range(25):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id || document.activeElement.value") == name:
                return
        raise AssertionError(f"{name} cannot be reached with the Tab key")

    tab_to("disease")
    page.keyboard.type("CLBBB")
    expect(page.locator("#title")).to_contain_text("with CLBBB")
    tab_to("also")
    page.keyboard.type("LVH")
    expect(page.locator("#title")).to_contain_text("with LVH+CLBBB")
    expect(page.locator("#notes")).to_contain_text("this federation has seen no record with LVH")
    tab_to("strength")
    page.keyboard.press("Home")
    expect(page.locator("#dose")).to_have_text("0.00")
    expect(page.locator("#paper svg .edited")).to_have_count(0)  # a dose of 0 edits nothing
    tab_to("another")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_contain_text("Twin 2 of")
    tab_to("svg")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert re.fullmatch(r"ecg-[0-9a-f]{8}_LVH-CLBBB_01\.svg", download.value.suggested_filename)
    drawn = Path(download.value.path()).read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    assert 'xmlns="http://www.w3.org/2000/svg"' in drawn
    assert "SYNTHETIC" in drawn
    assert "59_lr" not in drawn  # a file's name can be a patient's
    tab_to("dicom")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith("_LVH-CLBBB_01.dcm")


def test_it_fits_a_phone_and_a_tablet_in_light_and_dark(page: Page) -> None:
    for width, dark in ((360, True), (360, False), (800, False), (1400, True)):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme="dark" if dark else "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "[...document.querySelectorAll('button, select, input')].filter(e => e.offsetParent && e.type != 'radio'"
            " && e.getBoundingClientRect().height < 32).map(e => e.id)"
        )
        assert small == []  # everything can be hit with a thumb
        styles = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
        ink, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in styles)
        assert (ink > ground) == dark


def test_a_record_is_found_by_words_and_brings_its_patient(page: Page) -> None:
    page.check("input[value=bundled]")
    page.fill("#search", "59 norm")
    expect(page.locator("#found")).to_contain_text("of 520")
    page.select_option("#record", KEY)
    expect(page.locator("#title")).to_contain_text("00059_lr")
    table = next(line for line in (sample.FOLDER / "ptbxl_database.csv").read_text().splitlines() if "00059_lr" in line)
    assert page.input_value("#age") in re.findall(r"\d+", table)


def test_an_upload_is_read_and_a_wrong_one_told_in_one_line(page: Page, tmp_path: Path) -> None:
    page.check("input[value=upload]")
    expect(page.locator("#state")).to_have_text("Choose a file.")
    page.set_input_files("#upload", WFDB[:1])
    expect(page.locator("#error")).to_have_text("00059_lr.hea names the signal file 00059_lr.dat: choose both together")
    expect(page.locator("#shown")).to_be_hidden()
    page.set_input_files("#upload", WFDB)
    expect(page.locator("#title")).to_contain_text("00059_lr with")
    expect(page.locator("#error")).to_be_hidden()
    huge = tmp_path / "huge.hea"
    with huge.open("wb") as file:
        file.truncate(200_000_000)
    page.set_input_files("#upload", huge)
    expect(page.locator("#error")).to_have_text(
        "200.0 MB were chosen, 10 MB are the most: one ECG of 10 s is smaller than that"
    )


# --- what the server refuses ----------------------------------------------------------------------------------------


def test_without_the_key_nothing_is_told(studio: Started) -> None:
    for token in ("", "wrong", "ünrecht"):
        status, _, content = studio.post("/api/about", x_lavq_token=token.encode("latin-1"))  # type: ignore[arg-type]
        assert status == 403
        assert json.loads(content) == {
            "error": "this address lacks the key of the running command: open the one that it printed"
        }


def test_another_host_name_is_refused(studio: Started) -> None:
    assert studio.post("/api/about", host="evil.example")[0] == 403
    assert studio.post("/api/about", host=f"localhost:{studio.port}")[0] == 200


def test_another_page_cannot_ask_and_this_one_loads_nothing_from_elsewhere(studio: Started) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=60)
    asks = {"origin": "https://evil.example", "access-control-request-headers": "x-lavq-token"}
    connection.request("OPTIONS", "/api/twin", headers=asks | {"access-control-request-method": "POST"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status >= 400
    assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]
    connection.request("GET", "/")
    page = connection.getresponse()
    assert "default-src 'none'" in str(page.getheader("content-security-policy"))
    assert "://" not in page.read().decode().replace("data:,", "")


def test_it_listens_on_this_machine_only(studio: Started) -> None:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [local for _, local, _, state, *_ in rows if state == "0A" and local.endswith(f":{studio.port:04X}")]
    assert listening == [f"0100007F:{studio.port:04X}"]


def test_a_download_is_the_twin_as_a_record_that_can_be_read_again(studio: Started, tmp_path: Path) -> None:
    from lavq_core.data.records import read_record

    asked = {"source": "bundled", "record": KEY, "disease": "IMI", "age": 71, "sex": "female", "seed": 3}
    status, headers, content = studio.post("/api/files", json.dumps(asked).encode())
    assert (status, headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    stem = code_of(read_usable(RECORD, 100)) + "_IMI_01"
    assert names == [f"{stem}.{suffix}" for suffix in ("dat", "hea", "svg")]
    made, original = (read_record(path).signal for path in (tmp_path / stem, RECORD))
    assert made.shape == (12, 1000)
    assert not np.array_equal(made, original)
    header = (tmp_path / f"{stem}.hea").read_text()
    assert f"# SYNTHETIC: digital twin of {stem[:-7]} with IMI, strength 1, seed 3" in header
    assert {"# age 71", "# female"} <= set(header.splitlines())

    status, headers, content = studio.post("/api/files", json.dumps(asked | {"format": "dicom"}).encode())
    assert (status, headers["content-type"]) == (200, "application/dicom")
    (tmp_path / "twin.dcm").write_bytes(content)
    np.testing.assert_array_equal(read_ecg(tmp_path / "twin.dcm").signal, made)


def test_what_is_downloaded_does_not_hold_the_name_of_an_uploaded_file(studio: Started) -> None:
    files = upload(*((name, data.replace(b"00059_lr", b"Muster_Erika")) for name, data in record_files("Muster_Erika")))
    asked = {"source": "upload", "files": files, "disease": "IMI"}
    assert studio.ask("twin", **asked)[1]["name"] == "Muster_Erika"  # on the screen
    for form in ("wfdb", "dicom"):
        _, _, content = studio.post("/api/files", json.dumps(asked | {"format": form}).encode())
        parts = [content]
        if form == "wfdb":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
                assert len(parts) == 4
        assert not [part for part in parts if b"Muster" in part or b"Erika" in part]


def test_probabilities_are_calibrated_and_come_with_their_thresholds(studio: Started, run: Path) -> None:
    from lavq_core.training.detector_training import predict

    status, answer = studio.ask("twin", source="folder", record="00059_lr", disease="IMI")
    assert status == 200
    model = load_shared_model(RunFolder(run))
    raw = predict(model.detector, model.signal(read_usable(RECORD, 100))[None])[0].numpy()
    halved = 1 / (1 + np.exp(-np.log(raw / (1 - raw)) / 2))
    given = [reading["before"] for reading in answer["readings"]]
    np.testing.assert_allclose(given, halved, atol=1e-3)
    assert {reading["threshold"] for reading in answer["readings"]} == {0.5}
    assert [reading["class"] for reading in answer["readings"] if reading["asked"]] == ["MI"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"disease": "AFIB"}, "AFIB (atrial fibrillation) is a rhythm"),
        ({"disease": "HYP"}, "this federation has seen no record with HYP"),
        ({"strength": 2}, "strength must lie between 0 and 1"),
        ({"strength": "much"}, "strength must be a number"),
        ({"seed": float("inf")}, "seed must be a number"),
        ({"sex": "both"}, "sex must be one of"),
        ({"layout": "9x9"}, "layout must be one of"),
        ({"layout": ["3x4+II"]}, "layout must be one of"),
        ({"record": "../../README.md"}, "this ECG is not in the list"),
        ({"record": ["x"]}, "this ECG is not in the list"),
        ({"source": "disk"}, "choose an ECG"),
        ({"source": "upload"}, "choose a file"),
        ({"source": "upload", "files": upload(("a.dcm", b"%PDF-1.7 ..."))}, "a.dcm is a PDF document, not an ECG"),
        ({"source": "upload", "files": upload(("a.csv", b"I,II\n1,2\n"))}, 'give it in the field "Sampling rate"'),
        ({"source": "upload", "files": upload(("a.csv", b"1,2\n")), "leads": 3}, "unit and leads must be text"),
    ],
)
def test_a_wrong_question_gets_one_clear_line(studio: Started, asked: dict[str, Any], reason: str) -> None:
    status, answer = studio.ask("twin", **({"source": "bundled", "record": KEY, "disease": "MI"} | asked))
    assert status == 400
    assert reason in answer["error"]
    assert "\n" not in answer["error"]
    assert "/tmp" not in answer["error"]


def test_what_is_not_json_or_too_long_is_refused(studio: Started) -> None:
    assert "load it again" in json.loads(studio.post("/api/twin", b"[" * 100_000)[2])["error"]
    status, _, content = studio.post("/api/about", b'"' + b"x" * 2_000 + b'"')
    assert status == 400
    assert "were sent" in json.loads(content)["error"]


# --- uploads and folders --------------------------------------------------------------------------------------------


def test_an_upload_lies_on_disk_only_while_it_is_read() -> None:
    with unpacked(upload(*record_files())) as path:
        assert sorted(file.name for file in path.parent.iterdir()) == ["00059_lr.dat", "00059_lr.hea"]
    assert not path.parent.exists()


def test_a_header_that_a_browser_or_a_camera_renamed_is_found() -> None:
    header, signals = record_files()
    with unpacked(upload(("Müller (1).HEA", header[1]), signals)) as path:
        assert path.name == "Müller (1).hea"
        assert path.read_bytes() == header[1]


def test_an_error_names_the_file_and_not_the_folder_where_it_lay() -> None:
    with pytest.raises(LavqError, match=r"^00059_lr is corrupt$"), unpacked(upload(*record_files())) as path:
        raise LavqError(f"{path.with_suffix('')} is corrupt")
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "choose a file"),
        ("x", "choose a file"),
        (["x"], "cannot be read"),
        (upload(*[(f"{i}.hea", b"") for i in range(5)]), "5 files were chosen"),
        (upload(("a.hea", b"a"), ("b.hea", b"b")), "different ECGs"),
        (upload(("a.dat", b"a")), "lacks its header"),
        (upload(("../a.hea", b"a")), "a name that cannot be kept"),
        (upload((".bashrc", b"a")), "a name that cannot be kept"),
        (upload(("a.hea", b"\xff\xfe")), "a.hea is not a WFDB header"),
        ([{"name": "a.hea", "data": "???"}], "arrived damaged"),
        (
            upload(("a.hea", b"a 1 100 1000\n../../etc/passwd 16 1000 16 0 0 0 0 I\n")),
            "names the signal file ../../etc",
        ),
        (upload(("a.hea", bytes(MOST_BYTES + 1))), "more than 10 MB"),
    ],
)
def test_files_that_are_no_ecg_are_refused_before_they_are_written(given: Any, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)), unpacked(given):
        pass


def test_a_csv_is_read_with_what_the_page_tells_of_it(studio: Started) -> None:
    from lavq_core.data.records import read_record
    from lavq_core.signals.leads import LEADS

    rows = "\n".join(",".join(f"{1000 * value:.0f}" for value in sample) for sample in read_record(RECORD).signal.T)
    told = {"sampling_rate": 100, "unit": "uV", "leads": ", ".join(LEADS)}
    status, answer = studio.ask(
        "twin", source="upload", files=upload(("mine.csv", rows.encode())), disease="IMI", **told
    )
    assert status == 200, answer
    assert answer["name"] == "mine"
    _, whole = studio.ask("twin", source="bundled", record=KEY, disease="IMI")
    assert [r["after"] for r in answer["readings"]] == pytest.approx([r["after"] for r in whole["readings"]], abs=1e-3)


def test_a_folder_of_files_is_listed_without_those_that_need_to_be_told_more(tmp_path: Path) -> None:
    for name in ("a.hea", "a.dat", "sub/b.DCM", "c.xml", "d.csv", "e.npy", ".hidden/f.edf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(Library.of("mine", tmp_path, 100).entries) == ["a", "c.xml", "sub/b.DCM"]


def test_a_folder_in_ptb_xls_layout_is_listed_healthy_first_with_age_and_sex() -> None:
    entries = list(Library.of("sample", sample.FOLDER, 100).entries.values())
    assert len(entries) == 520
    healthy = [entry.healthy for entry in entries]
    assert healthy == sorted(healthy, reverse=True)
    assert {"NORM"} == {entry.label.split(" · ")[1] for entry in entries if entry.healthy}
    assert {entry.sex for entry in entries} <= {"male", "female", "unknown"}


def test_a_folder_without_ecgs_is_refused(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    assert main(["studio", str(run), "--folder", str(tmp_path), "--no-browser"]) == 2
    assert "holds no ECG: give a folder of WFDB" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(studio: Started, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studio", str(run), "--port", str(studio.port), "--no-browser"]) == 2
    assert f"port {studio.port} cannot be used on 127.0.0.1: choose another one with --port" in capsys.readouterr().err
