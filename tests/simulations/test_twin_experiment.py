"""The arms, controls and averages of the experiments on twins, on the bundled sample and an untrained generator."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.codebook import initial_codebook
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.models.twins import Patients
from lavq_core.training.detector_training import LabelledEcgs
from lavq_core.training.site_data import SiteData
from simulations.experiments.generators import Generator
from simulations.experiments.pool import each_seed
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row
from simulations.experiments.seeds import over_seeds
from simulations.experiments.separator_figures import THRESHOLDS, diversity_rows, separator_rows
from simulations.experiments.transfer import _with_class
from simulations.experiments.transfer_arms import DISEASES
from simulations.experiments.transfer_arms import Arms as TransferArms
from simulations.experiments.twin_arms import Arms
from simulations.judges.bench import Bench, TwinSet
from simulations.judges.plan import make_plan

MI = SUPERCLASSES.index("MI")


@pytest.fixture(scope="module")
def database(sample_database: Database) -> Database:
    return sample_database


@pytest.fixture(scope="module")
def generator() -> Generator:
    """An untrained generator whose gate opens for some tokens and whose codes are known."""
    config = compose(["codebook.size=8", "separator.width=16", "separator.blocks=1", "separator.heads=2"])
    codebook = initial_codebook(config.codebook, beat_tokens(config), 0)
    codebook["prior"][MI, :, :8] = 1.0
    codebook["requests"][MI] = 1.0
    networks = make_networks(config, 0)
    with torch.no_grad():  # as drawn, all gates lie on one side of the threshold
        networks.separator.gate.weight.mul_(50.0)
    return Generator(networks, codebook, config)


@pytest.fixture(scope="module")
def arms(database: Database, generator: Generator) -> Arms:
    plan = make_plan(database, database.beats, 0)
    return Arms(generator, Bench(database, database.beats, plan, None, 0), 0)  # type: ignore[arg-type]  # no jury


def test_a_mean_of_rates_is_no_less_than_nothing() -> None:
    rates = [Row("off", "tpr", value, 0.0, 0.04, 400, 1) for value in (0.0, 0.0, 0.03)]
    assert over_seeds(rates)[0].low == 0.0
    gains = [Row("own", "gain", value, value - 0.02, value + 0.02, 400, 1) for value in (0.0, 0.0, 0.03)]
    assert over_seeds(gains)[0].low < 0.0


def test_the_mean_over_seeds_holds_patients_and_trainings() -> None:
    rows = [Row("prior", "x", value, value - 0.1, value + 0.2, 10, 1) for value in (0.5, 0.6, 0.7)]
    (mean,) = over_seeds(rows)
    error = 1.96 * 0.1 / math.sqrt(3)
    assert (mean.value, mean.seeds) == (pytest.approx(0.6), 3)
    assert mean.low == pytest.approx(0.6 - math.hypot(0.1, error))
    assert mean.high == pytest.approx(0.6 + math.hypot(0.2, error))


def test_arms_are_not_mixed_and_a_figure_that_nobody_could_give_is_left_out() -> None:
    rows = [Row("a", "x", 1.0, 1.0, 1.0, 1, 1), Row("b", "x", 0.0, 0.0, 0.0, 1, 1), Row("b", "y", math.nan, 0, 0, 1, 1)]
    assert {(row.arm, row.metric): row.value for row in over_seeds(rows)} == {("a", "x"): 1.0, ("b", "x"): 0.0}


def test_seeds_come_back_in_their_order() -> None:
    assert each_seed(pow, [(2, 3), (3, 2), (5, 1)], 2, "done") == [8, 9, 5]


def test_an_untouched_answer_is_the_patient_bit_for_bit(arms: Arms) -> None:
    twins = arms.make("unedited")
    torch.testing.assert_close(torch.from_numpy(twins.signal), arms.patients.signal, rtol=0, atol=0)


@pytest.mark.parametrize("arm", ["prior", "counts", "donor", "shuffled", "untrained", "graft"])
def test_every_arm_answers_every_request_and_touches_nothing_outside(arms: Arms, arm: str) -> None:
    twins = arms.make(arm)
    assert isinstance(twins, TwinSet)
    assert len(twins.signal) == len(arms.bench.plan)
    outside = np.broadcast_to(twins.envelope[:, None] == 0, twins.signal.shape)
    assert np.array_equal(twins.signal[outside], arms.patients.signal.numpy()[outside])


def test_a_graft_brings_the_real_record_s_median_beat(arms: Arms) -> None:
    twins, W = arms.make("graft"), arms.real.x.shape[-1]
    core = slice(W // 3 - 4, W // 3 + 30)  # around the R peak, well inside the graft

    def apart(to: np.ndarray) -> np.ndarray:
        return np.abs(twins.median - to)[..., core].mean(axis=(1, 2))

    assert np.median(apart(arms.real.x.numpy())) < 0.25 * np.median(apart(arms.patients.input.x.numpy()))


def test_shuffled_requests_share_no_class_with_what_they_are_judged_for(arms: Arms) -> None:
    plan = arms.bench.plan
    labels_of = dict(zip(plan.statements, plan.labels, strict=True)) | {(): np.zeros(len(SUPERCLASSES))}
    for own, asked in zip(plan.labels, arms._swapped(), strict=True):
        assert float(own @ labels_of[asked]) == 0.0


def test_a_higher_threshold_opens_no_token_that_a_lower_one_leaves_shut(arms: Arms) -> None:
    opened = [arms.donor_symbols(threshold) < len(arms.generator.codes) for threshold in THRESHOLDS]
    for low, high in pairwise(opened):
        assert not (high & ~low).any()


def test_separator_and_diversity_figures_are_shares_with_intervals(arms: Arms) -> None:
    rows = [*separator_rows(arms), *diversity_rows(arms)]
    shares = [row for row in rows if not row.metric.startswith("diversity")]
    assert {"gate_norm", "gate_abnormal", "shuffled_report_iou", "segment.STTC", "segment.CD"} <= {
        r.metric for r in rows
    }
    assert all(0.0 <= row.low <= row.value <= row.high <= 1.0 for row in shares if not math.isnan(row.value))


def test_a_withheld_class_is_gone_from_training_and_back_for_the_full_arm(
    database: Database, generator: Generator
) -> None:
    everybody = np.arange(len(database))
    lacking = SiteData("site", database, everybody, generator.config, ("MI",))
    whole = SiteData("site", database, everybody, generator.config)
    assert float(lacking.ecgs.y[:, MI].sum()) == 0.0
    assert len(lacking.ecgs) + len(_with_class(whole, "MI")) == len(whole.ecgs)
    assert len(lacking.fold_positions(10)) == len(whole.fold_positions(10))


@pytest.fixture(scope="module")
def lacking(database: Database, generator: Generator) -> TransferArms:
    site = SiteData("site", database, np.arange(len(database)), generator.config, ("MI",))
    return TransferArms(generator, site, seed=0, each=2)


def labels_of(extra: LabelledEcgs) -> dict[str, int]:
    assert torch.equal(extra.y.sum(dim=1), torch.ones(len(extra)))
    return {name: int(extra.y[:, column].sum()) for column, name in enumerate(SUPERCLASSES)}


def test_every_healthy_patient_gets_as_many_twins_of_each_disease_as_asked(lacking: TransferArms) -> None:
    extra, patients = lacking.of_healthy(["MI", "CD"]), len(lacking.site.healthy)
    assert labels_of(extra) == {"NORM": 0, "MI": 2 * patients, "STTC": 0, "CD": 2 * patients, "HYP": 0}
    first, second = extra.x[:patients], extra.x[patients : 2 * patients]
    assert not torch.equal(first, second)  # two statements, two draws
    assert float((first - second).abs().median()) < 0.05  # mV, the same patients


def test_twins_of_a_disease_are_the_same_in_every_arm(lacking: TransferArms) -> None:
    alone, among = lacking.of_healthy(["CD"]), lacking.of_healthy(["MI", "CD"])
    assert torch.equal(alone.x, among.x[len(alone) :])


def test_twins_of_everybody_keep_the_diseases_of_their_record(lacking: TransferArms) -> None:
    extra, site = lacking.of_everybody(("MI", "CD")), lacking.site
    positions = site.with_beats(site.train_positions)
    own = torch.from_numpy(site.database.labels[positions.repeat(2)])
    assert len(extra) == 2 * len(positions)
    assert float(extra.y[:, 0].sum()) == 0.0
    assert bool((extra.y[:, 1:] >= own[:, 1:]).all())
    added = extra.y[:, 1:] - own[:, 1:]
    assert int(added[:, MI - 1].sum()) == len(positions)  # every second; nobody else here has it
    assert float(added[:, [1, 3]].sum()) == 0.0  # STTC and HYP were not asked for


def test_mislabelled_twins_have_the_label_and_the_shape_of_others(
    lacking: TransferArms, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.Tensor] = []

    def made(_: TransferArms, patients: Patients, classes: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        asked.append(classes)
        return patients.signal

    monkeypatch.setattr(TransferArms, "_made", made)
    right, wrong = lacking.of_everybody(DISEASES), lacking.of_everybody(DISEASES, mislabelled="MI")
    assert torch.equal(wrong.y, right.y)
    theirs = asked[0] == MI
    assert torch.equal(asked[0][~theirs], asked[1][~theirs])
    assert set(asked[1][theirs].tolist()) == {2, 3, 4}
    assert bool((right.y[theirs, MI] == 1).all())


def test_oversampling_changes_no_ecg(lacking: TransferArms) -> None:
    same = lacking.unedited("MI")
    assert torch.equal(same.x, lacking.patients.signal)
    assert labels_of(same)["MI"] == len(lacking.patients) == len(lacking.site.healthy)


def test_records_are_rewritten_with_their_own_labels_and_healed_as_normal_ones(lacking: TransferArms) -> None:
    extra, site = lacking.rewritten(), lacking.site
    positions = site.with_beats(site.train_positions)
    positions = positions[site.database.labels[positions][:, 1:].any(axis=1)]
    half = len(positions)
    assert len(extra) == 2 * half
    assert np.array_equal(extra.y[:half].numpy(), site.database.labels[positions])
    assert float(extra.y[:, MI].sum()) == 0.0  # the withheld class does not come back this way
    assert labels_of(LabelledEcgs(extra.x[half:], extra.y[half:], extra.weight[half:]))["NORM"] == half
    changed = (extra.x[:half] - site.database.signals(positions)).abs().amax(dim=(1, 2)) > 0
    assert float(changed.float().mean()) > 0.5
    assert not torch.equal(extra.x[:half], extra.x[half:])


def test_codes_are_drawn_from_counts_where_no_prior_network_travels(lacking: TransferArms) -> None:
    drawn = TransferArms(lacking.generator, lacking.site, seed=0, counts=True).of_healthy(["MI"])
    assert not torch.equal(drawn.x, lacking.unedited("MI").x)
    assert not torch.equal(drawn.x, lacking.of_healthy(["MI"]).x[: len(drawn)])


def test_tables_show_every_class_and_leave_unknown_figures_empty() -> None:
    lines = LAYOUTS["twins"]([Row("prior", "identity_top1.MI", 0.5, 0.4, 0.6, 10, 3)])
    (line,) = [line for line in lines if line.startswith("| finds its patient")]
    assert line == "| finds its patient among 400 | .500 [.400, .600] |  |  |  |"
    rows = [Row("twins/all", "gap_closed.MI", -0.25, -0.25, -0.25, 10, 3)]
    assert "-.250" in "\n".join(LAYOUTS["transfer"](rows))
    sent = LAYOUTS["transfer"]([Row("twins/all", "bytes_up.MI", 780102.25, 780102.25, 780102.25, 1, 1)])
    assert "780,102 [780,102, 780,102]" in sent[-1]
