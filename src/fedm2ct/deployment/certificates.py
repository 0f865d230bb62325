"""Keys and certificates of a federation: its own authority, the coordinator's, the sites' keys.

The federation has a certificate authority of its own, made by and kept at the coordinator: no
public authority can then speak for the coordinator. Sites have no certificates: a site proves
itself with the elliptic-curve key whose public half the coordinator has registered, and whose
private half never leaves the site.
"""

import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
"""Longest validity that common TLS clients accept for a server's certificate."""


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read (mode 0600).

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_atomically(path, data, mode=0o600)


def make_authority(key: Path, certificate: Path) -> None:
    """Make the federation's certificate authority.

    Parameters
    ----------
    key, certificate
        Files to write, PEM; the key is readable by its owner only.
    """
    private = ec.generate_private_key(ec.SECP384R1())
    name = _name("FedM2CT federation authority")
    builder = _builder(name, name, private.public_key(), AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    builder = builder.add_extension(identifier, critical=False)
    signed = builder.sign(private, hashes.SHA384())
    write_private(key, _pem(private))
    write_atomically(certificate, signed.public_bytes(serialization.Encoding.PEM))


def make_server_certificate(
    hosts: list[str], key: Path, certificate: Path, authority_key: Path, authority: Path
) -> None:
    """Make the coordinator's key and its certificate, signed by the federation's authority.

    Parameters
    ----------
    hosts
        Names and IP addresses by which it is reached.
    key, certificate
        Files to write, PEM.
    authority_key, authority
        The authority's files.

    Raises
    ------
    FedM2CTError
        If the authority's files cannot be used.
    """
    try:
        issuer = x509.load_pem_x509_certificate(authority.read_bytes())
        signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise FedM2CTError(f"{authority_key}: cannot be used ({error}); put it back") from None
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    private = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(hosts[0]), issuer.subject, private.public_key(), SERVER_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = builder.add_extension(usage, critical=False)
    alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    builder = builder.add_extension(alternatives, critical=False)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(above, critical=False)
    own = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    builder = builder.add_extension(own, critical=False)
    signed = builder.sign(signer, hashes.SHA384())
    write_private(key, _pem(private))
    write_atomically(certificate, signed.public_bytes(serialization.Encoding.PEM))


def make_site_key(private: Path, public: Path) -> None:
    """Make a site's key pair.

    Parameters
    ----------
    private
        File of the private key, OpenSSH format, mode 0600: it stays where it is.
    public
        File of the public key, OpenSSH format: it is handed to the coordinator.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_private(private, secret)
    handed = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_atomically(public, handed + b"\n")


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a site's public key.

    Raises
    ------
    FedM2CTError
        If it is not one; above all, if somebody hands over a private key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FedM2CTError(f"{path}: cannot be read ({error.strerror})") from None
    if b"PRIVATE KEY" in data:
        raise FedM2CTError(
            f"{path}: is a private key, which must never leave its site; that site must make a "
            "new pair (remove keys/ there, then fedm2ct site init) and hand over the .pub file"
        )
    try:
        key = serialization.load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise FedM2CTError(
            f"{path}: is no public key of a site; ask it for the .pub file that site init made"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FedM2CTError(f"{path}: is no elliptic-curve key; use the one that site init made")
    return key


def key_text(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as one line, which is the same at the coordinator and at the site."""
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def own_public_key(private: Path) -> ec.EllipticCurvePublicKey:
    """Return the public half of a site's private key.

    Raises
    ------
    FedM2CTError
        If the file cannot be used.
    """
    try:
        key = serialization.load_ssh_private_key(private.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise FedM2CTError(f"{private}: cannot be used ({error}); put it back") from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.public_key()


def make_secret(path: Path) -> None:
    """Write a random secret of 32 bytes, mode 0600."""
    write_private(path, secrets.token_bytes(32))


def certificate_fingerprint(pem: bytes) -> str:
    """Return a certificate's SHA-256 as people compare it: ``AB:CD:...``.

    Raises
    ------
    FedM2CTError
        If it is no certificate.
    """
    try:
        digest = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())
    except ValueError:
        raise FedM2CTError("the certificate is damaged; ask for the invitation again") from None
    return ":".join(f"{byte:02X}" for byte in digest)


def days_left(certificate: Path) -> int:
    """Return for how many more days a certificate is valid."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    return (loaded.not_valid_after_utc - datetime.now(UTC)).days


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(hours=1)  # a site's clock may be a little behind
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
