"""Settings may stand anywhere in a command line."""

from __future__ import annotations

import pytest

from lavq_core.cli.arguments import CommandParser


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="lavq")
    commands = parser.add_subparsers()
    trains = commands.add_parser("train")
    trains.add_argument("name")
    trains.add_argument("overrides", nargs="*")
    trains.add_argument("--arms", nargs="+", default=["all"])
    trains.add_argument("--data")
    commands.add_parser("show").add_argument("file")
    return parser


@pytest.mark.parametrize(
    "words",
    [
        "one preset=ptbxl +data.dir='/a=b' --arms x y --data /some/place",
        "one --arms x y preset=ptbxl --data /some/place +data.dir='/a=b'",
        "preset=ptbxl --data /some/place +data.dir='/a=b' --arms x y -- one",
        "--arms x y preset=ptbxl +data.dir='/a=b' --data /some/place one",
    ],
)
def test_before_between_and_behind_options(parser: CommandParser, words: str) -> None:
    args = parser.parse_args(["train", *words.split()])
    assert (args.name, args.arms, args.data) == ("one", ["x", "y"], "/some/place")
    assert args.overrides == ["preset=ptbxl", "+data.dir='/a=b'"]


def test_what_is_no_setting_is_left_to_argparse(parser: CommandParser, capsys: pytest.CaptureFixture[str]) -> None:
    args = parser.parse_args(["train", "one", "--data", "/a/b=c", "preset=ptbxl"])
    assert (args.data, args.overrides) == ("/a/b=c", ["preset=ptbxl"])
    with pytest.raises(SystemExit):
        parser.parse_args(["train", "one", "--dose=2"])
    assert "unrecognized arguments: --dose=2" in capsys.readouterr().err


def test_a_command_without_settings_keeps_its_words(parser: CommandParser) -> None:
    assert parser.parse_args(["show", "a=b"]).file == "a=b"
