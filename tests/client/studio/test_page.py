"""The studio's page in a real browser: what it shows, from the keyboard, on a phone, with an upload."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from simulations import sample
from tests.client.studio.started import KEY, WFDB
from tests.pages import faults_of


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
    expect(page.locator("#words")).to_have_text("left ventricular hypertrophy, complete left bundle branch block")
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
