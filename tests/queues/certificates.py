"""Kueue's certificate: valid for the name that it looks for itself, and for this machine."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=365)
"""Kueue makes a new one for itself, which does not name this machine, three months before the end."""


def write(folder: Path, authority: str, *, service: str, address: str) -> None:
    """Write ``ca.crt``, ``ca.key``, ``tls.crt`` and ``tls.key``.

    Args:
        folder: It must exist.
        authority: Name of the authority.
        service: DNS name that the certificate is for.
        address: IP address that it is for as well.
    """
    ca_key, key = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    ca = (
        _builder(authority, authority, ca_key.public_key(), [x509.DNSName(authority)])
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName(service), x509.IPAddress(ipaddress.ip_address(address))]
    served = (
        _builder(service, authority, key.public_key(), names)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    for name, certificate, own in (("ca", ca, ca_key), ("tls", served, key)):
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,  # PKCS #1, the only one that Kueue reads
                serialization.NoEncryption(),
            )
        )


def _builder(
    subject: str, issuer: str, key: rsa.RSAPublicKey, names: list[x509.GeneralName]
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
