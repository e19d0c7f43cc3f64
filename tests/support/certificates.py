"""A certificate for this machine, made on the spot."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12


@dataclass(frozen=True)
class Certificate:
    """Who issued it, its PEM files, and a keystore with the same under Java's usual password."""

    authority: trustme.CA
    chain: Path
    key: Path
    keystore: Path


def issue(folder: Path) -> Certificate:
    """Issues a certificate for 127.0.0.1."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    made = Certificate(authority, folder / "certs.pem", folder / "key.pem", folder / "keys.p12")
    issued.cert_chain_pems[0].write_to_path(made.chain)
    issued.private_key_pem.write_to_path(made.key)
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    leaf = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    encryption = serialization.BestAvailableEncryption(b"changeit")
    made.keystore.write_bytes(pkcs12.serialize_key_and_certificates(b"flowyard", key, leaf, None, encryption))
    return made


def trusting(certificate: Certificate) -> ssl.SSLContext:
    """What a client needs to trust it."""
    context = ssl.create_default_context()
    certificate.authority.configure_trust(context)
    return context
