"""How each results file is laid out in the README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lavq_core.data.labels import SUPERCLASSES
from simulations.benchmarks.tables import tables as bench_tables
from simulations.experiments.cells import figure, p_value, table_of
from simulations.experiments.results_file import Row
from simulations.experiments.study_tables import noise_tables, scaling_tables, shift_tables

_DISEASES = SUPERCLASSES[1:]
_COLUMNS = {"macro_auc.pooled": "pooled", "macro_auc.site_macro": "mean of sites", "macro_auc.worst_site": "worst site"}
_COSTS = {
    "epsilon": "epsilon",
    "bytes_per_round": "bytes a round and site",
    "rounds_to_99_percent": "rounds to 99 % of the final AUC",
}
_COST_DECIMALS = {"epsilon": 2}
_TWINS = (  # title, arm, metric with {} for the class
    ("requested class, trees: twins", "prior", "judge_auc.{}.trees"),
    ("... real records", "real", "judge_auc.{}.trees"),
    ("... twins of other classes", "shuffled", "judge_auc.{}.trees"),
    ("... untrained", "untrained", "judge_auc.{}.trees"),
    ("requested class, transformer: twins", "prior", "judge_auc.{}.transformer"),
    ("... real records", "real", "judge_auc.{}.transformer"),
    ("... codes drawn from counts", "counts", "judge_auc.{}.transformer"),
    ("... a donor's codes", "donor", "judge_auc.{}.transformer"),
    ("classes not requested, transformer: twins", "prior", "unrequested.{}.transformer"),
    ("... real records", "real", "unrequested.{}.transformer"),
    ("score distance to real (KS), transformer", "prior", "score_ks.{}.transformer"),
    ("finds its patient among 400", "prior", "identity_top1.{}"),
    ("probe tells twins from real records", "prior", "probe_auc.{}"),
    ("... real median beats on healthy rhythm (floor)", "graft", "probe_auc.{}"),
)
_TWIN_FACTS = (
    ("another real record of the patient finds it", "real", "identity_top1"),
    ("heart rate within 3 bpm", "prior", "heart_rate_within_3bpm"),
    ("largest change outside the gate, uV", "prior", "outside_change_uV"),
    ("samples inside the envelope", "prior", "changed_share"),
    ("tokens gated, NORM report", "separator", "gate_norm"),
    ("tokens gated, abnormal report", "separator", "gate_abnormal"),
    ("gate overlap under a report of other classes (IoU)", "separator", "shuffled_report_iou"),
    ("STTC gate inside ST-T", "separator", "segment.STTC"),
    ("... by chance", "chance", "segment.STTC"),
    ("CD gate inside QRS", "separator", "segment.CD"),
    ("... by chance", "chance", "segment.CD"),
)

_BY_CLASS = {
    "auc": "AUC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "ece_raw": "ECE raw",
    "ece": "ECE after temperature",
    "sensitivity": "sensitivity at threshold",
    "specificity": "specificity",
}

_PERSONAL = {"population": "population, not fine-tuned"}  # other arms are called what they are
_CONCORDANCES = {
    "concordance": "own later NORM",
    "concordance.disease": "... on the disease's probability",
    "concordance.any_order": "own NORM, before or later",
    "concordance.all_norms": "everybody's later NORM",
}
_PAPER = {
    "ecg_accuracy": "ECG-wise accuracy",
    "patient_accuracy": "patient-wise accuracy",
    "macro_auc": "macro AUC",
    "macro_f1": "macro F1",
}


def _federation(rows: Sequence[Row]) -> list[str]:
    """A row an arm, a column a metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows if row.metric.startswith("macro_auc.")))
    metrics.sort(key=lambda metric: (metric == "macro_auc.worst_site", metric != "macro_auc.pooled", metric))
    titles = [_COLUMNS.get(metric, metric.removeprefix("macro_auc.site.")) for metric in metrics]
    arms = list(dict.fromkeys(row.arm for row in rows))
    table = table_of("macro AUC", titles, [(arm, arm, metrics) for arm in arms], rows)
    costs = {
        (row.arm, row.metric): f"{row.value:,.{_COST_DECIMALS.get(row.metric, 0)}f}"
        for row in rows
        if row.metric in _COSTS
    }
    paid = [metric for metric in _COSTS if any(metric == known for _, known in costs)]
    if paid:
        table += ["", "| cost | " + " | ".join(_COSTS[metric] for metric in paid) + " |", "|---|" + "---|" * len(paid)]
        table += [
            f"| {arm} | " + " | ".join(costs.get((arm, metric), "") for metric in paid) + " |"
            for arm in arms if any((arm, metric) in costs for metric in paid)
        ]  # fmt: skip
    return table


