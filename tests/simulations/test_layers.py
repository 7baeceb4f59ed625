"""Who may import whom, and what the command line promises before it loads anything heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "lavq_core": {"flwr", "client", "server", "simulations", "ray"},
    "server": {"client", "simulations"},
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_no_package_above_it(package):
    found = {file: imported(file) & FORBIDDEN[package] for file in (ROOT / package).rglob("*.py")}
    assert found
    assert {file: names for file, names in found.items() if names} == {}


def test_only_the_adapters_touch_flowers_private_api():
    private = []
    for package in ("client", "server", "simulations"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if re.search(r"flwr\.(supercore|supernode|superlink|common|proto|server\.|cli\b)", text):
                private.append(file.relative_to(ROOT).as_posix())
    assert sorted(private) == [
        "client/flower_adapter.py",
        "server/deployment/superlink.py",
        "server/flower_adapter.py",
    ]


def test_help_loads_neither_torch_nor_flower():
    code = (
        "import sys; from lavq_core.cli.main import _commands, _parser; _parser(_commands()).format_help();"
        "sys.exit(bool({'torch', 'flwr', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", ["README.md", "pyproject.toml", "Makefile", "simulations/sample/README.md"])
def test_no_document_names_a_machines_path_or_another_readers_registry(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert "/root/" not in text
    assert "/tmp/" not in text
