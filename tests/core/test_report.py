"""The run report: self-contained, and true to metrics.json."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page as BrowserPage
from playwright.sync_api import expect

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.report import build_report
from lavq_core.report.evidence import traffic, troubles
from lavq_core.report.gallery import Twin, choose
from lavq_core.report.numbers import Metrics, display
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder
from tests.core.run_folders import SITES, Page, heart, metrics_of, write_run
from tests.pages import faults_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = write_run(tmp_path_factory.mktemp("runs") / "run")
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(run: RunFolder) -> str:
    return run.report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


# --- one self-contained file -----------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_outside_itself(page: Page, text: str) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "img", "base"}
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")


def test_a_content_policy_forbids_requests(page: Page) -> None:
    policies = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies
    assert policies[0].startswith("default-src 'none'")


def test_it_stays_below_five_megabytes_with_a_gallery_of_at_least_eight(run: RunFolder, page: Page) -> None:
    assert sum(attributes.get("class") == "twin" for _, attributes in page.tags) >= 8
    assert run.report.stat().st_size < 5_000_000


def test_ids_are_unique_although_many_pictures_share_the_page(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_pictures_are_written_as_files_too(run: RunFolder) -> None:
    names = {path.name for path in run.figures.iterdir()}
    assert {"convergence-macro_auc.svg", "audit-roc.svg", "audit-roc-replicas.svg", "bytes.svg"} <= names
    twins = [name for name in names if name.startswith("twin-")]
    assert len([name for name in twins if name.endswith(".svg")]) >= 8
    assert len(twins) == 2 * len({name.rpartition(".")[0] for name in twins})


def test_a_second_report_replaces_the_first_and_leaves_no_old_twins(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sites=("site-0",), references=[heart(0)])
    build_report(run)
    before = {path.name for path in run.figures.iterdir()}
    (run.figures / "twin-99-MI-gone.svg").write_text("old", encoding="utf-8")
    first = run.report.read_text(encoding="utf-8")
    build_report(run)
    assert {path.name for path in run.figures.iterdir()} == before
    assert run.report.read_text(encoding="utf-8") == first


def test_the_gallery_is_filtered_by_disease_and_hospital(run: RunFolder, open_page: Callable[..., BrowserPage]) -> None:
    page = open_page(run.report.as_uri(), 360, dark=True)
    cards = page.locator("figure.twin")
    everything = cards.count()
    expect(page.locator("output")).to_have_text(f"{everything} of {everything} shown")
    page.select_option("select[name=disease]", "MI")
    page.select_option("select[name=site]", "site-2")
    shown = [card for card in cards.all() if card.is_visible()]
    assert {(card.get_attribute("data-disease"), card.get_attribute("data-site")) for card in shown} == {
        ("MI", "site-2")
    }
    assert len(shown) < everything
    expect(page.locator("output")).to_have_text(f"{len(shown)} of {everything} shown")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_everybody_can_read_it(run: RunFolder, open_page: Callable[..., BrowserPage]) -> None:
    page = open_page(run.report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert faults_of(page) == []


# --- every number from metrics.json ----------------------------------------------------------------------------------


def test_every_number_shown_is_the_one_in_the_metrics(run: RunFolder, page: Page) -> None:
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    assert len(page.numbers) > 100
    for key, exact, words in page.numbers:
        expected = metrics[key]
        assert exact == (expected if isinstance(expected, str) else json.dumps(expected))
        assert words == display(key, expected)


def test_no_number_comes_from_another_file(run: RunFolder, tmp_path: Path) -> None:
    """A run that moved other bytes, keeps other twins and has another model, but the same metrics, reads the same."""
    other = RunFolder(Path(shutil.copytree(run.root, tmp_path / "run")))
    log = other.events.read_text(encoding="utf-8")
    other.events.write_text(re.sub(r'("bytes_(?:up|down)": )(\d+)', r"\g<1>7\2", log), encoding="utf-8")
    for site in other.sites():
        parts, about = load_artefact(site.twins)
        changed = {"before": [0.5 for _ in about["before"]], "after": [0.5 for _ in about["after"]]}
        save_artefact(site.twins, {"twins": {key: 2 * array for key, array in parts["twins"].items()}}, about | changed)
    parts, about = load_artefact(other.model)
    save_artefact(other.model, parts | {"detector": {"head.weight": torch.zeros(7, 48)}}, about)

    def words(folder: RunFolder) -> str:
        """The page without pictures, and without the hashes and shapes that it lists."""
        text = re.sub(r"<svg.*?</svg>", "", build_report(folder).read_text(encoding="utf-8"), flags=re.DOTALL)
        return re.sub(r"\d+ × \d+|[0-9a-f]{64}", "", text)

    assert words(other) == words(run)
    assert "<svg" in run.report.read_text(encoding="utf-8")


def test_every_metric_is_shown(run: RunFolder, page: Page, text: str) -> None:
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    assert {key for key, _, _ in page.numbers} == set(metrics)
    assert all(f"<code>{escape(key)}</code>" in text for key in metrics)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("macro_auc.pooled", 0.8123456, "0.812"),
        ("macro_auc.pooled", 1.0, "1.000"),
        ("macro_auc.pooled", float("nan"), "not defined"),
        ("macro_auc.pooled.n", 1178, "1,178"),
        ("bytes_per_round.up", 402_140, "402.14\u00a0kB"),
        ("run.seconds", 187.4, "3 min 07 s"),
        ("audit.detector.lira.tpr_at_1pct_fpr", 0.0234, "2.3\u00a0%"),
        ("audit.detector.lira.auc", 0.553, "0.553"),
        ("separator.site.a.gate_norm", 0.012, "1.2\u00a0%"),
        ("separator.site.a.perplexity", 17.25, "17.2"),
        ("run.rounds", 8, "8"),
        ("sensitivity.HYP", 1.0, "1.000"),
        ("macro_auc.sex.0.n", 53, "53"),
        ("calibration.sensitivity", 0.9, "0.900"),
        ("run.commit", "0123", "0123"),
        ("run.created", "2025-01-31T12:00:00+00:00", "2025-01-31 12:00:00 UTC"),
    ],
)
def test_values_are_written_as_a_reader_expects(key: str, value: float | str, words: str) -> None:
    assert display(key, value) == words


def test_sites_are_found_by_their_keys_and_stand_in_natural_order() -> None:
    assert Metrics(metrics_of(SITES)).sites() == list(SITES)
    assert Metrics({"macro_auc.site.a.b": 0.5, "macro_auc.site.a.b.low": 0.4}).sites() == ["a.b"]


def test_subgroups_stand_by_kind_and_age_from_young_to_old(text: str) -> None:
    metrics = Metrics({f"macro_auc.{name}": 0.8 for name in ("device.A", "age.>=75", "age.50-64", "age.<50", "sex.1")})
    groups = [("sex", "1"), ("age", "<50"), ("age", "50-64"), ("age", ">=75"), ("device", "A")]
    assert metrics.subgroups() == groups
    part = text[text.index('id="subgroups"') : text.index('id="twins"')]
    assert "CS-12 E.1" in part
    assert "under 50" in part
    assert "men" in part


def test_every_hospitals_reliability_diagram_stands_beside_the_pooled_one(text: str, run: RunFolder) -> None:
    part = text[text.index('id="calibration"') : text.index('id="subgroups"')]
    assert re.findall(r'<figure class="curve"><figcaption>(.*?)</figcaption>', part) == ["all hospitals", *SITES]
    assert part.count('class="reliability"') == part.count('class="perfect"') == 1 + len(SITES)
    assert len(list(run.figures.glob("reliability-*.svg"))) == 1 + len(SITES)


def test_a_hospital_without_a_disease_is_marked_beside_what_the_others_lend_it(text: str) -> None:
    part = text[text.index('id="transfer"') : text.index('id="audit"')]
    assert part.count('class="n none"') == len(SITES)  # HYP, at every hospital
    assert re.search(r"twins can be made with.*?>9</data> statements", part, re.DOTALL)


# --- what happened, told in words ------------------------------------------------------------------------------------


def test_sites_that_failed_or_never_joined_are_told(text: str) -> None:
    events = text[text.index('id="events"') : text.index('id="versions"')]
    assert "training failed: RuntimeError" in events
    assert "4 of 5 expected hospitals joined" in events


def test_bytes_of_training_and_evaluation_are_added_up(run: RunFolder) -> None:
    first, second = traffic(run)[:2]
    assert (second.site, second.down, second.up) == ("site-1", 6 * 410_332, 3 * (402_140 + 24))
    assert (first.good, first.asked, second.good, second.asked) == (2, 3, 3, 3)


def test_a_run_without_trouble_says_so(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text("{}", encoding="utf-8")
    log = EventLog(run.events)
    log.write("run-started", rounds=1, sites=1)
    log.write("site-joined", site="a")
    log.write("round-started", round=1)
    log.write("site-replied", round=1, site="a", status="ok", bytes_down=1, bytes_up=1)
    assert troubles(run) == []
    assert "every answer counted" in build_report(run).read_text(encoding="utf-8")


def test_rejected_records_are_named_with_their_reason(text: str) -> None:
    assert "records100/00002_lr" in text
    assert "flat lead V2" in text


def test_keys_that_travel_are_listed_and_the_codes_go_one_way(text: str) -> None:
    wire = text[text.index('id="wire"') : text.index('id="convergence"')]
    assert "<code>head.weight</code>" in wire
    row = wire[wire.index("<code>codes</code>") :]
    assert "to the hospital only" in row[: row.index("</tr>")]


@pytest.mark.parametrize(
    ("shared", "told", "kept"),
    [
        ([], None, ["separator", "editor", "prior network"]),
        (["prior"], "weights of prior", ["separator", "editor"]),
        (["separator", "editor", "prior"], "weights of editor, prior, separator", []),
    ],
    ids=["none", "prior", "all"],
)
def test_what_left_and_what_did_not_follow_from_the_model(
    run: RunFolder, tmp_path: Path, shared: list[str], told: str | None, kept: list[str]
) -> None:
    copied = RunFolder(Path(shutil.copytree(run.root, tmp_path / "run", ignore=shutil.ignore_patterns("twins"))))
    parts, about = load_artefact(copied.model)
    networks = {f"{name}.weight": torch.zeros(1000) for name in shared}
    save_artefact(copied.model, parts | ({"networks": networks} if shared else {}), about)
    text = build_report(copied).read_text(encoding="utf-8")
    sent, never = text[text.index("Sent every round") : text.index('id="convergence"')].split("Never sent")
    assert re.findall(r"<th scope=\"row\">(weights of [^<]*)", sent) == ([told] if told else [])
    assert re.findall(r"<li>the weights of the ([^<]*)</li>", never) == kept


def test_ages_over_89_are_not_told(text: str) -> None:
    assert "over 89" in text
    assert ", 300" not in text


def test_every_twin_is_marked_and_comes_with_the_detectors_view(page: Page, text: str) -> None:
    twins = sum(attributes.get("class") == "twin" for _, attributes in page.tags)
    watermarks = sum("watermark" in (attributes.get("class") or "") for _, attributes in page.tags)
    assert watermarks == twins
    assert text.count("Detector's probability of") == twins


def stored(disease: str, site: str, record: str = "1") -> Twin:
    flat = np.zeros((12, 8), dtype=np.float32)
    return Twin(site, disease, record, "", 0.1, 0.9, flat, flat, np.zeros(1, np.float32), flat[0], 100.0)


def test_the_gallery_shows_every_disease_of_every_hospital_before_a_second_of_any() -> None:
    twins = [stored(d, s, r) for s in ("site-1", "site-0") for d in ("STTC", "MI") for r in ("1", "2", "3")]
    shown = choose(twins)
    assert [(twin.disease, twin.site, twin.record) for twin in shown] == [
        (disease, site, record) for disease in ("MI", "STTC") for site in ("site-0", "site-1") for record in ("1", "2")
    ]
    assert len(choose(twins[:3])) == 3
    assert choose([]) == []


def test_a_gallery_of_many_hospitals_is_thinned_out_evenly() -> None:
    shown = choose([stored(disease, f"site-{i}") for i in range(30) for disease in SUPERCLASSES[1:]])
    assert len(shown) == 16
    assert {twin.disease for twin in shown} == set(SUPERCLASSES[1:])


def test_without_differential_privacy_no_epsilon_is_printed(text: str) -> None:
    visible = text[text.index("<main>") :].casefold()
    assert "epsilon" not in visible
    assert "ε" not in visible


def test_a_claim_stands_beside_what_the_audit_could_show(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    claim = {"audit.claimed_epsilon": 3.0, "audit.epsilon_lower_bound": 0.7, "audit.epsilon_lower_bound.step": 0.7}
    checked = {"audit.verdict": "consistent with the claim", "audit.check.step": "noise is 1.0001 of what is promised"}
    run.metrics.write_text(json.dumps(metrics_of(SITES) | claim | checked), encoding="utf-8")
    text = build_report(run).read_text(encoding="utf-8")
    assert all(key in text for key in (*claim, *checked))
    assert "noise is 1.0001" in text
    assert "consistent with the claim" in text