def _privacy(rows: Sequence[Row]) -> list[str]:
    """The arms of all hospitals; then those in which one hospital's ECGs are public, and what these ECGs bring."""
    public = [row for row in rows if "/" in row.arm or row.arm == "public-alone"]
    table = _federation([row for row in rows if row not in public])
    if not public:
        return table
    gains = [row for row in public if row.metric.startswith("macro_auc_gain.")]
    kinds = list(dict.fromkeys(row.metric.split(".", 1)[1].split("/")[0] for row in gains))
    plain = [replace(row, metric=row.metric.split("/")[0]) for row in gains]
    lines = [
        (arm, arm, [f"macro_auc_gain.{kind}" for kind in kinds]) for arm in dict.fromkeys(row.arm for row in gains)
    ]
    compared = table_of("pooled macro AUC less that of", kinds, lines, plain)
    return [*table, "", *_federation(public), "", *compared]


def _twins(rows: Sequence[Row]) -> list[str]:
    """A row a question, a column a class; then the figures that have no class."""
    questions = [(title, arm, [metric.format(name) for name in _DISEASES]) for title, arm, metric in _TWINS]
    facts = [(title, arm, [metric]) for title, arm, metric in _TWIN_FACTS]
    return [*table_of("", _DISEASES, questions, rows), "", *table_of("", ["all"], facts, rows)]


def _transfer(rows: Sequence[Row]) -> list[str]:
    """A row an arm: AUC of the withheld class at the site, share of the gap that is closed, bytes a site sends."""
    names = sorted({row.metric.split(".")[1] for row in rows})
    titles = [f"{what} {name}" for name in names for what in ("AUC", "gap closed", "bytes up")]
    metrics = [f"{what}.{name}" for name in names for what in ("auc", "gap_closed", "bytes_up")]
    return table_of("", titles, [(arm, arm, metrics) for arm in dict.fromkeys(row.arm for row in rows)], rows)


def _population(rows: Sequence[Row]) -> list[str]:
    """Macro AUC by site and subgroup, an arm a row; then a row a class for the centralised detector."""
    metrics = [metric for metric in dict.fromkeys(row.metric for row in rows) if metric.startswith("macro_")]
    metrics.sort(key=lambda metric: (metric != "macro_auc.pooled", metric != "macro_auprc"))  # the others keep theirs
    arms = list(dict.fromkeys(row.arm for row in rows))
    groups = [(metric.removeprefix("macro_auc.").replace("macro_auprc", "AUPRC"), metric) for metric in metrics]
    found = {(row.arm, row.metric): row for row in rows}
    lines = [f"| macro AUC | {' | '.join(arms)} | records |", "|---|" + "---|" * (len(arms) + 1)]
    for title, metric in groups:
        cells = [figure(found.get((arm, metric))) for arm in arms]
        lines.append(f"| {title} | {' | '.join(cells)} | {max(row.n for row in rows if row.metric == metric)} |")
    classes = [(name, "centralised", [f"{metric}.{name}" for metric in _BY_CLASS]) for name in SUPERCLASSES]
    return [*lines, "", *table_of("", list(_BY_CLASS.values()), classes, rows)]


_SURFACES = (  # title, metric
    ("detector, LiRA", "detector.lira.replicas.{}"),
    ("detector, RMIA", "detector.rmia.replicas.{}"),
    ("updates of one hospital", "updates.site.replicas.{}"),
    ("updates, aggregates alone", "updates.aggregate.replicas.{}"),
    ("codebook: commitment", "codebook.commitment.replicas.{}"),
    ("codebook: reconstruction", "codebook.reconstruction.replicas.{}"),
    ("codebook: rarest statement", "codebook.rare_statement.replicas.{}"),
    ("separator: healthy gate", "codebook.healthy_gate.replicas.{}"),
    ("twins: density", "twins.density.replicas.{}"),
)
_AUDITED = (
    ("twin finds the record it was made from", "twins.source_top1"),
    ("twin finds another ECG of its patient", "twins.linkage_top1"),
    ("... a real record of the patient does", "twins.record_top1"),
    ("twin finds the donor of its codes", "twins.donor_top1"),
    ("control: folds asked for instead of membership, AUC", "control.auc"),
    ("epsilon is at least (white-box canaries)", "epsilon_lower_bound.step"),
    ("epsilon is at least (people, one replica)", "epsilon_lower_bound.replica"),
)


