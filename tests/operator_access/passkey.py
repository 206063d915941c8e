"""An authenticator in software: what a browser and a security key do together, over the pages of the site."""

import json
import secrets
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fido2.cose import ES256
from fido2.utils import websafe_encode
from fido2.webauthn import AttestationObject, AttestedCredentialData, AuthenticatorData

ORIGIN = "https://testserver"
PRESENT_AND_VERIFIED = AuthenticatorData.FLAG.UP | AuthenticatorData.FLAG.UV


class Passkey:
    """One key pair for one site."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._id, self._owner = secrets.token_bytes(16), ""

    def register(self, options: dict[str, Any]) -> str:
        """Return what the browser sends for the options of an enrolment."""
        asked = options["creation_options"]["publicKey"]
        self._owner = asked["user"]["id"]
        public = ES256.from_cryptography_key(self._key.public_key())
        credential = AttestedCredentialData.create(bytes(16), self._id, public)
        flags = PRESENT_AND_VERIFIED | AuthenticatorData.FLAG.AT
        data = AuthenticatorData.create(_rp(asked["rp"]["id"]), flags, 0, credential)
        answer = {"attestationObject": websafe_encode(AttestationObject.create("none", data, {}))}
        return self._sent(_client_data("webauthn.create", asked["challenge"]), answer)

    def sign(self, options: dict[str, Any], *, origin: str = ORIGIN) -> str:
        """Return what the browser sends for the options of a sign-in."""
        asked = options["request_options"]["publicKey"]
        client_data = _client_data("webauthn.get", asked["challenge"], origin)
        data = AuthenticatorData.create(_rp(asked["rpId"]), PRESENT_AND_VERIFIED, 0)
        signature = self._key.sign(data + sha256(client_data).digest(), ec.ECDSA(SHA256()))
        answer = {
            "authenticatorData": websafe_encode(data),
            "signature": websafe_encode(signature),
            "userHandle": self._owner,
        }
        return self._sent(client_data, answer)

    def _sent(self, client_data: bytes, answer: dict[str, str]) -> str:
        name = websafe_encode(self._id)
        response = {"clientDataJSON": websafe_encode(client_data), **answer}
        return json.dumps(
            {"id": name, "rawId": name, "type": "public-key", "response": response, "clientExtensionResults": {}}
        )


def _rp(name: str) -> bytes:
    return sha256(name.encode()).digest()


def _client_data(kind: str, challenge: str, origin: str = ORIGIN) -> bytes:
    return json.dumps({"type": kind, "challenge": challenge, "origin": origin, "crossOrigin": False}).encode()
