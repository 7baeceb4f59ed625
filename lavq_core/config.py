"""Hydra composes presets and overrides into one ``Config``; the settings themselves are in ``lavq_core.settings``.

The presets lie in ``configs/preset``: ``sample`` (minutes on a CPU), ``ptbxl`` (the whole database), ``detector`` (one
centralised detector, no twins) and ``paper`` (GPU size, 500 Hz); ``configs/privacy`` holds ``off``, ``eps8``, ``eps3``
and ``eps1``. An override is written as Hydra writes it: ``federation.rounds=8 preset=ptbxl privacy=eps8``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from lavq_core.errors import ConfigError, RunError
from lavq_core.runs.layout import write_atomic
from lavq_core.settings import Config
from lavq_core.settings_check import check

_NO_FIGURE = (
    "run.dir", "run.resume", "run.tensorboard", "data.cache_dir", "detector.pretrained", "detector.start",
    "federation.join_timeout", "federation.round_timeout", "federation.retries", "federation.nodes",
)  # fmt: skip

_GROUPS = ("preset", "privacy")  # folders of ``configs``, each of which an override may choose from

ConfigStore.instance().store(name="schema", node=Config)


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose presets and overrides.

    Args:
        overrides: Hydra overrides, for example ``["preset=ptbxl", "federation.rounds=8"]``.

    Raises:
        ConfigError: a key or preset that does not exist, a value of the wrong type or out of range.
    """
    config = deepcopy(_composed(tuple(overrides)))
    check(config)
    return config


@lru_cache(maxsize=8)  # where server and sites share a process, each of them composes the same
def _composed(overrides: tuple[str, ...]) -> Config:
    for override in overrides:
        _require_setting(override.lstrip("+~").split("=", 1)[0].split("@")[0])
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("configs", version_base="1.3"):
            composed = hydra_compose("config", overrides=list(overrides))
            return cast(Config, OmegaConf.to_object(composed))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error)) from error


def save_config(config: Config, path: Path) -> None:
    """Write the configuration as resolved, as YAML."""
    write_atomic(path, OmegaConf.to_yaml(OmegaConf.structured(config)))


def load_config(path: Path) -> Config:
    """Read what ``save_config`` wrote.

    Raises:
        RunError: the file is not a configuration of this version.
    """
    try:
        stored = OmegaConf.load(path)
        if not isinstance(stored, DictConfig) or not stored:
            raise ValueError("it holds no settings")
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), stored)))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise RunError(f"{path} is not a configuration of this version of lavq: {_first_line(error)}") from error


def other_settings(first: Config, second: Config) -> dict[str, tuple[Any, Any]]:
    """Return both values of every setting in which two configurations of one training differ.

    Left out is what changes no figure: where files lie, what else is written, and how long a server waits.
    """
    values, others = figure_settings(first), figure_settings(second)
    return {key: (values[key], others[key]) for key in values if values[key] != others[key]}


def figure_settings(config: Config) -> dict[str, Any]:
    """Return by dotted key the settings that a run's figures depend on, see ``other_settings``."""
    return {key: attrgetter(key)(config) for key in keys() if key not in _NO_FIGURE}


def as_overrides(config: Config) -> list[str]:
    """Write a whole configuration as overrides, from which ``compose`` makes it again."""
    return [f"{key}={_written(attrgetter(key)(config))}" for key in keys()]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else str(value)


def keys(node: Any = Config, prefix: str = "") -> list[str]:
    """Return every dotted key of the configuration, in order."""
    result = []
    instance = node() if isinstance(node, type) else node
    for item in fields(instance):
        value = getattr(instance, item.name)
        if is_dataclass(value):
            result += keys(value, f"{prefix}{item.name}.")
        else:
            result.append(prefix + item.name)
    return result


def _require_setting(key: str) -> None:
    """Refuse a key that is neither a setting nor a section of settings, and name the nearest one."""
    known = keys()
    if key in _GROUPS or any(name == key or name.startswith(f"{key}.") for name in known):
        return
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "`lavq run --help` shows where settings are listed"
    raise ConfigError(f"there is no setting {key!r}: {hint}")


def _explain(error: Exception) -> str:
    """One line that names the setting and what is wrong with its value."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).partition("/")
        return f"there is no {group} {name!r}: choose one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"override {error.override!r} cannot be read: write KEY=VALUE, and quote a value with special characters"
    line = _first_line(error).removeprefix("Error merging override ")
    cause = f": {_first_line(error.__cause__)}" if isinstance(error.__cause__, Exception) else ""
    return f"the configuration cannot be composed: {line}{cause}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