def _audit(rows: Sequence[Row]) -> list[str]:
    """Attacks by arm, TPR at 1 % and AUC; then the test bench."""
    played = [row for row in rows if "/" in row.arm]
    rows = [row for row in rows if "/" not in row.arm]
    arms, known = list(dict.fromkeys(row.arm for row in rows)), {row.metric for row in rows}
    lines = [
        (f"{title}: {words}", metric.format(what))
        for what, words in (("tpr_at_1pct_fpr", "TPR at 1 % FPR"), ("auc", "AUC"))
        for title, metric in _SURFACES
        if metric.format(what) in known
    ]
    lines += [(title, metric) for title, metric in _AUDITED if metric in known]
    found = {(row.arm, row.metric): figure(row) for row in rows}
    table = [f"| on replicas | {' | '.join(arms)} |", "|---|" + "---|" * len(arms)]
    table += [f"| {title} | {' | '.join(found.get((arm, metric), '') for arm in arms)} |" for title, metric in lines]
    verdicts = {row.arm: f"{round(row.value * row.seeds)} of {row.seeds}" for row in rows if row.metric == "convicted"}
    table.append(f"| verdict *leak found* | {' | '.join(verdicts.get(arm, '') for arm in arms)} |")
    return [*table, "", *_bench(played)] if played else table


def _bench(rows: Sequence[Row]) -> list[str]:
    """A row a case of the test bench: what it claims, its figures with the range of all repeats, how often flagged."""
    lines = ["| test bench | claims epsilon | figures | flagged |", "|---|---|---|---|"]
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = {row.metric: row for row in rows if row.arm == arm}
        claim, flagged = mine.pop("claimed_epsilon", None), mine.pop("flagged")
        figures = "; ".join(f"{metric.replace('_', ' ')} {figure(row)}" for metric, row in mine.items())
        said = "" if claim is None else f"{claim.value:g}"
        lines.append(f"| {arm} | {said} | {figures} | {round(flagged.value * flagged.n)} of {flagged.n} |")
    return lines


def _personal(rows: Sequence[Row]) -> list[str]:
    """Concordance, an arm a row; own twins against each control, with p; the paper's table for both cohorts."""
    found = {(row.arm, row.metric): row for row in rows}
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if (arm, "concordance") in found]
    titles = [f"{title} ({found['own', name].n} people)" for name, title in _CONCORDANCES.items()]
    lines = [(_PERSONAL.get(arm, arm), arm, [*_CONCORDANCES, "macro_auc.later"]) for arm in arms]
    table = table_of("abnormal above", [*titles, "macro AUC"], lines, rows)
    compared = [name for name in _CONCORDANCES if ("own", f"{name}_p.population") in found]
    titles = [title for name in compared for title in (_CONCORDANCES[name], "p")]
    table += ["", "| own less | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for control in (arm for arm in arms if arm != "own"):
        cells = [
            cell
            for name in compared
            for cell in (
                figure(found["own", f"{name}_gain.{control}"]),
                p_value(found["own", f"{name}_p.{control}"].value),
            )
        ]
        table.append(f"| {control} | " + " | ".join(cells) + " |")
    for prefix, people, title in (
        ("paper", "people.paper", "the paper's cohort"),
        ("paper.norm_first", "people.paper_norm_first", "... NORM first"),
    ):
        size = found["cohort", people]
        corner = f"{title}: {size.value:.0f} people, {size.n} records"
        lines = [
            (_PERSONAL.get(arm, arm), arm, [f"{prefix}.{name}" for name in _PAPER]) for arm in ("always-norm", *arms)
        ]
        table += ["", *table_of(corner, list(_PAPER.values()), lines, rows)]
    return table


LAYOUTS: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "population": _population,
    "federation": _federation,
    "twins": _twins,
    "transfer": _transfer,
    "personal": _personal,
    "privacy": _privacy,
    "audit": _audit,
    "scaling": scaling_tables,
    "noise": noise_tables,
    "shift": shift_tables,
    "bench": bench_tables,
}
