"""What ``lavq deploy init`` writes is complete, readable, and keeps its secrets."""

from __future__ import annotations

import configparser
import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from client.policy import SitePolicy
from lavq_core.errors import ConfigError
from server.commands import deploy
from server.deployment.certificates import Authority
from server.deployment.folders import POLICY, SITE_DIR, Deployment, SiteNodeFolder
from server.deployment.init import Plan, issue, write_deployment
from server.deployment.processes import server_programs, site_programs
from server.deployment.rendering import write_units

APP = "c" * 64
PLAN = Plan(sites=["st-mary", "st-john"], names=["lavq.example.org", "10.0.0.7"], port=20443, apps=[APP])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return write_deployment(tmp_path_factory.mktemp("deployment") / "a federation", PLAN)


def files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.is_file()]


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_every_role_gets_a_folder_that_is_complete(made: Deployment) -> None:
    assert [node.root.name for node in made.sites()] == ["st-john", "st-mary"]
    for folder in (made.server, *made.sites()):
        names = {path.relative_to(folder.root).as_posix() for path in files(folder.root)}
        assert {"OPERATING.md", "compose.yaml", "Dockerfile", "certificates/ca.crt", "secrets/superexec"} <= names
        assert sum(name.startswith("units/") for name in names) == (3 if folder.root == made.server.root else 4)


def test_secrets_are_their_owners_alone_and_stand_nowhere_else(made: Deployment) -> None:
    secret = [p for p in files(made.root) if p.parent.name == "secrets" or p.name == "ca.key"]
    assert len(secret) == 1 + 3 + 2 * 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) & 0o077 for path in secret if path.name != "ca.key"} == {0}
    contents = [path.read_bytes() for path in secret]
    assert len(set(contents)) == len(contents)
    for path in set(files(made.root)) - set(secret):
        text = path.read_bytes()
        assert b"PRIVATE KEY" not in text
        assert not any(content.strip() in text for content in contents), path


def test_certificates_are_short_lived_and_name_who_they_are_for(made: Deployment) -> None:
    gateway, site = (
        certificate(made.server.certificate("gateway")[0]),
        certificate(made.site("st-mary").certificate("site")[0]),
    )
    names = gateway.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lavq.example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    usage = site.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert site.subject.rfc4514_string() == "CN=st-mary"
    for one in (gateway, site):
        assert timedelta(days=29) < one.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=30)
    trusted = Store([certificate(made.server.ca)])
    PolicyBuilder().store(trusted).build_server_verifier(x509.DNSName("lavq.example.org")).verify(gateway, [])
    PolicyBuilder().store(trusted).build_client_verifier().verify(site, [])


def test_a_node_key_and_its_public_half_belong_together(made: Deployment) -> None:
    for name in PLAN.sites:
        private = load_ssh_private_key(made.site(name).node_key.read_bytes(), None)
        public = load_ssh_public_key(made.server.public_key(name).read_bytes())
        assert private.public_key() == public
        assert public.curve.name == "secp384r1"  # type: ignore[union-attr]


def test_a_policy_begins_strict_and_whole(made: Deployment) -> None:
    policy = SitePolicy.load(made.site("st-mary").policy)
    assert policy.apps == {APP}
    assert policy.epsilon_max == 8.0
    assert policy.minimum_patients == 50
    assert not policy.log_tracebacks


def test_the_superlink_listens_on_the_loopback_interface_alone_and_asks_for_keys_and_secret(made: Deployment) -> None:
    superlink = server_programs(made.server)[0].command
    assert superlink[superlink.index("--host") + 1] == "127.0.0.1"
    assert {"--enable-supernode-auth", "--superexec-auth-secret-file", "--database", "--ssl-certfile"} <= set(superlink)
    assert superlink[superlink.index("--isolation") + 1] == "process"
    for program in [*server_programs(made.server), *site_programs(made.site("st-mary"))]:
        assert "--allow-runtime-dependency-installation" not in program.command
        assert program.environment["FLWR_TELEMETRY_ENABLED"] == "0"


def test_a_sites_superexec_is_ours_and_knows_the_sites_policy(made: Deployment) -> None:
    node = made.site("st-mary")
    *others, superexec = site_programs(node)
    assert superexec.command[1:3] == ("-m", "client.superexec")
    assert superexec.environment[POLICY] == str(node.policy)
    assert superexec.environment[SITE_DIR] == str(node.state)
    assert not any("superexec" in word for program in others for word in program.command[:3])


def test_units_and_compose_files_can_be_read_by_their_programs(made: Deployment) -> None:
    for folder in (made.server, *made.sites()):
        for file in (folder.root / "units").iterdir():
            unit = configparser.RawConfigParser(strict=False)
            unit.optionxform = str  # type: ignore[assignment,method-assign]
            unit.read(file)
            assert unit["Service"]["Restart"] == "always"
            assert unit["Service"]["ExecStart"].startswith("/")
        services = yaml.safe_load((folder.root / "compose.yaml").read_text())["services"]
        assert len(services) == len(list((folder.root / "units").iterdir()))
        _, *others = services.values()
        assert all(other["network_mode"].startswith("service:") for other in others)
        assert not any("ports" in other for other in others)
        assert str(made.root) not in str([service["command"] for service in services.values()])


