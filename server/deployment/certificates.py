"""X.509 certificates of a deployment: a CA of its own, or an institution's, and what is issued from it.

A certificate lives for a month: a stolen key is of use for days, and renewal is practised and not remembered. Keys are
elliptic (P-256 for TLS; P-384 for Flower's nodes, which sign the time of every request with them).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lavq_core.errors import ConfigError
from server.deployment.folders import write_secret

CA_DAYS = 730
DAYS = 30  # of what a CA issues
LOOPBACK = ("localhost", "127.0.0.1")
_BACKDATED = timedelta(minutes=5)  # clocks differ


@dataclass(frozen=True)
class Authority:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, days: float = CA_DAYS) -> Authority:
        """Make a new CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_sign(name, key, None, days, names=(), usage=None), key)

    @classmethod
    def load(cls, certificate: Path, key: Path) -> Authority:
        """Read a CA from PEM files; its key must not be encrypted.

        Raises:
            ConfigError: they cannot be read, or are no CA.
        """
        try:
            signed = x509.load_pem_x509_certificate(certificate.read_bytes())
            private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(f"the CA cannot be read ({error.filename}: {error.strerror})") from None
        except (ValueError, TypeError):
            raise ConfigError(f"{certificate} and {key} are no PEM certificate and unencrypted key") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != signed.public_key():
            raise ConfigError(f"{key} is not the elliptic-curve key of {certificate}")
        return cls(signed, private)

    def save(self, certificate: Path, key: Path) -> None:
        """Write PEM files; the key is for its owner alone."""
        write_certificate(certificate, [self.certificate])
        write_secret(key, _pem(self.key))

    def issue_server(self, files: tuple[Path, Path], name: str, names: Sequence[str], days: float = DAYS) -> None:
        """Write certificate and key of a server that is reached by these host names and addresses."""
        self._issue(files, name, names, ExtendedKeyUsageOID.SERVER_AUTH, days)

    def issue_client(self, files: tuple[Path, Path], name: str, days: float = DAYS) -> None:
        """Write certificate and key by which a site shows who it is."""
        self._issue(files, name, (name,), ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def _issue(
        self, files: tuple[Path, Path], name: str, names: Sequence[str], usage: x509.ObjectIdentifier, days: float
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_certificate(files[0], [_sign(name, key, self, days, names, usage), self.certificate])
        write_secret(files[1], _pem(key))


def write_loopback(files: tuple[Path, Path], days: float = CA_DAYS) -> None:
    """Write a self-signed certificate for one machine's own loopback interface, which no CA needs to know."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_certificate(files[0], [_sign("loopback", key, None, days, LOOPBACK, None)])
    write_secret(files[1], _pem(key))


def write_node_key(private: Path, public: Path) -> None:
    """Write a node's key pair as Flower reads it: OpenSSH, P-384."""
    key = ec.generate_private_key(ec.SECP384R1())
    none = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, none)
    write_secret(private, pem)
    public.parent.mkdir(parents=True, exist_ok=True)
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public.write_bytes(line + b"\n")


def write_certificate(path: Path, chain: Sequence[x509.Certificate]) -> None:
    """Write a chain of certificates as PEM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: Authority | None,
    days: float,
    names: Sequence[str],
    usage: x509.ObjectIdentifier | None,
) -> x509.Certificate:
    """Sign by an authority, or by the key itself."""
    now, subject = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = authority.certificate if authority else None
    signer = authority.key if authority else key
    until = now + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - _BACKDATED)
        .not_valid_after(min(until, issuer.not_valid_after_utc) if issuer else until)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=0 if authority is None else None), True)
        .add_extension(_key_usage(signs=authority is None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    return builder.sign(signer, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
