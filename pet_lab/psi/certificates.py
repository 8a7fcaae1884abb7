"""A certificate authority for tests and demonstrations, and the loading of credentials.

Credentials are a folder with `ca.pem`, `cert.pem` and `key.pem`. Keys are read from files that
nobody else may read; they are never taken from the command line and never logged.
"""

from __future__ import annotations

import datetime
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .messages import IDENTITY
from .protocol import PsiError

ENVIRONMENT = "PET_LAB_CREDENTIALS"


@dataclass(frozen=True)
class Credentials:
    """What a process needs for mutual TLS, as PEM."""

    name: str
    ca: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


class TestAuthority:
    """A fresh authority in memory; its own key is never written anywhere."""

    __test__ = False  # not a test class, whatever its name says

    def __init__(self, name: str = "pet_lab test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = _now()
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=400))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(self._key, SHA256())
        )

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str, *, days: float = 7, starts_in_days: float = -1) -> Credentials:
        """Credentials for one identity; a negative `days` makes a certificate that has expired."""
        if not IDENTITY.fullmatch(name):
            raise PsiError("An identity is a name of small letters, digits, dots and dashes.")
        key = ec.generate_private_key(ec.SECP256R1())
        start = _now() + datetime.timedelta(days=min(starts_in_days, days - 1))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(_now() + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .sign(self._key, SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Credentials(name, self.certificate, certificate.public_bytes(Encoding.PEM), pem)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def write_private(path: Path, raw: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(raw)


def save(credentials: Credentials, folder: Path) -> Path:
    """Write credentials into a folder of their own; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / "ca.pem").write_bytes(credentials.ca)
    (folder / "cert.pem").write_bytes(credentials.certificate)
    write_private(folder / "key.pem", credentials.key)
    return folder


def load(folder: Path | None) -> Credentials:
    """Read credentials from a folder, or from the one that PET_LAB_CREDENTIALS names.

    Raises
    ------
    PsiError
        No folder, a missing file, or a key that others may read.
    """
    if folder is None:
        named = os.environ.get(ENVIRONMENT)
        if not named:
            raise PsiError(f"No credentials: name their folder, or set {ENVIRONMENT}.")
        folder = Path(named)
    try:
        mode = (folder / "key.pem").stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PsiError("Others may read key.pem; run chmod 600 on it.")
        ca, certificate, key = (
            (folder / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")
        )
        names = (
            x509.load_pem_x509_certificate(certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value.get_values_for_type(x509.DNSName)
        )
    except OSError as error:
        raise PsiError(
            f"Credentials are a folder with ca.pem, cert.pem and key.pem: {error.strerror}."
        ) from None
    except (ValueError, x509.ExtensionNotFound):
        raise PsiError("cert.pem is not a certificate that names an identity.") from None
    if len(names) != 1:
        raise PsiError(f"A certificate names one identity, this one {len(names)}.")
    return Credentials(names[0], ca, certificate, key)
