"""Site policies of the tests."""

from __future__ import annotations

from pathlib import Path

LAUNCHED = "a" * 64  # sha256 of the bundle that a deployed hospital's launcher has checked
POLICY = {
    "epsilon_max": '"unlimited"',
    "apps": f'["{LAUNCHED}"]',
    "outgoing": '["detector", "codebook", "separator", "editor", "prior", "moments"]',
    "minimum_patients": "0",
    "log": "{measures = true, tracebacks = true}",
}


def write_policy(path: Path, **changed: str | None) -> Path:
    """Write a policy that permits everything but what is changed; None leaves a key out."""
    lines = [f"{key} = {value}" for key, value in {**POLICY, **changed}.items() if value is not None]
    path.write_text("\n".join(lines) + "\n")
    return path
