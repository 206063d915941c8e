"""The attester of AWS Nitro Enclaves: the Nitro Secure Module, over its device (linux/nsm.h)."""

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enclave.core.attesters.interface import absent
from qflare_protocol.attestation import EnclaveClaims, HardwareEvidence, encode_hardware_evidence
from qflare_protocol.encoding import decode_unordered, encode

DEVICE = Path("/dev/nsm")
NSM_IOCTL_RAW = 0xC0200A00  # _IOWR(0x0A, 0, struct nsm_raw), whose size is 32
RESPONSE_BYTES = 0x3000

_RAW = struct.Struct("=QQQQ")  # address and length of the request, then of the response

Ioctl = Callable[[int, int, bytearray], Any]


class NitroAttester:
    """Asks the module for an attestation document with the report data as its `user_data`."""

    ioctl_request: int | None = NSM_IOCTL_RAW

    def __init__(self, descriptor: int, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._descriptor, self._ioctl = descriptor, ioctl

    @classmethod
    def over_device(cls, path: Path = DEVICE) -> "NitroAttester":
        """Open the device. Raises `Refusal("enclave-failed")` outside a Nitro enclave."""
        try:
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise absent(f"{path} cannot be opened ({error.strerror}): this is no AWS Nitro enclave.") from error

    @property
    def descriptors(self) -> frozenset[int]:
        """The device's."""
        return frozenset({self._descriptor})

    def attest(self, claims: EnclaveClaims) -> bytes:
        """Return evidence by the platform. Raises `Refusal("enclave-failed")` where the module gives no document."""
        members = {"user_data": claims.report_data, "nonce": None, "public_key": None}
        answer = self._ask({"Attestation": members})
        given = answer.get("Attestation") if isinstance(answer, dict) else None
        document = given.get("document") if isinstance(given, dict) else None
        if not isinstance(document, bytes):
            raise absent(f"The Nitro Secure Module gave no document: {str(answer)[:80]}.")
        return encode_hardware_evidence(claims, HardwareEvidence("nitro", document))

    def _ask(self, question: dict[str, Any]) -> Any:
        packed = encode(question)
        request = ctypes.create_string_buffer(packed, len(packed))
        response = ctypes.create_string_buffer(RESPONSE_BYTES)
        message = bytearray(
            _RAW.pack(ctypes.addressof(request), len(packed), ctypes.addressof(response), RESPONSE_BYTES)
        )
        try:
            self._ioctl(self._descriptor, NSM_IOCTL_RAW, message)
        except OSError as error:
            raise absent(f"The Nitro Secure Module refuses to answer ({error.strerror}).") from error
        _, _, _, length = _RAW.unpack(message)
        answered = response.raw[: min(length, RESPONSE_BYTES)]
        return decode_unordered(answered, what="answer of the Nitro Secure Module", maximum_bytes=RESPONSE_BYTES)
