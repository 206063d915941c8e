"""Hardware that is not there: evidence of the vendors' layouts under roots made for the occasion.

The layouts are written down here a second time, from the specifications and not from the parsers.
"""

import hashlib
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from qflare_protocol.attestation.roots import VendorRoots

NOW = 1_800_000_000
BEGAN, ENDS = datetime(2025, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
MEASUREMENT = b"\xaa" * 48


@cache
def rsa_key(name):
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(name, curve=ec.SECP384R1):
    return ec.generate_private_key(curve())


def certificate(name, key, issuer, issuer_key, *, authority=True, extensions=(), began=BEGAN, ends=ENDS, serial=1):
    """Return a certificate in DER; `extensions` are pairs of OID and raw value."""
    subject, issued_by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    builder = x509.CertificateBuilder(issued_by, subject, key.public_key(), serial, began, ends)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    pss = {"rsa_padding": PSS} if isinstance(issuer_key, rsa.RSAPrivateKey) else {}
    return builder.sign(issuer_key, hashes.SHA384(), **pss).public_bytes(serialization.Encoding.DER)


def raw_signature(key, signed, algorithm, half):
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(algorithm)))
    return r.to_bytes(half, "big") + s.to_bytes(half, "big")


def der_integer(number):
    content = number.to_bytes(1 if number < 128 else 2, "big")
    return bytes([0x02, len(content)]) + content


@dataclass(frozen=True)
class Snp:
    """An AMD chip of a product line with its own ARK; `kind` is "VCEK" or "VLEK"."""

    line: str = "Milan"
    kind: str = "VCEK"
    versions: dict = field(default_factory=lambda: {"bootloader": 4, "tee": 0, "snp": 23, "microcode": 213})
    chip_id: bytes = b"\x11" * 64

    @property
    def tcb(self):
        places = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
        if self.line == "Turin":
            places = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
        packed = bytearray(8)
        for name, place in places.items():
            packed[place] = self.versions.get(name, 0)
        return bytes(packed)

    @property
    def key_extensions(self):
        base, levels = "1.3.6.1.4.1.3704.1.", {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}
        yield base + "2", bytes([0x16, len(self.line) + 3]) + f"{self.line}-B0".encode()
        for name, number in levels.items():
            yield f"{base}3.{number}", der_integer(self.versions.get(name, 0))
        if self.kind == "VCEK":
            yield base + "4", self.chip_id[:8] if self.line == "Turin" else self.chip_id

    def endorsements(self, **changes):
        """Return leaf, intermediate, root; `changes` are of the leaf."""
        root, middle = f"ARK-{self.line}", f"SEV-{self.line}" if self.kind == "VCEK" else f"SEV-VLEK-{self.line}"
        leaf = {"name": f"SEV-{self.kind}", "key": ec_key("amd"), "issuer": middle, "issuer_key": rsa_key(middle)}
        leaf |= {"authority": False, "extensions": tuple(self.key_extensions)} | changes
        return [
            certificate(**leaf),
            certificate(middle, rsa_key(middle), root, rsa_key(root)),
            self.root,
        ]

    @cached_property
    def root(self):
        name = f"ARK-{self.line}"
        return _root(name)

    @property
    def roots(self):
        return {hashlib.sha256(self.root).digest(): self.line}

    def report(self, report_data, *, version=2, patch=None, signing_key=None):
        """Return a signed report; `patch` maps offsets to bytes that are put in before it is signed."""
        body = bytearray(0x2A0)
        struct.pack_into("<I", body, 0x00, version)
        struct.pack_into("<Q", body, 0x08, 1 << 17 | 1 << 16)
        struct.pack_into("<I", body, 0x34, 1)
        struct.pack_into("<I", body, 0x48, 0 if self.kind == "VCEK" else 1 << 2)
        body[0x50:0x90], body[0x90:0xC0] = report_data, MEASUREMENT
        body[0x180:0x188] = self.tcb
        if self.kind == "VCEK":
            body[0x1A0:0x1E0] = self.chip_id
        for offset, value in (patch or {}).items():
            body[offset : offset + len(value)] = value
        signature = raw_signature(signing_key or ec_key("amd"), bytes(body), hashes.SHA384(), 48)
        r, s = signature[:48][::-1].ljust(72, b"\0"), signature[48:][::-1].ljust(72, b"\0")
        return bytes(body) + r + s + bytes(368)


@cache
def _root(name):
    return certificate(name, rsa_key(name), name, rsa_key(name))


def sgx_body(report_data, *, flags=0x05, enclave=b"\xbb" * 32, signer=b"\xcc" * 32, product=0, patch=None):
    body = bytearray(384)
    struct.pack_into("<Q", body, 48, flags)
    body[64:96], body[128:160] = enclave, signer
    struct.pack_into("<H", body, 256, product)
    body[320:384] = report_data
    return _patched(body, patch)


def tdx_body(report_data, *, attributes=1 << 28, version=10, patch=None):
    body = bytearray(584 if version == 10 else 648)
    struct.pack_into("<Q", body, 120, attributes)
    body[136:184] = b"\xdd" * 48
    for index in range(4):
        body[328 + 48 * index : 376 + 48 * index] = bytes([index]) * 48
    body[520:584] = report_data
    return _patched(body, patch)


