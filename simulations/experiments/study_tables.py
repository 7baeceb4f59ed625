"""README tables of the studies ``scaling`` (the detector's size), ``noise`` and ``shift`` (unseen hospitals)."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.benchmarks.tables import duration
from simulations.experiments.cells import figure, table_of
from simulations.experiments.results_file import Row

_NOISE = {
    "auc.static_noise": "static noise",
    "auc.burst_noise": "burst noise",
    "auc.baseline_drift": "baseline drift",
    "auc.electrodes_problems": "electrodes",
    "auc.any": "any of them",
    "auc.abnormal": "abnormal, none of them (.5 is right)",
    "sensitivity.any": "found at the gate's rate",
}
_TOGETHER = {"site_macro": "mean of sites", "worst_site": "worst site"}
_AUCS = {"macro_auc.validation": "fold 9 (chooses)", "macro_auc.test": "fold 10"}


def scaling_tables(rows: Sequence[Row]) -> list[str]:
    """Every depth, width and kernel, mean over the others; then the sizes worth their cost, cheapest first."""
    found = {(row.arm, row.metric): row for row in rows}
    arms = [row.arm for row in rows if row.metric == "macs"]
    factors = [row.arm for row in rows if row.metric == "macro_auc.validation" and row.arm not in arms]
    lines = [(arm.replace("-", " "), arm, list(_AUCS)) for arm in factors]
    table = table_of("macro AUC, mean over the other sizes", list(_AUCS.values()), lines, rows)
    titles = [
        *_AUCS.values(),
        "behind the best, fold 9",
        "parameters",
        "kB",
        "million MACs",
        "a record",
        "... trained on",
    ]
    table += ["", f"| blocks, channels, kernel | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for arm in worth_their_cost(rows):
        cost = {name: found[arm, name].value for name in ("parameters", "bytes", "macs", "seconds", "train_seconds")}
        cells = [figure(found[arm, metric]) for metric in (*_AUCS, "behind.validation")]
        cells += [f"{cost['parameters']:,.0f}", f"{cost['bytes'] / 1000:,.0f}", f"{cost['macs'] / 1e6:,.1f}"]
        cells += [duration(cost["seconds"]), duration(cost["train_seconds"])]
        table.append(f"| {arm} | {' | '.join(cells)} |")
    return table


def worth_their_cost(rows: Sequence[Row]) -> list[str]:
    """Arms that no cheaper one equals on the validation fold, by multiply-accumulates: the Pareto front."""
    auc = {row.arm: row.value for row in rows if row.metric == "macro_auc.validation"}
    macs = {row.arm: row.value for row in rows if row.metric == "macs"}
    front: list[str] = []
    for arm in sorted(macs, key=lambda arm: (macs[arm], -auc[arm])):
        if not front or auc[arm] > auc[front[-1]]:
            front.append(arm)
    return front


def noise_tables(rows: Sequence[Row]) -> list[str]:
    """AUC by what the annotators remarked, an arm a row."""
    known = {row.metric for row in rows}
    counts = {row.metric.split(".")[1]: row.value for row in rows if row.arm == "remarked"}
    shown = [metric for metric in _NOISE if metric in known]
    titles = [f"{_NOISE[metric]} ({counts[metric.split('.')[1]]:.0f})" for metric in shown]
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if arm != "remarked"]
    return table_of("AUC (records)", titles, [(arm, arm, shown) for arm in arms], rows)


def shift_tables(rows: Sequence[Row]) -> list[str]:
    """Macro AUC at the hospital that was left out, an arm a row; then what each arm adds to standard augmentation."""
    lines: list[str] = []
    for what, corner in (("macro_auc", "left out: macro AUC"), ("gain", "... less standard augmentation")):
        those = [row for row in rows if row.metric.startswith(f"{what}.")]
        arms, metrics = (list(dict.fromkeys(getattr(row, name) for row in those)) for name in ("arm", "metric"))
        metrics.sort(key=lambda metric: (".site." not in metric, metric))
        titles = [metric.removeprefix(f"{what}.").removeprefix("site.") for metric in metrics]
        titles = [_TOGETHER.get(title, title) for title in titles]
        if those:
            lines += [*([""] if lines else []), *table_of(corner, titles, [(arm, arm, metrics) for arm in arms], those)]
    return lines
