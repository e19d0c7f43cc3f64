import datetime
import re
import ssl
import sys

import msgspec
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from support.certificates import issue

from flowyard.platform.settings import Settings
from flowyard.platform.tls import tls_context
from flowyard.schemas.errors import InvalidRequestError

FIX = "set certificate_file and private_key_file (PEM), or keystore"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return issue(tmp_path_factory.mktemp("certificates"))


def settings(**given) -> Settings:
    return Settings(**{key: str(value) for key, value in given.items()})


def test_files_and_keystores_are_taken(certificate):
    for given in (
        {"certificate_file": certificate.chain, "private_key_file": certificate.key},
        {"keystore": certificate.keystore},
    ):
        assert tls_context(settings(**given)).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.fixture
def wrong(certificate, tmp_path):
    """Things that are no certificate of ours."""
    other = trustme.CA().issue_cert("127.0.0.1").private_key_pem
    other.write_to_path(tmp_path / "other.pem")
    key = serialization.load_pem_private_key(other.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"x")
    locked = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    (tmp_path / "locked.pem").write_bytes(locked)
    alone = x509.load_pem_x509_certificate(certificate.chain.read_bytes())
    (tmp_path / "no-key.p12").write_bytes(
        pkcs12.serialize_key_and_certificates(b"x", None, alone, None, serialization.BestAvailableEncryption(b"changeit"))
    )
    return tmp_path


def test_what_cannot_be_used_is_said(certificate, wrong):
    chain = {"certificate_file": certificate.chain}
    table = [
        ({}, f"an address is https and there is no certificate: {FIX}"),
        (chain, f"certificate_file is only one half: {FIX}"),
        ({"private_key_file": certificate.key}, f"private_key_file is only one half: {FIX}"),
        (chain | {"private_key_file": "absent.pem"}, "private_key_file absent.pem cannot be read: No such file"),
        (chain | {"private_key_file": wrong / "other.pem"}, "expected are PEM files that belong together"),
        (chain | {"private_key_file": wrong / "locked.pem"}, "the key without a password"),
        ({"keystore": "absent.p12"}, "keystore absent.p12 cannot be read: No such file"),
        ({"keystore": certificate.keystore, "keystore_pass": "no"}, "or keystore_pass is wrong"),
        ({"keystore": certificate.chain}, "is no PKCS #12 file"),
        ({"keystore": wrong / "no-key.p12"}, "has no private key with a certificate"),
    ]
    for given, message in table:
        with pytest.raises(InvalidRequestError, match=re.escape(message)):
            tls_context(settings(**given))


def test_a_short_key_is_borne_where_those_move_in_who_have_one(tmp_path):
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + datetime.timedelta(days=36_500))
    leaf = builder.sign(key, hashes.SHA256())
    encryption = serialization.BestAvailableEncryption(b"changeit")
    (tmp_path / "keys.p12").write_bytes(pkcs12.serialize_key_and_certificates(b"x", key, leaf, None, encryption))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(private + leaf.public_bytes(serialization.Encoding.PEM))
    files = {"certificate_file": tmp_path / "both.pem", "private_key_file": tmp_path / "both.pem"}
    for given in (files, {"keystore": tmp_path / "keys.p12"}):
        said = settings(**given)
        with pytest.raises(InvalidRequestError, match="key too small"):
            tls_context(said)
        moved_in = msgspec.structs.replace(said, dialects=("torchserve",))
        assert tls_context(moved_in).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_keystore_without_the_package_for_it_says_what_to_install(certificate, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(InvalidRequestError, match=re.escape("pip install 'flowyard[tls]'")):
        tls_context(settings(keystore=certificate.keystore))