def test_one_port_of_a_role_is_open_to_others_a_sites_to_its_own_machine_alone(made: Deployment) -> None:
    compose = yaml.safe_load((made.server.root / "compose.yaml").read_text())["services"]
    assert compose["gateway"]["ports"] == ["20443:20443"]
    compose = yaml.safe_load((made.site("st-mary").root / "compose.yaml").read_text())["services"]
    assert compose["sidecar-st-mary"]["ports"] == ["127.0.0.1:20455:20455"]


def test_a_site_has_a_unit_and_a_container_for_its_inference_service(made: Deployment) -> None:
    node = made.site("st-mary")
    unit = configparser.RawConfigParser(strict=False)
    unit.read(node.root / "units" / "lavq-inference-st-mary.service")
    folder = f'"{node.root}"'  # it has a space in it
    assert unit["Service"]["ExecStart"].split(" ", 1)[1] == f"serve --site {folder} --wait"
    services = yaml.safe_load((node.root / "compose.yaml").read_text())["services"]
    assert services["inference-st-mary"]["command"][1:] == [
        "serve", "--site", "/deployment", "--wait", "--listen", "0.0.0.0:20455"
    ]  # fmt: skip
    assert node.settings().inference == "127.0.0.1:20455"
    assert "127.0.0.1:20455" in (node.root / "OPERATING.md").read_text()


def test_a_site_that_was_moved_writes_its_units_for_its_new_place(made: Deployment, tmp_path: Path) -> None:
    import shutil

    moved = SiteNodeFolder(tmp_path / "site")
    shutil.copytree(made.site("st-mary").root, moved.root)
    write_units(moved, 30.0)
    for file in (moved.root / "units").iterdir():
        assert str(made.root) not in file.read_text()


def test_an_institutions_ca_can_take_the_place_of_ours(tmp_path: Path) -> None:
    authority = Authority.create("University Hospital CA")
    authority.save(tmp_path / "ca.crt", tmp_path / "ca.key")
    plan = replace(PLAN, authority=(tmp_path / "ca.crt", tmp_path / "ca.key"))
    made = write_deployment(tmp_path / "d", plan)
    assert not made.authority[1].exists()
    issued = certificate(made.site("st-mary").certificate("site")[0])
    assert issued.issuer == authority.certificate.subject
    Authority.create("another").save(tmp_path / "other.crt", tmp_path / "other.key")
    with pytest.raises(ConfigError, match=r"other\.key is not the elliptic-curve key"):
        write_deployment(tmp_path / "e", replace(plan, authority=(tmp_path / "ca.crt", tmp_path / "other.key")))


def test_renewed_certificates_replace_the_old_ones_under_the_same_ca(made: Deployment) -> None:
    before = certificate(made.site("st-mary").certificate("site")[0])
    issue(made, Authority.load(*made.authority), 5.0)
    after = certificate(made.site("st-mary").certificate("site")[0])
    assert after.serial_number != before.serial_number
    assert after.issuer == before.issuer
    assert after.not_valid_after_utc < datetime.now(UTC) + timedelta(days=6)
    context = ssl.create_default_context(cafile=str(made.server.ca))
    context.load_cert_chain(*made.site("st-mary").certificate("site"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": ["St Mary"]}, "cannot be a site's name"),
        ({"sites": ["../etc"]}, "cannot be a site's name"),
        ({"sites": ["a", "a"]}, "a name of its own"),
        ({"names": []}, "needs a host name"),
        ({"port": 65530}, "leaves no room"),
        ({"data": Path("/nowhere")}, "holds no folder st-mary"),
        ({"authority": (Path("/no.crt"), Path("/no.key"))}, "the CA cannot be read"),
    ],
)
def test_an_impossible_plan_writes_nothing(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        write_deployment(tmp_path / "d", replace(PLAN, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "d" / "server").exists()


def test_a_folder_in_use_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="is in use"):
        write_deployment(tmp_path, PLAN)


def test_settings_that_were_spoilt_are_named(made: Deployment, tmp_path: Path) -> None:
    node = SiteNodeFolder(tmp_path)
    node.settings_file.write_text((made.site("st-mary").settings_file.read_text()).replace("20453", '"20453"'))
    with pytest.raises(ConfigError, match=r"runtime_port|sidecar_port"):
        node.settings()
    with pytest.raises(ConfigError, match="holds no deployment: make one"):
        Deployment.open(tmp_path)


def test_the_command_line_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    monkeypatch.setattr(deploy, "_apps", lambda: [APP])
    parser = argparse.ArgumentParser()
    deploy.configure(parser)
    args = parser.parse_args(
        ["init", str(tmp_path / "d"), "--sites", "a,b", "--epsilon-max", "unlimited", "--days", "7"]
    )
    assert deploy.execute(args) == 0
    made = Deployment.open(tmp_path / "d")
    assert made.server.settings().sites == ["a", "b"]
    assert SitePolicy.load(made.site("b").policy).epsilon_max is None
