"""Look at a site before it joins: everything that would fail later, said in words and at once."""

from __future__ import annotations

import asyncio
import email.utils
import os
import shutil
import stat
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.policy import SitePolicy
from client.sidecar import REFUSED, connect, in_words
from client.site_ledger import fingerprint, ledger_in_words, open_data, site_ledger
from lavq_core.config import load_config
from lavq_core.data.database import Database
from lavq_core.errors import LavqError
from lavq_core.models.pretrained import pretrained_network, weights_sha256
from lavq_core.privacy.ledger import LedgerError
from lavq_core.runs.layout import SiteFolder
from server.deployment.folders import SiteNodeFolder

OK, WARNING, WRONG = "ok", "warning", "wrong"
_FEW_DAYS = 7.0  # that a certificate still lives: time to renew
_AHEAD, _BEHIND = 4.0, 60.0  # s; Flower's server refuses what was signed 5 s in its future, or 305 s in its past
_PATIENCE = 15.0  # s, for the gateway
_RATE = 100  # Hz, at which the data are looked at
_ROOM = 2**30  # bytes that a site should have free


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: str  # ok, warning or wrong
    topic: str
    text: str


def check_site(folder: SiteNodeFolder, network: str = "") -> Iterator[Finding]:
    """Look at one thing after another; what cannot be looked at because another thing is wrong is left out.

    Args:
        folder: the site's.
        network: sha256 of the pre-trained network that a coming run will ask for; empty: that of the last one.
    """
    try:
        folder.settings()
    except LavqError as error:
        yield Finding(WRONG, "settings", str(error))
        return
    yield from _secrets(folder)
    policy = None
    try:
        policy = SitePolicy.load(folder.policy)
        yield from _policy(policy)
    except LavqError as error:
        yield Finding(WRONG, "policy", str(error))
    database = yield from _data(folder, policy)
    if database is not None:
        yield _ledger(folder, policy, database)
    yield _pretrained(SiteFolder(folder.state), network)
    yield from _disk(folder.state)
    for name, days_matter in (("site", True), ("loopback", True)):
        yield _certificate(folder, name, days_matter)
    yield from _node_key(folder)
    yield from asyncio.run(_gateway(folder))


def _secrets(folder: SiteNodeFolder) -> Iterator[Finding]:
    files = [*(folder.certificate(name)[1] for name in ("site", "loopback")), folder.node_key, folder.superexec_secret]
    missing = [file.name for file in files if not file.is_file()]
    loose = [file.name for file in files if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o077]
    if missing:
        yield Finding(WRONG, "secrets", f"{', '.join(missing)} not in secrets/: ask the server's operator")
    if loose:
        yield Finding(WRONG, "secrets", f"others can read {', '.join(loose)}: chmod 600 secrets/*")
    if not missing and not loose:
        yield Finding(OK, "secrets", "all there, readable by their owner alone")


def _policy(policy: SitePolicy) -> Iterator[Finding]:
    epsilon = "no bound on epsilon" if policy.epsilon_max is None else f"epsilon at most {policy.epsilon_max:g}"
    apps = len(policy.apps or ())
    yield Finding(OK, "policy", f"{epsilon}; {apps} app(s); lets out {', '.join(sorted(policy.outgoing)) or 'nothing'}")
    if apps == 0:
        yield Finding(WRONG, "policy", "apps is empty, so every app is refused: enter the sha256 of a reviewed one")
    if policy.log_tracebacks:
        yield Finding(WARNING, "policy", "log.tracebacks is on: the event log may name patients")


def _data(folder: SiteNodeFolder, policy: SitePolicy | None) -> Generator[Finding, None, Database | None]:
    """Look at the data, and return them if they can be opened."""
    try:
        database = open_data(folder, _RATE)
    except LavqError as error:
        yield Finding(WRONG, "data", str(error))
        return None
    table, verdicts = database.table, database.quality["verdict"].value_counts()
    patients = table.loc[table["strat_fold"] <= 8, "patient_id"].nunique()
    yield Finding(
        OK, "data", f"{len(table)} records of {table['patient_id'].nunique()} patients, {patients} to train on"
    )
    rejected, flagged = int(verdicts.get("reject", 0)), int(verdicts.get("flag", 0))
    share = rejected / len(database.quality)
    quality = f"{rejected} records rejected, {flagged} flagged; state/data_report.json names them after the first round"
    yield Finding(WARNING if share > 0.1 else OK, "quality", quality)
    if policy is not None and patients < policy.minimum_patients:
        text = f"{patients} patients to train on where the policy asks for {policy.minimum_patients}: it will refuse"
        yield Finding(WRONG, "data", text)
    return database


def _ledger(folder: SiteNodeFolder, policy: SitePolicy | None, database: Database) -> Finding:
    try:
        return Finding(OK, "ledger", ledger_in_words(site_ledger(folder, policy, fingerprint(database))))
    except LedgerError as error:
        if not error.belongs_to:
            return Finding(WRONG, "ledger", str(error))
        # Only a private run would be refused, and one that reads another rate would not.
        return Finding(WARNING, "ledger", f"of the data at {_RATE} Hz: {error}")


