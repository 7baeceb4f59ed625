"""The model card (Mitchell et al. 2019) of a run: written from its configuration, figures and calibration alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lavq_core.export.onnx_detector import onnx_name
from lavq_core.export.onnx_graphs import graph_of
from lavq_core.models.calibration import Calibration
from lavq_core.models.stored import SharedModel
from lavq_core.report.audit_evidence import attacks
from lavq_core.report.numbers import Metrics, display
from lavq_core.signals.leads import INDEPENDENT_LEADS
from lavq_core.signals.quality import DURATION

_NOT_EVALUATED = "Not evaluated: the run has no `metrics.json` (`lavq report RUN` makes it of a simulation)."
_KINDS = {
    "resnet": "1-D residual network with GroupNorm",
    "features": "linear head on a fixed description of the ECG",
    "combined": "1-D residual network with GroupNorm, averaged with a perceptron on a fixed description of the ECG",
}
_LIMITS = """\
- **Research use, not a medical device.** No diagnosis, triage or treatment may rest on it.
- It scores five superclasses of a resting 12-lead ECG. It knows no rhythm and no emergency, and compares nothing with
  earlier ECGs.
- Figures are of the records named below; other devices, populations and prevalences give others. Probabilities are
  calibrated on one validation fold at most.
- A digital twin is a synthetic ECG: never file it with a patient's recordings. Twins made for a patient are that
  patient's data."""


def model_card(
    name: str, model: SharedModel, metrics: Metrics | None, calibration: Calibration | None, onnx: float | None
) -> str:
    """Write the card as Markdown.

    Args:
        name: of the run.
        model: what is exported.
        metrics: of the run; None where it was not evaluated.
        calibration: of the run, None where it has none.
        onnx: largest difference between the ONNX detector and this one; None where there is no ONNX.
    """
    sections = [
        (f"# {name}: detector, codebook and twin networks trained with LAVQ", _LIMITS),
        ("## What it is", _model(model, onnx)),
        ("## How it was trained", _training(model, metrics)),
        ("## How well the detector does", _scores(model.classes, metrics)),
        ("## Calibration", _calibration(model.classes, calibration)),
        ("## Digital twins", _twins(model.classes, metrics)),
        ("## Privacy", _privacy(metrics)),
        ("## How to use it", _use(model, onnx)),
    ]
    return "\n\n".join(f"{title}\n\n{text}" for title, text in sections) + "\n"


def _model(model: SharedModel, onnx: float | None) -> str:
    config, weights = model.config, sum(p.numel() for p in model.detector.parameters())
    facts = {
        "detector": f"{_KINDS[config.detector.kind]}, {weights:,} weights",
        "input": f"leads {', '.join(INDEPENDENT_LEADS)} in mV at {config.data.sampling_rate} Hz, {DURATION:g} s",
        "output": f"probabilities of {', '.join(model.classes)}, not exclusive",
        "codebook": f"{config.codebook.size} codes of width {config.codebook.dim}",
        "networks": ", ".join(config.federation.share) or "none: twins need a site's own",
    }
    if config.detector.pretrained:
        facts["pre-trained network"] = f"on ECGs that count as public, sha256 {config.detector.pretrained_sha256}"
    if onnx is not None:
        facts["ONNX"] = f"probabilities differ from the original's by at most {onnx:.1g} on the parity check"
    return _table(("", ""), facts.items())


def _training(model: SharedModel, metrics: Metrics | None) -> str:
    config = model.config
    federation, training, twins = config.federation, config.detector_training, config.twins
    facts = {
        "federation": f"{federation.sites} sites expected, {federation.rounds} rounds, `{federation.strategy}`",
        "detector, per round": f"{training.epochs:g} epochs, {_blanks(model)}",
        "twins among the training records": f"{twins.per_record} a healthy record, weight {twins.weight:g}",
        "folds": f"{min(config.data.train_folds)}-{max(config.data.train_folds)} train, {config.data.validation_fold} "
        f"selects, {config.data.test_fold} is scored",
        "seed": str(config.run.seed),
    }
    for label, key in {
        "data": "data.name", "data fingerprint": "data.fingerprint", "records": "data.records",
        "patients": "data.patients", "rejected by the quality gate": "data.rejected", "partition": "partition.scheme",
        "made": "run.created", "version of lavq": "run.version", "commit": "run.commit",
    }.items():  # fmt: skip
        if metrics is not None and key in metrics:
            facts[label] = _value(metrics, key)
    return _table(("", ""), facts.items())


