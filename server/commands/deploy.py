"""``lavq deploy``: make, run and look after a federation of several hospitals."""

from __future__ import annotations

import argparse
from pathlib import Path

from lavq_core.cli.help import add_command

HELP = "make and run a federation of several hospitals: certificates, gateway, units, guides"
EXAMPLE = """\
  lavq deploy init federation --sites st-mary,st-john,city --host lavq.example.org
  lavq deploy up federation && lavq deploy status federation
  lavq deploy run federation/server privacy=eps8
  lavq deploy down federation"""

_EXAMPLES = {
    "init": """\
  lavq deploy init federation --sites st-mary,st-john,city --host lavq.example.org""",
    "renew": """\
  lavq deploy renew federation --days 30""",
    "units": """\
  lavq deploy units /srv/lavq/server""",
    "app": """\
  lavq deploy app""",
    "register": """\
  lavq deploy register federation/server""",
    "run": """\
  lavq deploy run federation/server privacy=eps8
  lavq deploy run federation/server --resume 20260101-120000""",
    "up": """\
  lavq deploy up federation""",
    "status": """\
  lavq deploy status federation""",
    "down": """\
  lavq deploy down federation""",
}
_MEANING = {
    "PolicyError": ": its own policy does not permit this run; it finds the reason in its state/events.jsonl",
    "LedgerError": ": its privacy ledger does not permit this run; lavq site check says why there",
}
"""What the server can say of an error of a site, of which it is told the class alone."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    init = _action(actions, "init", _init, "write a deployment: a folder for the server and one for each site")
    init.add_argument("dir", metavar="DIR", help="new folder of the deployment")
    init.add_argument("--sites", required=True, metavar="NAME,...", help="the hospitals' names")
    init.add_argument(
        "--host", default="localhost", metavar="HOST,...", help="the gateway's names, the first is used (localhost)"
    )
    init.add_argument("--port", type=int, default=9443, help="of the gateway (default 9443)")
    init.add_argument("--data", metavar="DIR", help="holds a folder in PTB-XL's layout for each site, by its name")
    init.add_argument("--days", type=float, default=30.0, help="that certificates live (default 30)")
    init.add_argument(
        "--epsilon-max", default="8.0", metavar="EPSILON", help='that policies begin with, or "unlimited" (default 8.0)'
    )
    init.add_argument(
        "--minimum-patients", type=int, default=50, metavar="N", help="that the policies begin with (default 50)"
    )
    init.add_argument("--ca-cert", metavar="PEM", help="your institution's CA, in place of a new one")
    init.add_argument("--ca-key", metavar="PEM", help="its key, not encrypted, elliptic")
    renew = _action(actions, "renew", _renew, "issue the certificates of the gateway and of all sites again")
    renew.add_argument("dir", metavar="DIR", help="the deployment's folder")
    renew.add_argument("--days", type=float, default=30.0, help="that certificates live (default 30)")
    renew.add_argument("--ca-cert", metavar="PEM", help="the CA, unless it lies in DIR/ca")
    renew.add_argument("--ca-key", metavar="PEM", help="its key")
    units = _action(actions, "units", _units, "write systemd units, compose file and guide for a folder's new place")
    units.add_argument("dir", metavar="FOLDER", help="the server's folder, or a site's")
    _action(actions, "app", _app, "print the sha256 of this checkout's app, which sites enter in their policies")
    register = _action(actions, "register", _register, "make the sites' public keys known to the server's SuperLink")
    register.add_argument("dir", metavar="FOLDER", help="the server's folder")
    run = _action(actions, "run", _run, "train: hand this checkout's app to the SuperLink, and wait for the end")
    run.add_argument("dir", metavar="FOLDER", help="the server's folder")
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, of lavq_core/settings.py")
    run.add_argument("--name", help="of the run in state/runs (default: the time)")
    run.add_argument("--resume", metavar="RUN", help="name of a run that was broken off, to go on with")
    for name, function, text in (
        ("up", _up, "run the whole deployment on this machine"),
        ("status", _status, "show how the programs of a deployment on this machine stand"),
        ("down", _down, "end the programs of a deployment on this machine"),
    ):
        _action(actions, name, function, text).add_argument("dir", metavar="DIR", help="the deployment's folder")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    return int(args.action(args) or 0)


def _action(actions: argparse._SubParsersAction, name: str, function: object, text: str) -> argparse.ArgumentParser:
    parser = add_command(actions, name, text, _EXAMPLES[name])
    parser.set_defaults(action=function)
    return parser


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def _authority(args: argparse.Namespace) -> tuple[Path, Path] | None:
    from lavq_core.errors import ConfigError

    if bool(args.ca_cert) != bool(args.ca_key):
        raise ConfigError("--ca-cert and --ca-key belong together")
    return (Path(args.ca_cert), Path(args.ca_key)) if args.ca_cert else None


def _init(args: argparse.Namespace) -> None:
    from server.deployment.init import Plan, write_deployment

    plan = Plan(
        sites=args.sites.split(","),
        names=[name for name in args.host.split(",") if name],
        port=args.port,
        data=Path(args.data) if args.data else None,
        apps=_apps(),
        epsilon_max=args.epsilon_max if args.epsilon_max != "unlimited" else '"unlimited"',
        minimum_patients=args.minimum_patients,
        days=args.days,
        authority=_authority(args),
    )
    deployment = write_deployment(Path(args.dir), plan)
    _say(f"server: {deployment.server.root}, start with OPERATING.md there")
    for node in deployment.sites():
        _say(f"site:   {node.root}, with an OPERATING.md of its own")
    _say("secrets are readable by you alone; keep the ca folder apart from both")


def _apps() -> list[str]:
    from server.deployment.submission import CHECKOUT
    from server.flower_adapter import app_digest

    return [app_digest(CHECKOUT)] if (CHECKOUT / "pyproject.toml").is_file() else []


def _app(args: argparse.Namespace) -> None:
    from lavq_core.errors import RunError

    found = _apps()
    if not found:
        raise RunError("this is an installed package: clone the repository and run from there, as an app is a checkout")
    print(found[0])  # noqa: T201 -- meant for a pipe


def _renew(args: argparse.Namespace) -> None:
    from server.deployment.certificates import Authority
    from server.deployment.folders import Deployment
    from server.deployment.init import issue

    deployment = Deployment.open(args.dir)
    issue(deployment, Authority.load(*(_authority(args) or deployment.authority)), args.days)
    names = ", ".join(node.root.name for node in deployment.sites())
    _say(f"renewed for {args.days:g} days: the gateway (restart it) and {names}")


def _units(args: argparse.Namespace) -> None:
    from server.deployment.folders import ServerFolder, SiteNodeFolder
    from server.deployment.init import write_connection
    from server.deployment.rendering import write_units

    root = Path(args.dir).expanduser().resolve()
    server = ServerFolder(root)
    if server.settings_file.is_file():
        write_connection(server)
        write_units(server, 30.0)
    else:
        write_units(SiteNodeFolder(root), 30.0)
    _say(f"written for {root}: units, compose.yaml, Dockerfile, OPERATING.md")


def _register(args: argparse.Namespace) -> None:
    from server.deployment.folders import ServerFolder
    from server.deployment.submission import register_nodes

    for site, outcome in register_nodes(ServerFolder(Path(args.dir).expanduser().resolve())).items():
        _say(f"{site}: {outcome}")


def _run(args: argparse.Namespace) -> None:
    from datetime import datetime

    from lavq_core.runs.layout import RunFolder
    from server.deployment.folders import ServerFolder
    from server.deployment.submission import follow, prepared, submit

    server = ServerFolder(Path(args.dir).expanduser().resolve())
    name = args.resume or args.name or f"run-{datetime.now():%Y%m%d-%H%M%S}"
    run = RunFolder(server.state / "runs" / name)
    overrides = prepared(server, args.overrides, run, bool(args.resume))
    run_id = submit(server, overrides)
    _say(f"run {run_id}: {run.root} (lavq status shows it too; an interrupt here does not end it)")

    def show(event: dict[str, object]) -> None:
        if event["event"] == "round-finished":
            _say(f"round {event['round']}: {event['sites']} sites, {event['seconds']} s")
        elif event.get("status", "ok") != "ok":
            status = str(event["status"])
            _say(f"{event['site']}: {status}{_MEANING.get(status.removeprefix('failed: '), '')}")

    follow(server, run_id, run, show)
    _say(f"finished: {run.root}")


def _up(args: argparse.Namespace) -> None:
    from server.deployment.folders import Deployment
    from server.deployment.loopback import start

    deployment = Deployment.open(args.dir)
    start(deployment, _say)
    _say(f"running: lavq deploy run {deployment.server.root}; lavq deploy down {deployment.root} ends it")


def _status(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from server.deployment.folders import Deployment
    from server.deployment.loopback import status
    from server.deployment.submission import connected_nodes

    deployment = Deployment.open(args.dir)
    rows = status(deployment)
    if not rows:
        _say("not running: lavq deploy up DIR starts it")
        return 1
    table = Table("program", "state", "pid", "starts")
    for row in rows:
        table.add_row(row.name, row.state, str(row.pid or ""), str(row.starts))
    Console().print(table)
    _say(f"{connected_nodes(deployment.server)} of {len(deployment.sites())} sites connected")
    return 0


def _down(args: argparse.Namespace) -> None:
    from server.deployment.folders import Deployment
    from server.deployment.loopback import stop

    _say("ended" if stop(Deployment.open(args.dir)) else "nothing was running")
