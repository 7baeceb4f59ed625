"""The run report: self-contained, true to metrics.json, honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Page as BrowserPage
from playwright.sync_api import expect

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.report import build_report
from lavq_core.report.evidence import traffic, troubles
from lavq_core.report.gallery import Twin, choose
from lavq_core.report.numbers import Metrics, display
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder
from tests.pages import faults_of

SITES = ("site-0", "site-1", "site-2", "site-10")
HOSTILE = '<img src=x onerror=alert(1)> & "$co$"'
ROUNDS = 3
VOID = {"meta", "br", "img", "link", "input", "hr", "source"}


# --- a small, realistic run folder -----------------------------------------------------------------------------------


def heart(seed: int, samples: int = 1000, rate: float = 100.0) -> np.ndarray:
    """Eight leads (8, T) mV: P, QRS and T waves as Gaussians about each beat, with a lead's own heights."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    heights = np.array([[0.7, 1.0, 0.3, 0.7, 1.1, 1.6, 1.4, 1.0]]).T * rng.uniform(0.8, 1.2)
    depths = np.array([[0.1, 0.1, 1.0, 1.6, 1.0, 0.5, 0.2, 0.1]]).T
    signal = np.zeros((8, samples))
    for beat in np.arange(0.4, samples / rate, 60.0 / rng.uniform(60, 85)):
        for offset, width, height in (
            (-0.16, 0.025, 0.12 * heights),
            (0.0, 0.012, heights),
            (0.035, 0.014, -depths),
            (0.28, 0.05, 0.25 * heights),
        ):
            signal += height * np.exp(-(((time - beat - offset) / width) ** 2) / 2)
    return signal + 0.008 * rng.standard_normal(signal.shape)


