"""What the studio's server answers: twins to download, calibrated probabilities, tables of numbers."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lavq_core.formats.reading import read_ecg, read_usable
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from lavq_core.twins.made import code_of
from tests.client.studio.started import KEY, RECORD, Started, record_files, upload


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
