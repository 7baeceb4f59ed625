"""``lavq serve``: a site's inference service."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import Event

    from client.serving.server import Listening
    from server.deployment.folders import SiteNodeFolder

HELP = "answer detections and twins over gRPC, with the newest model that the site has accepted"
EXAMPLE = """\
  lavq serve --site /etc/lavq/st-mary
  lavq serve --site /etc/lavq/st-mary --listen 0.0.0.0:50051 --certificate serve.crt --key serve.key
  lavq serve --run runs/demo --insecure
  grpcurl -cacert /etc/lavq/st-mary/certificates/loopback.crt localhost:50051 list"""


_LISTEN = "127.0.0.1:50051"
_LOOK = 1.0  # s between two looks for a site's first model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--site", metavar="FOLDER", help="a deployed site's folder; a newer round's model is taken over")
    what.add_argument("--run", metavar="RUN", help="a run folder")
    parser.add_argument("--calibration", metavar="JSON", help="with --run: a site's calibration.json")
    parser.add_argument("--wait", action="store_true", help="with --site: begin when the site has its first model")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help=f"default: with --site as its site.toml says, otherwise {_LISTEN}"
    )
    parser.add_argument(
        "--certificate", metavar="PEM", help="of the service (with --site: certificates/inference.crt, or loopback.crt)"
    )
    parser.add_argument("--key", metavar="PEM", help="its key")
    parser.add_argument("--client-ca", metavar="PEM", help="clients must show a certificate of this CA")
    parser.add_argument("--insecure", action="store_true", help="no TLS; on the loopback interface only")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="requests worked on at the same time (default 2)"
    )
    parser.add_argument("--max-message", type=int, default=32, metavar="MIB", help="largest message (default 32 MiB)")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import logging

    import torch

    from client.serving.server import Listening
    from lavq_core.errors import ConfigError

    if args.workers < 1 or args.max_message < 1:
        raise ConfigError("--workers and --max-message must be at least 1")
    if args.wait and not args.site:
        raise ConfigError("--wait belongs to --site: a run folder's model is there or not")
    certificate, key = _certificate(args)
    client_ca = Path(args.client_ca) if args.client_ca else None
    address = args.listen or (_site(args).settings().inference if args.site else _LISTEN)
    listening = Listening(address, certificate, key, client_ca, args.workers, args.max_message)
    torch.set_num_threads(1)  # requests share the cores
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with _told_to_end() as ending:
        _serve(args, listening, ending)
    return 0


def _serve(args: argparse.Namespace, listening: Listening, ending: Event) -> None:
    """Answer requests, with ``--wait`` from the first model on, until told to end."""
    from rich.console import Console

    from client.serving.model import ServedModel, has_model, model_folder
    from client.serving.server import InferenceServer

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if args.wait and not has_model(args.site):
        console.print("waiting for the site's first model: it comes with the second round, or at a run's end")
        while not has_model(args.site):
            if ending.wait(_LOOK):
                return
    model = ServedModel(model_folder(args.run, args.site), args.calibration)
    server = InferenceServer(model, listening)
    served = model.now()
    host, tls = listening.address.rpartition(":")[0], "with TLS" if listening.certificate else "WITHOUT TLS"
    console.print(f"listening on {host}:{server.port} {tls}: round {served.round}, model {served.digest[:12]}")
    console.print("research use, not a medical device; nothing of a request is kept")
    while not ending.wait(1.0):  # a signal that another thread receives does not wake this one
        pass
    server.close()


@contextmanager
def _told_to_end() -> Iterator[Event]:
    """Make an event that SIGTERM and Ctrl-C set; afterwards they do again what they did before."""
    import signal
    from threading import Event

    ending = Event()
    before = {number: signal.signal(number, lambda *_: ending.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _certificate(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Find certificate and key: given, the site's own, or none where that is said."""
    from lavq_core.errors import ConfigError

    if bool(args.certificate) != bool(args.key) or (args.insecure and args.certificate):
        raise ConfigError("--certificate and --key belong together, and --insecure stands alone")
    if args.insecure and args.client_ca:
        raise ConfigError("--client-ca needs TLS: leave out --insecure")
    if args.certificate:
        return Path(args.certificate), Path(args.key)
    if args.insecure:
        return None, None
    if args.site:
        own = _site(args).certificate("inference")
        return own if own[0].is_file() else _site(args).certificate("loopback")
    raise ConfigError("give --certificate and --key, or --insecure for the loopback interface")


def _site(args: argparse.Namespace) -> SiteNodeFolder:
    from server.deployment.folders import SiteNodeFolder

    return SiteNodeFolder(Path(args.site).expanduser().resolve())
