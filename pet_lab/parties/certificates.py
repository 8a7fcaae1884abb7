"""Who a party is: credentials, TLS contexts made of them, and an authority for tests.

Credentials are a folder with `ca.pem`, `cert.pem` and `key.pem`. A key is read from a file that
nobody else may read; it is never taken from the command line, printed or logged. Every connection
is TLS 1.3 with a certificate on both sides, and a party is the one DNS name in its certificate.
"""

import datetime
import os
import re
import ssl
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pet_lab.files import write_atomic

from .errors import PartyError, Refused

ENVIRONMENT = "PET_LAB_CREDENTIALS"
IDENTITY = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")


@dataclass(frozen=True)
class Credentials:
    """What a process needs for mutual TLS, as PEM; `name` is the identity in `certificate`."""

    name: str
    ca: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


class TestAuthority:
    """A fresh authority in memory (trustme); its own key is never written anywhere."""

    __test__ = False  # not a test class, whatever its name says

    def __init__(self, name: str = "pet_lab test authority") -> None:
        import trustme

        self._authority = trustme.CA(organization_name=name)

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._authority.cert_pem.bytes()

    def issue(self, name: str, *, days: float = 7, starts_in_days: float = -1) -> Credentials:
        """Credentials for one identity; a negative `days` makes a certificate that has expired."""
        if not IDENTITY.fullmatch(name):
            raise PartyError(
                f"An identity is small letters, digits, dots and dashes, got {name[:80]!r}; "
                "rename it."
            )
        now = datetime.datetime.now(datetime.UTC)
        leaf = self._authority.issue_cert(
            name,
            not_before=now + datetime.timedelta(days=min(starts_in_days, days - 1)),
            not_after=now + datetime.timedelta(days=days),
        )
        chain, key = leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
        return Credentials(name, self.certificate, chain, key)


def save(credentials: Credentials, folder: Path) -> Path:
    """Write credentials into a folder of their own; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / "ca.pem").write_bytes(credentials.ca)
    (folder / "cert.pem").write_bytes(credentials.certificate)
    write_atomic(folder / "key.pem", credentials.key, secret=True)
    return folder


def load(folder: Path | None = None) -> Credentials:
    """Read credentials from a folder, or from the one that PET_LAB_CREDENTIALS names.

    A PartyError: no folder, a missing file, a key that others may read, not exactly one identity.
    """
    from cryptography import x509

    if folder is None:
        named = os.environ.get(ENVIRONMENT)
        if not named:
            raise PartyError(f"No credentials: name their folder, or set {ENVIRONMENT}.")
        folder = Path(named)
    try:
        mode = (folder / "key.pem").stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PartyError("Others may read key.pem; run chmod 600 on it.")
        ca, certificate, key = (
            (folder / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")
        )
        names = (
            x509.load_pem_x509_certificate(certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value.get_values_for_type(x509.DNSName)
        )
    except OSError as error:
        raise PartyError(
            f"Credentials are a folder with ca.pem, cert.pem and key.pem, got: {error.strerror}; "
            "name another folder, or have them issued."
        ) from None
    except (ValueError, x509.ExtensionNotFound):
        raise PartyError(
            "Expected a certificate that names an identity in cert.pem, got something else; have "
            "it issued anew."
        ) from None
    if len(names) != 1:
        raise PartyError(
            f"A certificate names one identity, this one names {len(names)}; have it issued anew."
        )
    credentials = Credentials(names[0], ca, certificate, key)
    try:
        client_context(credentials)
    except (ssl.SSLError, ValueError):
        raise PartyError(
            "Expected a certificate, its key and its authority in cert.pem, key.pem and ca.pem, "
            "got files that are damaged or do not belong together; have them issued anew."
        ) from None
    return credentials


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS for the side that listens; a client without a certificate is turned away."""
    return _context(ssl.PROTOCOL_TLS_SERVER, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS for the side that connects; the server's certificate must carry the expected name."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, credentials)


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=credentials.ca.decode("ascii"))
    with tempfile.TemporaryDirectory() as folder:  # OpenSSL takes keys from files only
        home = save(credentials, Path(folder))
        context.load_cert_chain(home / "cert.pem", home / "key.pem")
    return context


def identity(certificate: Mapping[str, Any] | None) -> str:
    """The party that a verified peer certificate (as `getpeercert` gives it) names.

    Refused if it names none or several, in whatever way, or by another kind of name than DNS.
    """
    every = (certificate or {}).get("subjectAltName", ())
    names = [entry for entry in every if entry[0] != "IP Address"]  # where it is, not who
    if len(names) != 1:
        raise Refused(f"A certificate names exactly one party, this one names {len(names)}.")
    ((kind, name),) = names
    if kind != "DNS" or not IDENTITY.fullmatch(name):
        raise Refused("A certificate names its party by a DNS name, this one does not.")
    return str(name)
