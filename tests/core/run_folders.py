"""A small, realistic run folder, and its report's page as read back, for tests."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder

SITES = ("site-0", "site-1", "site-2", "site-10")
HOSTILE = '<img src=x onerror=alert(1)> & "$co$"'
ROUNDS = 3
VOID = {"meta", "br", "img", "link", "input", "hr", "source"}


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
        "run.sites": len(sites) + 1,
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
        "gallery.twins": 2 * len(sites),
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
        values |= {f"bytes.site.{site}.down": 2_461_992 + index, f"bytes.site.{site}.up": 1_206_492 + index}
        values |= {f"updates.site.{site}.used": 2, f"updates.site.{site}.asked": ROUNDS}
        for number in range(2):
            values |= {f"gallery.site.{site}.{number:02d}.{when}": 0.04 + 0.5 * number for when in ("before", "after")}
        for number in range(1, ROUNDS + 1):
            key = f"convergence.site.{site}.round.{number}"
            values[f"{key}.macro_auc"] = 0.6 + 0.05 * number + 0.01 * index
            values |= {f"{key}.{loss}": 0.9 / number for loss in ("detector_loss", "separator_loss", "reconstruction")}
    for part in ("detector", "codebook"):
        values |= {f"wire.{part}.tensors": 3, f"wire.{part}.values": 1_024, f"wire.{part}.bytes": 4_096}
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
    values |= {"audit.members": 300, "audit.non_members": 296, "audit.shadows": 8, "audit.shadows_whole": 0}
    values["audit.verdict"] = "no power at this size"
    values |= {"audit.control.auc": 0.5, "audit.control.auc.low": 0.45, "audit.control.auc.high": 0.55}
    for attack in ("detector.lira", "detector.loss", "updates.site.replicas"):
        rates = {"auc": 0.553, "tpr_at_1pct_fpr": 0.0234, "tpr_at_01pct_fpr": 0.004}
        for name, value in rates.items():
            ends = {"": value, ".low": 0.5 * value, ".high": 1.5 * value}
            values |= {f"audit.{attack}.{name}{end}": at for end, at in ends.items()}
        values |= {
            f"audit.{attack}.members": 300,
            f"audit.{attack}.non_members": 296,
            f"audit.{attack}.fpr_reached": 0.0068,
            f"audit.{attack}.votes": int(attack != "detector.loss"),
        }
    for link in ("source_top1", "linkage_top1"):
        values |= {f"audit.twins.{link}{end}": 0.4 for end in ("", ".low", ".high")}
        values |= {f"audit.twins.{link}.n": 37, f"audit.twins.{link}.chance": 0.0024}
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
    tpr = rates**0.8
    curve = {"fpr": rates.tolist(), "tpr": tpr.tolist(), "low": (0.9 * tpr).tolist(), "high": (1.1 * tpr).tolist()}
    attacks = (("detector", "lira", "run"), ("detector", "loss", "run"), ("updates", "site", "replicas"))
    found = [
        {"surface": where, "attack": how, "target": what, "votes": how != "loss"} | curve
        for where, how, what in attacks
    ]
    audit = {"findings": found, "threat_model": "The attacker holds all ECGs of a person."}
    (run.audit / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
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