def _patched(body, patch):
    for offset, value in (patch or {}).items():
        body[offset : offset + len(value)] = value
    return bytes(body)


QE_SIGNERS = {
    0x00: ("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", 1),
    0x81: ("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", 2),
}


@dataclass(frozen=True)
class Dcap:
    """An Intel platform with its own root; members are what a test may spoil."""

    version: int = 4
    tee_type: int = 0x81
    qe_changes: dict = field(default_factory=dict)
    qe_bound: bytes | None = None
    leaf_name: str = "Intel SGX PCK Certificate"
    certification_type: int = 5
    header_patch: dict = field(default_factory=dict)
    behind_chain: bytes = b"\0"

    @property
    def roots(self):
        return {hashlib.sha256(self._chain[2]).digest(): "test root"}

    @cached_property
    def _chain(self):
        root, middle, leaf = (ec_key(f"intel {name}", ec.SECP256R1) for name in ("root", "platform", "pck"))
        return [
            certificate(self.leaf_name, leaf, "Intel SGX PCK Platform CA", middle, authority=False),
            certificate("Intel SGX PCK Platform CA", middle, "Intel SGX Root CA", root),
            _intel_root(),
        ]

    def quote(self, body, *, body_type=None, stated_body_bytes=None):
        header = bytearray(struct.pack("<HHI", self.version, 2, self.tee_type) + bytes(4))
        header += bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + b"\x01" * 20
        header = _patched(header, self.header_patch)
        if self.version == 5:
            kind = {384: 1, 584: 2, 648: 3}[len(body)] if body_type is None else body_type
            header += struct.pack("<HI", kind, len(body) if stated_body_bytes is None else stated_body_bytes)
        section = self._section(header + body)
        return header + body + struct.pack("<I", len(section)) + section

    def _section(self, signed):
        key = ec_key("attestation", ec.SECP256R1)
        numbers = key.public_key().public_numbers()
        public = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        authentication = b"\x05" * 32
        bound = hashlib.sha256(public + authentication).digest() + bytes(32)
        signer, product = QE_SIGNERS.get(self.tee_type, QE_SIGNERS[0])
        given = {"signer": bytes.fromhex(signer), "product": product, "flags": 0x15} | self.qe_changes
        qe_report = sgx_body(bound if self.qe_bound is None else self.qe_bound, **given)
        qe_signature = raw_signature(ec_key("intel pck", ec.SECP256R1), qe_report, hashes.SHA256(), 32)
        pem = b"".join(_pem(der) for der in self._chain) + self.behind_chain
        certification = qe_report + qe_signature + struct.pack("<H", 32) + authentication
        certification += struct.pack("<HI", self.certification_type, len(pem)) + pem
        if self.version > 3:
            certification = struct.pack("<HI", 6, len(certification)) + certification
        return raw_signature(key, signed, hashes.SHA256(), 32) + public + certification


@cache
def _intel_root():
    key = ec_key("intel root", ec.SECP256R1)
    return certificate("Intel SGX Root CA", key, "Intel SGX Root CA", key)


def _pem(der):
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Nitro:
    """A Nitro hypervisor with its own root; its leaf is valid for three hours around `NOW`."""

    pcr0: bytes = b"\xee" * 48
    changes: dict = field(default_factory=dict)
    protected: bytes = cbor2.dumps({1: -35})

    @property
    def roots(self):
        return {hashlib.sha256(_nitro_root()).digest(): "test root"}

    def document(self, user_data, /, made_at=NOW, **changes):
        leaf_key = ec_key("nitro leaf")
        began, ends = (datetime.fromtimestamp(made_at + offset, UTC) for offset in (-60, 3 * 3600))
        leaf = certificate(
            "i-0.us-east-1.aws", leaf_key, "aws.nitro-enclaves", ec_key("nitro root"),
            authority=False, began=began, ends=ends,
        )  # fmt: skip
        pcrs = {0: self.pcr0} | {index: bytes([index]) * 48 for index in range(1, 16)}
        payload = {
            "module_id": "i-0", "digest": "SHA384", "timestamp": made_at * 1000, "pcrs": pcrs, "certificate": leaf,
            "cabundle": [_nitro_root()], "public_key": None, "user_data": user_data, "nonce": None,
        } | self.changes | changes  # fmt: skip
        body = cbor2.dumps({name: value for name, value in payload.items() if value is not ...})
        signed = cbor2.dumps(["Signature1", self.protected, b"", body])
        return cbor2.dumps([self.protected, {}, body, raw_signature(leaf_key, signed, hashes.SHA384(), 48)])


@cache
def _nitro_root():
    return certificate("aws.nitro-enclaves", ec_key("nitro root"), "aws.nitro-enclaves", ec_key("nitro root"))


ROOTS = VendorRoots(Snp().roots, Dcap().roots, Nitro().roots)
"""The roots of the platforms above, AMD's for Milan."""


def snp_of(line, kind="VCEK"):
    """Return a chip of that line; Turin has one more version and a short hardware id."""
    if line == "Turin":
        versions = {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 200}
        return replace(Snp(line, kind), versions=versions, chip_id=b"\x22" * 8 + bytes(56))
    return Snp(line, kind)