def _blanks(model: SharedModel) -> str:
    """Say whether the detector was trained with blank leads."""
    if not model.most_blank:
        return "no lead dropout: all leads are needed"
    dropout = model.config.detector_training.lead_dropout
    return f"lead dropout {dropout:g}: up to {model.most_blank} chest leads may be missing"


def _scores(classes: Sequence[str], metrics: Metrics | None) -> str:
    if metrics is None:
        return _NOT_EVALUATED
    keys = {"macro AUC, all sites": "macro_auc.pooled", "macro AUC, worst site": "macro_auc.worst_site"}
    keys |= {f"macro AUC, {site}": f"macro_auc.site.{site}" for site in metrics.sites()}
    keys |= {f"AUC {name}": f"auc.{name}.pooled" for name in classes}
    rows = [(label, *_with_interval(metrics, key)) for label, key in keys.items() if key in metrics]
    if not rows:
        return _NOT_EVALUATED
    return _table(("test fold", "value", "95 % interval (patients drawn)", "records"), rows)


def _calibration(classes: Sequence[str], calibration: Calibration | None) -> str:
    if calibration is None:
        return "None: probabilities are as the detector gives them."
    told = (
        f"From fold {calibration.fold} of {calibration.source}, {calibration.n} records; a threshold reached a "
        f"sensitivity of {calibration.sensitivity:g} there."
    )
    columns = (calibration.temperatures, calibration.thresholds)
    rows = [
        (name, *("too few records" if value is None else f"{value:.3f}" for value in values))
        for name, *values in zip(classes, *columns, strict=True)
    ]
    return f"{told}\n\n{_table(('class', 'temperature', 'threshold'), rows)}"


def _twins(classes: Sequence[str], metrics: Metrics | None) -> str:
    if metrics is None or not metrics.below("twins.judge_auc"):
        return "Not judged in this run."
    kinds = ("judge_auc", "judge_auc_shuffled", "judge_auc_real")
    rows = [
        (name, *(_value(metrics, f"twins.{kind}.{name}") for kind in kinds))
        for name in classes
        if f"twins.judge_auc.{name}" in metrics
    ]
    told = "A judge that was fitted on real records only puts twins of held-out patients above their originals (AUC):"
    return f"{told}\n\n{_table(('disease', 'twins', 'twins of other diseases', 'real records'), rows)}"


def _privacy(metrics: Metrics | None) -> str:
    if metrics is None or "privacy.statement" not in metrics:
        return "No statement was recorded: claim nothing."
    lines = [str(metrics.get("privacy.statement"))]
    for row in attacks(metrics):
        value, interval, _ = _with_interval(metrics, f"{row.key}tpr_at_1pct_fpr")
        found = f"finds {value}{f' ({interval})' if interval else ''} of the members at 1 % false positives"
        lines.append(f"- membership inference, {row.surface}, {row.attack}, on {row.target}: {found}")
    if "audit.verdict" in metrics:
        lines.append(f"- the audit's verdict: {metrics.get('audit.verdict')}")
    else:
        lines.append("No membership-inference audit was part of this run.")
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


def _use(model: SharedModel, onnx: float | None) -> str:
    lines = ["    lavq detect --run THIS_FOLDER ecg.dcm --out predictions.csv"]
    if model.config.federation.share:
        lines.append("    lavq twin --run THIS_FOLDER ecg.dcm --disease MI --out twins")
    if onnx is not None:
        rate = model.config.data.sampling_rate
        graph, takes = graph_of(model.detector, rate), {"ecg": f"`ecg`, float32 (n, 8, T) in mV at {rate} Hz"}
        takes["description"] = (
            f"`description`, float32 (n, {graph.facts.get('description_size')}), which Python makes of ECGs by "
            "`lavq_core.signals.description.describe` of the version in the file's metadata (no ONNX graph finds R "
            "peaks and median beats)"
        )
        given = " and ".join(takes[name] for name in graph.inputs)
        lines.append(f"\n`{onnx_name(model.detector)}` takes {given}, and gives `probability` (n, 5), uncalibrated.")
    lines.append("\n`manifest.json` holds the sha256 of every file here.")
    return "\n".join(lines)


def _with_interval(metrics: Metrics, key: str) -> tuple[str, str, str]:
    """Value, its interval and its number of records, each empty where the run has none."""
    low, high, count = (_value(metrics, f"{key}.{part}") for part in ("low", "high", "n"))
    return _value(metrics, key), f"{low} to {high}" if low and high else "", count


def _value(metrics: Metrics, key: str) -> str:
    value = metrics.get(key)
    return "" if value is None else display(key, value).replace("\u00a0", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
