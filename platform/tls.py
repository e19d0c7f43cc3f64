"""The certificate of https addresses: PEM files, or a PKCS #12 keystore (DJL §4.2)."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidRequestError

log = structlog.stdlib.get_logger(__name__)

#: What OpenSSL says of certificates that it holds for too weak, and Java takes.
_WEAK = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")


def tls_context(settings: Settings) -> ssl.SSLContext:
    """What https is spoken with: TLS 1.2 or newer.

    Args:
        settings: With `certificate_file` and `private_key_file`, or `keystore`, which goes first as in DJL Serving. Where
            TorchServe's or MMS's API is served, a certificate with a short key is taken with a warning: they take it in silence.

    Returns:
        The context of the server's side.

    Raises:
        InvalidRequestError: There is no certificate, or it cannot be used; the message names the setting and the fix.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    bears_weak = bool(settings.dialects)
    if settings.keystore:
        _load_keystore(context, Path(settings.keystore), settings.keystore_pass, bears_weak=bears_weak)
    elif settings.certificate_file and settings.private_key_file:
        _load_files(context, Path(settings.certificate_file), Path(settings.private_key_file), bears_weak=bears_weak)
    else:
        said = [name for name in ("certificate_file", "private_key_file") if getattr(settings, name)]
        asks = "enable_grpc_ssl is set" if settings.enable_grpc_ssl else "an address is https"
        lack = f"{said[0]} is only one half" if said else "there is no certificate"
        raise InvalidRequestError(f"{asks} and {lack}: set certificate_file and private_key_file (PEM), or keystore")
    return context


def pem_pair(settings: Settings) -> tuple[bytes, bytes]:
    """The key and its certificates in PEM, for gRPC, which takes no context; arguments and errors as for `tls_context`."""
    tls_context(settings)
    if settings.keystore:
        both = _pem_of(_read("keystore", Path(settings.keystore)), settings.keystore_pass, Path(settings.keystore))
        return both, both
    assert settings.private_key_file is not None and settings.certificate_file is not None
    return Path(settings.private_key_file).read_bytes(), Path(settings.certificate_file).read_bytes()


def _load_files(context: ssl.SSLContext, certificate: Path, key: Path, *, bears_weak: bool) -> None:
    for name, path in (("certificate_file", certificate), ("private_key_file", key)):
        _read(name, path)
    try:
        _load(context, lambda: context.load_cert_chain(certificate, key, password=_no_password), bears_weak=bears_weak)
    except (ssl.SSLError, OSError) as error:
        raise InvalidRequestError(
            f"certificate_file {certificate} and private_key_file {key} cannot be used: {_reason(error)};"
            " expected are PEM files that belong together, the key without a password"
        ) from None


def _load(context: ssl.SSLContext, load: Callable[[], None], *, bears_weak: bool) -> None:
    """Loads a certificate; one that is too weak for OpenSSL's usual level is taken at the one below, where that is wanted."""
    try:
        load()
    except ssl.SSLError as error:
        if not bears_weak or error.reason not in _WEAK:
            raise
        context.set_ciphers("DEFAULT:@SECLEVEL=1")
        load()
        log.warning("the certificate is weak; replace it by one with an RSA key of 2048 bits or more", reason=_reason(error))


def _no_password() -> bytes:
    """Nobody is there to be asked; without this the terminal would be."""
    return b""


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{name} {path} cannot be read: {error.strerror}") from None


def _load_keystore(context: ssl.SSLContext, keystore: Path, password: str, *, bears_weak: bool) -> None:
    content = _read("keystore", keystore)
    pem = _pem_of(content, password, keystore)
    # OpenSSL takes certificates from files only; this one has no name and is gone with its descriptor.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        path = f"/proc/self/fd/{descriptor}"
        _load(context, lambda: context.load_cert_chain(path, password=_no_password), bears_weak=bears_weak)
    except (ssl.SSLError, OSError) as error:
        raise InvalidRequestError(f"keystore {keystore} cannot be used: {_reason(error)}") from None
    finally:
        os.close(descriptor)


def _pem_of(content: bytes, password: str, keystore: Path) -> bytes:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra, and only needed here
        from cryptography.hazmat.primitives.serialization import pkcs12  # noqa: PLC0415
    except ImportError:
        raise InvalidRequestError(
            "keystore needs the package cryptography: pip install 'flowyard[tls]',"
            " or set certificate_file and private_key_file instead"
        ) from None
    try:
        key, certificate, chain = pkcs12.load_key_and_certificates(content, password.encode())
    except ValueError:
        raise InvalidRequestError(
            f"keystore {keystore} is no PKCS #12 file, or keystore_pass is wrong; a JKS file is converted with"
            " keytool -importkeystore -deststoretype PKCS12"
        ) from None
    if key is None or certificate is None:
        raise InvalidRequestError(f"keystore {keystore} has no private key with a certificate")
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificates: list[Any] = [certificate, *chain]
    return private + b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
