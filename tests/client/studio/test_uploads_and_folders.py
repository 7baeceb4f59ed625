"""Files that the studio is given, and folders that it lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from client.studio.library import Library
from client.studio.uploads import MOST_BYTES, unpacked
from lavq_core.cli.main import main
from lavq_core.errors import DataError, LavqError
from simulations import sample
from tests.client.studio.started import record_files, upload


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
