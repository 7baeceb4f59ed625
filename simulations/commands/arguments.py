"""Arguments that every command which trains takes."""

from __future__ import annotations

import argparse


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``KEY=VALUE ...`` and ``--data``."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as Hydra writes them")
    parser.add_argument("--data", metavar="DIR", help="a folder in PTB-XL's layout (default: the bundled sample)")
