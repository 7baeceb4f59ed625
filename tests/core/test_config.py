"""Every setting has a type and a meaning; whatever is refused is refused in one line that says what to do."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lavq_core.config as module
from lavq_core.config import as_overrides, compose, keys, load_config, other_settings, save_config
from lavq_core.errors import ConfigError, LavqError, RunError
from lavq_core.settings import Config

FOLDER = Path(__file__).parents[2] / "configs" / "preset"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def get(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def refusal(*overrides: str) -> str:
    """The one line with which overrides are refused."""
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_a_key_is_a_path_through_the_dataclasses() -> None:
    found = keys()
    assert len(found) == len(set(found))
    assert "federation.rounds" in found
    assert "separator_training.loss.reconstruction" in found  # two levels deep
    config = Config()
    assert not any(dataclasses.is_dataclass(get(config, key)) for key in found)


def test_every_setting_can_be_given_and_comes_back_with_its_type() -> None:
    given_back = compose([f"{key}={get(Config(), key)!r}" for key in keys()])
    assert given_back == Config()
    assert all(type(get(given_back, key)) is type(get(Config(), key)) for key in keys())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes(preset: str) -> None:
    assert isinstance(compose([f"preset={preset}"]), Config)


def test_there_are_the_presets_that_the_documentation_names() -> None:
    described = (module.__doc__ or "").split("``configs/preset``")[1].split(";")[0]
    assert set(re.findall(r"``(\w+)``", described)) == set(PRESETS)


def test_no_override_means_the_sample_preset() -> None:
    assert compose() == compose(["preset=sample"])


def test_an_override_wins_over_its_preset_wherever_it_stands() -> None:
    assert compose(["preset=paper"]).federation.rounds == 24
    for overrides in (["preset=paper", "federation.rounds=3"], ["federation.rounds=3", "preset=paper"]):
        assert compose(overrides).federation.rounds == 3
        assert compose(overrides).data.sampling_rate == 500


def test_presets_can_be_laid_over_each_other() -> None:
    """The later one wins, the earlier one stays where the later one says nothing."""
    files = [OmegaConf.load(FOLDER / f"{preset}.yaml") for preset in ("ptbxl", "paper")]
    first, second, both = (compose([f"preset={preset}"]) for preset in ("ptbxl", "paper", "[ptbxl,paper]"))
    for key in keys():
        if OmegaConf.select(files[1], key) is not None:
            assert get(both, key) == get(second, key)
        elif OmegaConf.select(files[0], key) is not None:
            assert get(both, key) == get(first, key)


def test_what_is_done_to_a_configuration_is_not_seen_in_the_next() -> None:
    first = compose(["federation.rounds=3"])
    first.federation.rounds = 4
    first.federation.share.clear()
    second = compose(["federation.rounds=3"])
    assert second.federation.rounds == 3
    assert second.federation.share == Config().federation.share


def test_composing_leaves_no_trace() -> None:
    compose(["federation.rounds=3", "preset=paper"])
    assert compose() == compose(["preset=sample"])
    assert compose().federation.rounds == Config().federation.rounds


@settings(max_examples=3, deadline=None)
@given(
    rounds=st.integers(1, 10**6),
    rate=st.floats(1e-9, 10.0),
    enabled=st.booleans(),
    folder=st.text(st.characters(categories=["L", "N"], include_characters=" /-_."), max_size=20),
)
def test_values_arrive_as_they_were_written(rounds: int, rate: float, enabled: bool, folder: str) -> None:
    config = compose(
        [
            f"federation.rounds={rounds}",
            f"detector_training.lr={rate!r}",
            f"audit.enabled={str(enabled).lower()}",
            f"run.dir='{folder}'",
        ]
    )
    assert config.federation.rounds == rounds
    assert config.detector_training.lr == rate
    assert config.audit.enabled is enabled
    assert config.run.dir == folder


@pytest.mark.parametrize("written", ["federation.roundz=3", "+federation.roundz=3", "++federation.roundz=3"])
def test_an_unknown_key_is_refused_and_the_nearest_one_named(written: str) -> None:
    message = refusal(written)
    assert "federation.roundz" in message
    assert "federation.rounds" in message


def test_a_key_like_no_other_is_refused_too() -> None:
    assert "xyzzy" in refusal("+xyzzy=1")
    assert "hydra" in refusal("hydra.verbose=true")


def test_an_unknown_preset_is_refused_and_those_there_are_named() -> None:
    message = refusal("preset=huge")
    assert "huge" in message
    assert all(preset in message for preset in PRESETS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("federation.rounds", "many"),
        ("federation.rounds", "2.5"),
        ("federation.rounds", "null"),
        ("federation.rounds", "[1]"),
        ("detector_training.lr", "fast"),
        ("audit.enabled", "maybe"),
        ("federation", "8"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_key(key: str, value: str) -> None:
    message = refusal(f"{key}={value}")
    assert f"{key}={value}" in message


@pytest.mark.parametrize(
    "written", ["federation.rounds", "run.dir=a=b", "federation.rounds=1,2", "=3", "", "preset=null"]
)
def test_what_cannot_be_read_is_refused(written: str) -> None:
    refusal(written)


@pytest.mark.parametrize(
    "written",
    [
        "data.sampling_rate=250",
        "text.source=rumour",
        "run.device=abacus",
        "federation.rounds=0",
        "federation.sites=0",
        "federation.min_sites=5",
        "federation.min_sites=0",
        "separator.gate_threshold=1.0",
        "twins.strength=1.5",
        "codebook.size=1",
        "data.test_fold=9",
        "separator.heads=5",
        "separator.heads=0",
        "separator.stride=6",
        "separator.stride=20",
        "federation.share=[detector]",
        "federation.share=[editor,prior,seperator]",
        "data.train_folds=[8,9]",
        "data.train_folds=[10]",
        "partition.withhold=[MI]",
        "partition.withhold=['site-0:NORM']",
        "partition.withhold=['site-0:FLU']",
        "detector.kernel=4",
        "detector_training.batch=0",
        "separator_training.batch=0",
        "detector_training.epochs=1.5",
        "detector_training.epochs=0",
        "detector_training.steps=-1",
        "federation.strategy=fedsgd",
        "federation.malicious=0",
        "federation.norm_cap=0.5",
        "federation.max_weight_share=0",
        "federation.proximal=-1",
        "detector_training.schedule=staircase",
        "detector_training.warmup=1.0",
        "detector_training.averaging=1.5",
        "detector_training.positive_weights=[1,1,1]",
        "detector_training.positive_weights=[1,1,1,1,0]",
        "detector_training.warp=0.5",
        "calibration.sensitivity=0.0",
    ],
)
def test_impossible_values_are_refused_with_their_key(written: str) -> None:
    assert written.split("=")[0] in refusal(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("[]", []), ("[editor]", ["editor"]), ("[prior,separator]", ["prior", "separator"])],
)
def test_any_of_the_networks_may_be_shared_or_none(written: str, expected: list[str]) -> None:
    assert compose([f"federation.share={written}"]).federation.share == expected


@pytest.mark.parametrize(("rate", "stride"), [(100, 4), (100, 8), (100, 32), (500, 20), (500, 40), (500, 48)])
def test_strides_that_divide_a_beat_are_taken(rate: int, stride: int) -> None:
    config = compose([f"data.sampling_rate={rate}", f"separator.stride={stride}"])
    assert (config.data.sampling_rate, config.separator.stride) == (rate, stride)


@pytest.mark.parametrize("strategy", ["multikrum", "trimmedmean"])
def test_a_robust_strategy_needs_six_replies_and_more_against_more(strategy: str) -> None:
    def of(sites: int, quorum: int, bad: int = 1) -> list[str]:
        numbers = [f"federation.sites={sites}", f"federation.min_sites={quorum}", f"federation.malicious={bad}"]
        return [f"federation.strategy={strategy}", *numbers]

    for good in (of(6, 6), of(8, 7, 2)):
        assert compose(good).federation.strategy == strategy
    for few in (of(5, 5), of(8, 5), of(8, 6, 2)):
        with pytest.raises(ConfigError, match=r"needs [67] good replies a round"):
            compose(few)


def test_two_adams_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="choose one"):
        compose(["federation.strategy=fedadam", "federation.average_moments=true"])


@pytest.mark.parametrize(("epochs", "steps"), [(0.25, 36), (3.0, 3), (5.0, 0)])
def test_a_fraction_of_an_epoch_needs_steps(epochs: float, steps: int) -> None:
    training = compose([f"detector_training.epochs={epochs}", f"detector_training.steps={steps}"]).detector_training
    assert (training.epochs, training.steps) == (epochs, steps)
    with pytest.raises(ConfigError, match=r"detector_training\.steps"):
        compose(["detector_training.epochs=4", "detector_training.steps=3"])


@pytest.mark.parametrize("epsilon", [8, 3, 1])
def test_a_privacy_preset_sets_all_that_belongs_together(epsilon: int) -> None:
    config = compose([f"privacy=eps{epsilon}", "preset=ptbxl"])
    assert config.privacy.epsilon == epsilon
    assert (config.detector.kind, config.separator_training.steps, config.federation.share) == ("features", 0, [])
    assert compose(["privacy=off"]) == compose([])


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("detector.kind=resnet", "clipped per patient"),
        ("separator_training.steps=5 codebook.ema=.9", "codebook.ema=0"),
        ("separator_training.steps=5 separator_training.loss.identity=.1", "loss.identity=0"),
        ("federation.rounds=1", "federation.rounds=2"),
        ("privacy.delta=0", "privacy.delta"),
        ("privacy.clipping_norm=0", "privacy.clipping_norm"),
        ("federation.average_moments=true", "average_moments"),
        ("detector_training.steps=0", "detector_training.steps"),
    ],
)
def test_what_would_leave_unnoised_is_refused(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        compose(["privacy=eps8", *override.split()])


def test_an_unknown_privacy_preset_names_those_that_exist() -> None:
    assert "eps8" in refusal("privacy=eps2")


def test_a_configuration_survives_the_disk(tmp_path: Path) -> None:
    config = compose(["preset=paper", "federation.rounds=3", "run.dir='/a b/ü: #c'", "separator_training.lr=1e-7"])
    save_config(config, tmp_path / "deep" / "config.yaml")
    assert load_config(tmp_path / "deep" / "config.yaml") == config
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "content",
    [b"", b"- 1\n", b"just words", b"a: [", b"\x00", b"\xff\xfe", b"federation:\n  rounds: x\n", b"unknown: 1\n"],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(RunError) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LavqError, match=r"config\.yaml"):
        load_config(tmp_path / "config.yaml")


def test_a_whole_configuration_can_be_given_as_overrides() -> None:
    """As when a run goes on with its own settings."""
    odd = [
        "data.cache_dir=''",
        "run.dir='/a b/it\\'s ü: #c'",
        "text.encoder='a,b=[c]\\\\'",
        "partition.withhold=['site-2:MI']",
    ]
    config = compose(["preset=paper", "separator_training.lr=1e-7", "federation.share=[]", *odd])
    assert config.text.encoder == "a,b=[c]\\"
    assert compose(as_overrides(config)) == config


def test_settings_that_change_a_figure_are_told_from_those_that_do_not() -> None:
    first = compose(["run.dir=/a"])
    same = compose(["run.dir=/b", "run.resume=true", "federation.round_timeout=1", "data.cache_dir=/c"])
    other = compose(["run.seed=3", "federation.share=[prior]", "run.dir=/b"])
    assert other_settings(first, same) == {}
    assert other_settings(first, other) == {
        "run.seed": (0, 3),
        "federation.share": (["separator", "editor", "prior"], ["prior"]),
    }
