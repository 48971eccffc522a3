"""A certificate authority for tests: `Authority(folder).issue("localhost")` gives PEM files."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
_DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Issued:
    """Paths of a certificate and its key, and the certificate itself as DER."""

    cert_path: str
    key_path: str
    der: bytes


class Authority:
    """Signs certificates; `ca_path` is what a client trusts to trust them."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        root = _builder(self._name, self._name, self._key.public_key())
        root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.ca_path = str(folder / f"{name.replace(' ', '_')}.pem")
        Path(self.ca_path).write_bytes(root.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def issue(
        self,
        host: str,
        *,
        digest: hashes.HashAlgorithm | None = None,
        passphrase: str = "",
        days: float = 1.0,
    ) -> Issued:
        """A certificate for a host name or an address, its signature with `digest`, its end in so
        many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(host), self._name, key.public_key(), days)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alt_name(host)]), False)
        signed = builder.sign(self._key, digest or hashes.SHA256())
        return self._write(host, key, signed, passphrase)

    def self_signed_ed25519(self, host: str) -> Issued:
        """A certificate whose signature names no hash: it has no channel binding."""
        key = ed25519.Ed25519PrivateKey.generate()
        name = _name(host)
        return self._write(
            f"ed-{host}", key, _builder(name, name, key.public_key()).sign(key, None)
        )

    def _write(self, name: str, key: Key, signed: x509.Certificate, passphrase: str = "") -> Issued:
        secret: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            secret = serialization.BestAvailableEncryption(passphrase.encode())
        cert, private = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(signed.public_bytes(_PEM))
        private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, secret))
        private.chmod(0o600)
        return Issued(str(cert), str(private), signed.public_bytes(serialization.Encoding.DER))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alt_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
    days: float = 1.0,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + days * _DAY)
    )