def lift(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raise stretches of a (8, T) ECG: (twin, gate (T/8,), envelope (T,))."""
    gate = (np.sin(np.arange(reference.shape[1] // 8) / 2.1) > 0.4).astype(float)
    envelope = np.convolve(np.repeat(gate, 8), np.ones(9) / 9, mode="same")
    return reference + 0.2 * envelope, gate, envelope


def metrics_of(sites: tuple[str, ...]) -> dict[str, float | int | str]:
    """Flat metrics as a finished run writes them."""
    values: dict[str, float | int | str] = {
        "run.id": "2025-01-31T12-00-00",
        "run.created": "2025-01-31T12:00:00+00:00",
        "run.command": "lavq run preset=sample",
        "run.seconds": 187.4,
        "run.rounds": ROUNDS,
        "run.seed": 0,
        "run.version": "0.1.0",
        "run.commit": "0123456789abcdef",
        "data.fingerprint": "f" * 64,
        "data.name": "ptbxl-sample",
        "data.records": 596,
        "data.patients": 401,
        "data.rejected": 4,
        "macro_auc.pooled": 0.8123456,
        "macro_auc.pooled.low": 0.7912,
        "macro_auc.pooled.high": 0.8401,
        "macro_auc.pooled.n": 1178,
        "macro_auc.worst_site": 0.7512,
        "bytes_per_round.down": 410_332,
        "bytes_per_round.up": 402_140,
        "privacy.statement": "No differential privacy: this run makes no claim.",
    }
    for index, site in enumerate(sites):
        counts = {
            "records": 150,
            "patients": 101,
            "rejected": 1,
            "flagged": 2,
            "train": 120,
            "held_out": 30,
            "test": 15,
        }
        for name, value in counts.items():
            values[f"data.site.{site}.{name}"] = value + index
        for suffix, auc in (("", 0.80), (".low", 0.74), (".high", 0.85)):
            values[f"macro_auc.site.{site}{suffix}"] = auc + 0.01 * index
        values[f"macro_auc.site.{site}.n"] = 200 + index
        values |= {f"separator.site.{site}.{name}": 0.31 for name in ("gate_abnormal", "gate_norm")}
        values |= {f"separator.site.{site}.perplexity": 17.25, f"twins.site.{site}.count": 44 + index}
        for number in range(1, ROUNDS + 1):
            key = f"convergence.site.{site}.round.{number}"
            values[f"{key}.macro_auc"] = 0.6 + 0.05 * number + 0.01 * index
            values |= {f"{key}.{loss}": 0.9 / number for loss in ("detector_loss", "separator_loss", "reconstruction")}
    for place, name in enumerate(SUPERCLASSES):
        for suffix, auc in (("", 0.82), (".low", 0.78), (".high", 0.87)):
            values[f"auc.{name}.pooled{suffix}"] = auc + 0.01 * place
        values[f"auc.{name}.pooled.n"] = 1178
    for name in SUPERCLASSES[1:]:
        values |= {f"twins.judge_auc.{name}{suffix}": 0.7 for suffix in ("", ".low", ".high")}
        values[f"twins.judge_auc_shuffled.{name}"] = 0.51
    values |= {"calibration.fold": 9, "calibration.records": 76, "calibration.sensitivity": 0.9}
    for name in SUPERCLASSES:
        values |= {f"calibration.{name}.temperature": 1.2, f"calibration.{name}.threshold": 0.31}
        for metric in ("sensitivity", "specificity", "ece_raw", "ece", "brier", "auprc"):
            values |= {f"{metric}.{name}{suffix}": 0.5 + 0.1 * at for at, suffix in enumerate((".low", "", ".high"))}
    for group in ("macro_auc.sex.0", "macro_auc.age.<50", "macro_auc.age.50-64", "macro_auc.device.CS-12 E.1"):
        values |= {group: 0.8, f"{group}.low": 0.7, f"{group}.high": 0.9, f"{group}.n": 60}
    for where in ("pooled", *(f"site.{site}" for site in sites)):
        for metric in ("ece_raw", "ece", *(("ece_own",) if where != "pooled" else ())):
            values |= {f"{metric}.{where}": 0.06, f"{metric}.{where}.low": 0.02, f"{metric}.{where}.high": 0.1}
        values[f"ece_raw.{where}.n"] = 20
        for number, at in enumerate((0.1, 0.6)):
            key = f"reliability.{where}.bin.{number:02d}"
            values |= {f"{key}.said": at, f"{key}.happened": at + 0.05, f"{key}.happened.n": 50}
            values |= {f"{key}.happened.low": at - 0.1, f"{key}.happened.high": at + 0.2}
    values |= {"macro_auprc": 0.6, "macro_auprc.low": 0.5, "macro_auprc.high": 0.7}
    for name in SUPERCLASSES[1:]:
        values[f"transfer.federation.{name}.statements"] = 9
        for site in sites:
            at = f"transfer.site.{site}.{name}"
            values |= {f"{at}.records": 0 if name == "HYP" else 12, f"{at}.statements": 0 if name == "HYP" else 4}
            key = f"auc.{name}.site.{site}"
            values |= {key: 0.75, f"{key}.low": 0.6, f"{key}.high": 0.9, f"{key}.n": 15}
    values |= {"data.reason.flat lead": 2, "data.reason.amplitude": 3, "partition.scheme": "site"}
    values |= {"run.config_sha256": "e" * 64, "version.torch": "2.13.0", "version.python": "3.11.7"}
    lira = {"auc": 0.553, "tpr_at_1pct_fpr": 0.0234, "members": 300, "non_members": 296, "shadows": 8}
    values |= {f"audit.detector.lira.{name}": value for name, value in lira.items()}
    values |= {"audit.detector.lira.tpr_at_1pct_fpr.low": 0.008, "audit.detector.lira.tpr_at_1pct_fpr.high": 0.05}
    values["audit.detector.lira.verdict"] = "no leak shown at these sizes"
    values |= {"audit.detector.loss.auc": 0.54, "audit.detector.loss.tpr_at_1pct_fpr": 0.01}
    return values


def write_twins(run: RunFolder, site: str, folder: str, references: list[np.ndarray]) -> None:
    """Keep one twin of each reference (8, T), the diseases in turn."""
    edited = [lift(reference) for reference in references]
    count = len(references)
    tensors = {
        "reference": np.stack(references),
        "twin": np.stack([twin for twin, _, _ in edited]),
        "gate": np.stack([gate for _, gate, _ in edited]),
        "envelope": np.stack([envelope for _, _, envelope in edited]),
    }
    about = {
        "sampling_rate": 100,
        "site": site,
        "disease": [SUPERCLASSES[1 + index % 4] for index in range(count)],
        "record": [f"{index:05d}_lr" for index in range(count)],
        "age": [300 if index == 0 else 40 + index for index in range(count)],
        "sex": [index % 2 for index in range(count)],
        "before": [0.04 + 0.01 * index for index in range(count)],
        "after": [0.71] * count,
    }
    parts = {"twins": {name: torch.tensor(value, dtype=torch.float32) for name, value in tensors.items()}}
    save_artefact(run.site(folder).twins, parts, about)


def write_run(root: Path, sites: tuple[str, ...] = SITES, references: list[np.ndarray] | None = None) -> RunFolder:
    """Write a finished run of three rounds."""
    run = RunFolder(root)
    root.mkdir(parents=True)
    run.config.write_text("run:\n  seed: 0\n", encoding="utf-8")
    run.metrics.write_text(json.dumps(metrics_of(sites)), encoding="utf-8")
    log = EventLog(run.events)
    log.write("run-started", rounds=ROUNDS, sites=len(sites) + 1)
    for site in sites:
        log.write("site-joined", site=site)
    for number in range(1, ROUNDS + 1):
        log.write("round-started", round=number)
        for site in sites:
            bad = number == 2 and site == sites[0]
            log.write(
                "site-replied",
                round=number,
                site=site,
                status="failed: RuntimeError" if bad else "ok",
                bytes_down=410_332,
                bytes_up=0 if bad else 402_140,
                seconds=11.2,
                examples=120,
            )
            log.write("site-evaluated", round=number, site=site, status="ok", bytes_down=410_332, bytes_up=24)
        log.write("round-finished", round=number, seconds=30.1, sites=len(sites))
    log.write("run-finished", seconds=187.4)
    codebook = {"codes": torch.zeros(64, 32), "counts": torch.zeros(64), "sums": torch.zeros(64, 32)}
    codebook["prior"] = torch.zeros(5, 12, 65)
    save_artefact(run.model, {"detector": {"head.weight": torch.zeros(5, 48)}, "codebook": codebook}, {"round": ROUNDS})
    run.audit.mkdir()
    rates = np.linspace(0, 1, 60)
    curve = {"fpr": rates.tolist(), "tpr": (rates**0.8).tolist()}
    (run.audit / "audit.json").write_text(json.dumps({"lira": curve, "loss": curve}), encoding="utf-8")
    for index, site in enumerate(sites):
        folder = site if "/" not in site else f"hospital-{index}"
        write_twins(run, site, folder, references or [heart(10 * index + k) for k in range(2)])
        listed = [{"ecg_id": 7 + index, "file": f"records100/0000{index}_lr", "reasons": "flat lead V2"}]
        report = {"records": 150, "rejected": listed, "flagged": []}
        run.site(folder).data_report.write_text(json.dumps(report), encoding="utf-8")
    return run


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []  # key, exact value, words
        self.open: list[str] = []
        self._number: tuple[str, str] | None = None
        self._words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data" and "data-key" in attributes:
            self._number, self._words = (str(attributes["data-key"]), str(attributes["value"])), ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass
        if tag == "data" and self._number:
            self.numbers.append((*self._number, self._words))
            self._number = None

    def handle_data(self, data: str) -> None:
        self._words += data


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


@pytest.fixture
def bare(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """Build the report of a run that left nothing but these metrics."""

    def build(metrics: dict[str, Any]) -> str:
        run = RunFolder(tmp_path)
        run.metrics.write_text(json.dumps(metrics), encoding="utf-8")
        return build_report(run).read_text(encoding="utf-8")

    return build


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
    assert {"convergence-macro_auc.svg", "audit-roc.svg", "bytes.svg"} <= names
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


# --- missing parts ---------------------------------------------------------------------------------------------------


def test_a_run_without_metrics_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no metrics\.json.*run it again"):
        build_report(RunFolder(tmp_path))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"a": {"b": 1}}', '{"a": null}'])
def test_damaged_metrics_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError):
        build_report(RunFolder(tmp_path))


def test_what_was_not_run_is_said_and_nothing_is_invented(bare: Callable[[dict[str, Any]], str]) -> None:
    page_text = bare({"run.id": "only-this"})
    for section in ("wire", "convergence", "detection", "twins", "audit", "privacy", "data", "events"):
        start = page_text.index(f'id="{section}"')
        assert "not run" in page_text[start : page_text.index("</section>", start)], section
    assert {key for key, _, _ in Page(page_text).numbers} == {"run.id"}


def test_without_differential_privacy_no_epsilon_is_printed(text: str) -> None:
    visible = text[text.index("<main>") :].casefold()
    assert "epsilon" not in visible
    assert "ε" not in visible


def test_with_differential_privacy_every_hospitals_epsilon_stands_by_the_statement(
    bare: Callable[[dict[str, Any]], str],
) -> None:
    spent = {"privacy.epsilon.site.site-0": 7.988, "privacy.epsilon.site.site-1": 2.5}
    names = {f"data.site.{site}.records": 5 for site in ("site-0", "site-1", "site-2")}
    text = bare({"privacy.statement": "(7.99, 1e-05)-differentially private", "privacy.delta": 1e-5, **spent, **names})
    section = text[text.index('id="privacy"') : text.index('id="data"')]
    for part in ("7.988", "2.500", "1e-05", "site-0", "site-1"):
        assert part in section
    assert "site-2" not in section


def test_a_changed_model_file_is_not_reported_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sites=("site-0",))
    (run.model / "detector.safetensors").write_bytes(b"changed")
    with pytest.raises(RunError, match="changed"):
        build_report(run)


# --- hostile names ---------------------------------------------------------------------------------------------------


def test_names_from_sites_are_escaped_everywhere(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sites=(HOSTILE, "site-1"), references=[heart(0)])
    hostile = Page(build_report(run).read_text(encoding="utf-8"))
    assert not [tag for tag, _ in hostile.tags if tag == "img"]
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in hostile.tags) == 1
    assert f"macro_auc.site.{HOSTILE}" in {key for key, _, _ in hostile.numbers}
    assert all(path.parent == run.figures and "<" not in path.name for path in run.figures.iterdir())
