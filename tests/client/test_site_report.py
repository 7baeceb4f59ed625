"""``lavq site report``: the card counts what is there, names what is not used, and finds what was planted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Page

from client.data_card import Section, write_card
from client.privacy_budget import TITLE, budget_section
from client.site_report import INTRO, followed, identical_signals, site_report
from lavq_core.cli.main import main
from lavq_core.data.database import Database
from tests.pages import faults_of

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
ROWS = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sample's first records, for a test to damage."""
    folder = tmp_path / "hospital"
    folder.mkdir()
    shutil.copy(SAMPLE / "scp_statements.csv", folder)
    table = pd.read_csv(SAMPLE / "ptbxl_database.csv", dtype=str).head(ROWS)
    table.to_csv(folder / "ptbxl_database.csv", index=False)
    for name in table["filename_lr"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".dat", ".hea"):
            shutil.copy(SAMPLE / f"{name}{suffix}", folder / f"{name}{suffix}")
    return folder


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Callable[[], Database]:
    return lambda: Database.open(folder, cache_dir=tmp_path / "cache", progress=False)


def edit(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pd.read_csv(folder / "ptbxl_database.csv", dtype=str)
    change(table).to_csv(folder / "ptbxl_database.csv", index=False)


def cells(database: Database, title: str) -> dict[str, tuple[str, ...]]:
    """A section's rows by their first cell."""
    (section,) = [section for section in site_report(database) if section.title == title]
    return {row[0]: row[1:] for row in section.rows}


def test_the_summary_counts_records_patients_and_rejects(opened: Callable[[], Database], folder: Path) -> None:
    victims = sorted(folder.glob("records100/*/*.dat"))[:2]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:1000])
    database = opened()
    summary = cells(database, "Summary")
    assert summary["records listed"] == (str(ROWS),)
    assert summary["usable"] == (str(ROWS - 2),)
    assert summary["rejected"] == ("2",)
    assert summary["patients"] == (str(database.table["patient_id"].nunique()),)
    named = cells(database, "Rejected records")
    assert set(named) == {str(int(victim.name.split("_")[0])) for victim in victims}
    assert all("truncated or corrupt" in reasons for _, reasons in named.values())
    quality = next(section for section in site_report(database) if section.title == "Quality gate").rows
    assert ("reject", "the record is truncated or corrupt", "2") in quality


def test_classes_ages_devices_and_languages_add_up(opened: Callable[[], Database]) -> None:
    database = opened()
    classes = cells(database, "Superclasses")
    for column, name in enumerate(("NORM", "MI", "STTC", "CD", "HYP")):
        assert classes[name][0] == str(int(database.labels[:, column].sum()))
    people, patients = cells(database, "Patients"), database.table["patient_id"].nunique()
    ages = sum(int(count) for label, (count, _) in people.items() if "year" in label or label == "age unknown")
    assert ages == patients
    assert sum(int(people[sex][0]) for sex in ("male", "female", "sex unknown")) == patients
    (origins,) = [section.rows for section in site_report(database) if section.title.startswith("Devices")]
    for what in ("device", "recording site", "language of reports"):
        assert sum(int(row[2]) for row in origins if row[0] == what) == len(database)


def test_the_same_signal_under_two_patients_is_found(opened: Callable[[], Database], folder: Path) -> None:
    assert identical_signals(opened()) == []
    table = pd.read_csv(folder / "ptbxl_database.csv")
    first, other = table.iloc[0], table[table["patient_id"] != table.at[0, "patient_id"]].iloc[0]
    shutil.copy(folder / f"{first['filename_lr']}.dat", folder / f"{other['filename_lr']}.dat")
    header = (folder / f"{first['filename_lr']}.hea").read_text()
    mine, theirs = Path(first["filename_lr"]).name, Path(other["filename_lr"]).name
    (folder / f"{other['filename_lr']}.hea").write_text(header.replace(mine, theirs))
    found = cells(opened(), "Duplicates")
    assert found == {f"{first['ecg_id']}, {other['ecg_id']}": ("two patients",)}
    assert cells(opened(), "Summary")["duplicates (the same signal again)"] == ("1",)


def test_healthy_patients_and_those_who_fell_ill_later_are_counted(
    opened: Callable[[], Database], folder: Path
) -> None:
    def history(table: pd.DataFrame) -> pd.DataFrame:
        """Each patient one record, but for three with two: well then ill, ill then well, well then well."""
        table["patient_id"] = [str(100 + i) for i in range(len(table))]
        table["scp_codes"] = "{'IMI': 100.0}"
        table["recording_date"] = [f"1990-01-{i + 1:02d} 00:00:00" if i < 28 else "" for i in range(len(table))]
        for patient, rows, codes in ((1, (0, 1), "NI"), (2, (2, 3), "IN"), (3, (4, 5), "NN")):
            for row, code in zip(rows, codes, strict=True):
                table.loc[row, "patient_id"] = str(patient)
                table.loc[row, "scp_codes"] = "{'NORM': 100.0}" if code == "N" else "{'IMI': 100.0}"
        return table

    edit(folder, history)
    database = opened()
    assert followed(database) == 1
    healthy = cells(database, "Healthy patients")
    assert healthy["with a record that is NORM and nothing else"] == ("3",)
    assert healthy["... followed by a record that is not healthy"] == ("1",)


@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_the_card_is_one_file_that_asks_for_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    edit(folder, lambda table: table.assign(device="<script>alert(1)</script>|x"))
    out = tmp_path / f"card{suffix}"
    assert main(["site", "report", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "records listed" in said.out
    assert "keep it at the site" in said.err
    text = out.read_text()
    for title in ("Summary", "Superclasses", "Quality gate", "Duplicates", "Healthy patients"):
        assert title in text
    if suffix == ".html":
        assert "<script" not in text
        assert not re.search(r"https?://|src=|href=", text)


def test_the_card_can_be_read_on_a_phone(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    head = ("hospital", "records", "patients", "description")
    rows = [("of a long name " * 3, "12,345", "10,000", "x" * 80)]
    write_card(
        tmp_path / "card.html", "Data card: " + "hospital-" * 9, INTRO, [Section("Table", "A note.", head, rows)]
    )
    page = open_page((tmp_path / "card.html").as_uri(), 360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.querySelector('th')).overflowWrap") == "break-word"  # whole words
    assert faults_of(page) == []


def test_what_is_no_database_or_no_format_is_said_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for arguments, match in (
        ([str(tmp_path / "nowhere")], "no data folder"),
        ([str(folder), "--out", str(tmp_path / "card.pdf")], "end it with .md or .html"),
    ):
        assert main(["site", "report", *arguments]) == 2
        assert match in capsys.readouterr().err
    assert not (tmp_path / "card.pdf").exists()


def test_the_budget_is_reckoned_for_the_training_patients(opened: Callable[[], Database], folder: Path) -> None:
    def of(database: Database) -> Section:
        return next(section for section in site_report(database) if section.title == TITLE)

    database = opened()
    patients = database.table.loc[database.table["strat_fold"] < 9, "patient_id"].nunique()
    assert of(database) == budget_section(patients)
    edit(folder, lambda table: table.assign(strat_fold="10"))
    assert "No patient is in the folds that are trained on" in of(opened()).note
