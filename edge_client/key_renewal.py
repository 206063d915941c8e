"""The device's side of what renews keys inside a session: the rekey, and the registration of new device keys."""

from collections.abc import Callable
from typing import Any

import structlog

from edge_client.identity_keeper import IdentityKeeper
from qflare_protocol import pqc, rekey
from qflare_protocol.cose import Verifier
from qflare_protocol.device_keys import DeviceKeys, generate_device_keypair
from qflare_protocol.epochs import EpochChain
from qflare_protocol.fields import bytes_field
from qflare_protocol.key_rotation import RotationClient
from qflare_protocol.suites import suite_by_name

log = structlog.get_logger(__name__)

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Sends a map sealed to one endpoint and returns the answered map. Raises `Refusal`, `ServerUnreachable`."""


def rekey_session(
    ask: Ask, context: rekey.RekeyContext, *, keys: DeviceKeys, server: Verifier, now: Callable[[], float]
) -> EpochChain:
    """Return the session's chain of the next generation. Raises `Refusal` where the server or its proof refuses."""
    if rekey.device_offers(context.generation):
        ephemeral = pqc.kem(suite_by_name(context.suite).ephemeral_kem).generate()
        offer = rekey.make_offer(context, ephemeral, keys.signer, epoch=context.chain.epoch)
        answered = ask({"offer": offer.message})
        answer, confirmation = bytes_field(answered, "answer"), bytes_field(answered, "confirmation", rekey.MAC_BYTES)
        return rekey.accept_answer(context, offer, answer, server, confirmation, now=now())
    offered = bytes_field(ask({}), "offer")
    answer, renewal = rekey.answer_offer(context, offered, server, keys.signer, epoch=context.chain.epoch, now=now())
    ask({"answer": answer, "confirmation": renewal.confirmation})
    return renewal.chain


def rotate_keys(ask: Ask, keeper: IdentityKeeper, session_id: bytes, current: DeviceKeys, *, now: float) -> None:
    """Register new keys of the device's suite; they are kept on disk before the server hears of them.

    Raises `Refusal` where the server or its proof refuses; the keys then stay as they were.
    """
    following = keeper.identity.next_keys
    if following is None:
        following = generate_device_keypair(current.suite)
        keeper.keep_next_keys(following)
    identity = keeper.identity
    client = RotationClient(identity.device_id, session_id, current, following, identity.identity)
    challenged = ask({"begin": client.request.begin, "authorization": client.request.authorization})
    attempt, confirmation = client.respond(bytes_field(challenged, "challenge"))
    confirmed = ask({"attempt": attempt, "confirmation": confirmation})
    until = client.complete(bytes_field(confirmed, "confirmation"))
    keeper.promote_next_keys(old_valid_until=until, now=now)
    log.info("keys_rotated", signature_key=following.signer.fingerprint.hex()[:16], old_valid_until=until)
