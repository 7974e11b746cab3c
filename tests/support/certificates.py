"""Certificates for servers on this machine: an authority of one's own, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """An authority whose certificate is ``ca.pem`` in a folder; it signs others beside it."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    def signed(self, name: str, *, days: int = 2) -> tuple[Path, Path]:
        """``name.pem`` and ``name.key``, for 127.0.0.1 and this name. With ``days`` below 0 it has expired."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        root = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        root_key = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        key = _new_key(self.folder / f"{name}.key")
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(name)])
        built = _builder(name, root.subject, key, days).add_extension(names, critical=False)
        path = self.folder / f"{name}.pem"
        path.write_bytes(built.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))  # type: ignore[arg-type]
        return path, self.folder / f"{name}.key"


def make_authority(folder: Path) -> Authority:
    """A new one; the folder is made."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    folder.mkdir(parents=True)
    key = _new_key(folder / "ca.key")
    subject = _name("tests' own authority")
    built = _builder("tests' own authority", subject, key, 2).add_extension(
        x509.BasicConstraints(True, 0), critical=True
    )
    made = built.sign(key, hashes.SHA256())
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return Authority(folder)


def _name(text: str):  # type: ignore[no-untyped-def]
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _new_key(path: Path):  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form))
    return key


def _builder(name: str, issuer, key, days: int):  # type: ignore[no-untyped-def]
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=5))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