def _pretrained(state: SiteFolder, wanted: str) -> Finding:
    """Look at the site's copy of the network on public ECGs that a private run may read (``detector.pretrained``)."""
    here, topic = state.pretrained, "pretrained"
    accepted = state.accepted.config
    try:
        last = load_config(accepted).detector.pretrained_sha256 if accepted.is_file() else ""
        if not here.root.exists():
            if not (wanted or last):
                return Finding(OK, topic, "no network here, and no run so far has asked for one")
            text = f"{here.root} is not there: put the export of the network with sha256 {wanted or last} into it"
            return Finding(WRONG, topic, text)
        theirs, found = load_config(here.config), weights_sha256(here)
        asking = replace(theirs.detector, pretrained=str(here.root), pretrained_sha256=found)
        pretrained_network(asking, theirs.data.sampling_rate)
    except LavqError as error:
        return Finding(WRONG, topic, str(error))
    about = f"a network that reads {theirs.data.sampling_rate} Hz, sha256 {found}"
    if found == (wanted or last or found):
        return Finding(OK, topic, about)
    if wanted:
        return Finding(WRONG, topic, f"{about}, and the run asks for {wanted}: get that one from the server's operator")
    return Finding(WARNING, topic, f"{about}; the last run asked for {last}")


def _disk(state: Path) -> Iterator[Finding]:
    if not os.access(state, os.W_OK):
        yield Finding(WRONG, "disk", "state/ cannot be written")
    elif (free := shutil.disk_usage(state).free) < _ROOM:
        yield Finding(
            WARNING, "disk", f"{free / 2**20:.0f} MiB free: what cannot be written here does not leave either"
        )


def _certificate(folder: SiteNodeFolder, name: str, days_matter: bool) -> Finding:
    file, key_file = folder.certificate(name)
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return Finding(WRONG, "certificates", f"{name}.crt or {name}.key cannot be read: they must be PEM, unencrypted")
    if key.public_key() != certificate.public_key():
        return Finding(WRONG, "certificates", f"{name}.key is not the key of {name}.crt")
    left = (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400
    if left < 0:
        return Finding(WRONG, "certificates", f"{name}.crt expired {-left:.1f} days ago: renew it")
    if datetime.now(UTC) < certificate.not_valid_before_utc:
        return Finding(WRONG, "certificates", f"{name}.crt is not valid yet: compare the clocks")
    level = WARNING if days_matter and left < _FEW_DAYS else OK
    return Finding(level, "certificates", f"{name}.crt is good for {left:.0f} more days")


def _node_key(folder: SiteNodeFolder) -> Iterator[Finding]:
    try:
        key = serialization.load_ssh_private_key(folder.node_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        key = None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        yield Finding(OK, "node key", f"elliptic, {key.curve.name}")
    else:
        yield Finding(
            WRONG, "node key", "secrets/node.key is no OpenSSH elliptic key: ssh-keygen -t ecdsa -b 384 -N ''"
        )


async def _gateway(folder: SiteNodeFolder) -> list[Finding]:
    """Ask the gateway for its health, as the SuperNode would reach it, and compare the clocks."""
    address = folder.settings().gateway
    try:
        status, date, took = await asyncio.wait_for(_health(folder), _PATIENCE)
    except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError):
        return [Finding(WRONG, "gateway", f"{address}: {REFUSED}")]
    except (OSError, TimeoutError) as error:
        return [Finding(WRONG, "gateway", f"{address}: {in_words(error)}")]
    except ValueError:
        return [Finding(WRONG, "gateway", f"{address}: what answers there is no gateway")]
    if status == 421:
        text = f"{address}: this site is not on its list: ask the operator to enter the certificate's common name"
        return [Finding(WRONG, "gateway", text)]
    if status != 200:
        return [Finding(WRONG, "gateway", f"{address}: reached, but the SuperLink behind it is not well ({status})")]
    found = [Finding(OK, "gateway", f"{address}: reached, both certificates accepted")]
    offset = time.time() - date if date else 0.0
    if not date:
        found.append(Finding(WARNING, "clock", "the gateway does not say its time"))
    elif not -_BEHIND - took < offset < _AHEAD + took:
        side = "ahead of" if offset > 0 else "behind"
        text = f"this machine is {abs(offset):.0f} s {side} the server, which will refuse it: run NTP on both"
        found.append(Finding(WRONG, "clock", text))
    else:
        found.append(Finding(OK, "clock", "agrees with the server's"))
    return found


async def _health(folder: SiteNodeFolder) -> tuple[int, float | None, float]:
    """Return status, the server's time in s since 1970, and how long it took."""
    began = time.monotonic()
    reader, writer = await connect(folder)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    finally:
        writer.close()
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
    stamp = email.utils.parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else None
    return int(head[0].split()[1]), stamp, time.monotonic() - began
