"""Reports of runs that lack a part, were damaged, or have hostile names: honest about what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lavq_core.errors import RunError
from lavq_core.report import build_report
from lavq_core.runs.layout import RunFolder
from tests.core.run_folders import HOSTILE, Page, heart, write_run


@pytest.fixture
def bare(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """Build the report of a run that left nothing but these metrics."""

    def build(metrics: dict[str, Any]) -> str:
        run = RunFolder(tmp_path)
        run.metrics.write_text(json.dumps(metrics), encoding="utf-8")
        return build_report(run).read_text(encoding="utf-8")

    return build


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


def test_with_differential_privacy_every_hospitals_epsilon_stands_by_the_statement(
    bare: Callable[[dict[str, Any]], str],
) -> None:
    spent = {"privacy.epsilon.site.site-0": 7.988, "privacy.epsilon.site.site-1": 2.5}
    names = {f"data.site.{site}.records": 5 for site in ("site-0", "site-1", "site-2")}
    ledgers = {f"privacy.ledger.site.site-0.round.{number}": 0.71 * number for number in (2, 10)}
    text = bare(
        {
            "privacy.statement": "(7.99, 1e-05)-differentially private",
            "privacy.delta": 1e-5,
            **spent,
            **ledgers,
            **names,
        }
    )
    section = text[text.index('id="privacy"') : text.index('id="data"')]
    for part in ("7.988", "2.500", "1e-05", "site-0", "site-1", "1.420", "7.100"):
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
