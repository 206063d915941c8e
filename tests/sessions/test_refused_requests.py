"""A sealed request that was refused has used nothing: neither its number nor any of the session's allowance."""

import pytest

from qflare_protocol import rekey
from qflare_protocol.encoding import encode
from qflare_protocol.rekey import RekeyContext
from sessions.models import Exchange, Session
from tests.people import assert_refused, nothing_changed, opened
from tests.sessions.test_rekeying import PATH, clock_seconds, renew

pytestmark = pytest.mark.django_db

NO_FEDERATION = "/api/global_model?federation=00000000-0000-0000-0000-000000000001"
REFUSED = {
    "for its content": ({"message": {"more": 1}}, "malformed-message"),
    "for its content type": ({"content_type": "application/json", "body": b"{}"}, "unsupported-media-type"),
    "for what it asks for": (
        {"path": NO_FEDERATION, "method": "GET", "body": b"", "content_type": ""},
        "not-found",
    ),
}


@pytest.mark.parametrize(("request_made", "code"), REFUSED.values(), ids=REFUSED)
def test_its_number_and_its_share_of_the_allowance_stay_free(alice, request_made, code):
    line = alice.line()
    line.ask()
    before = Session.objects.values().get()
    with nothing_changed():
        refused = line.seal(sequence=2, **request_made)
        assert opened(refused, line.send(refused)).problem["type"].endswith(code)
    assert Session.objects.values().get() == before
    again = line.seal(sequence=2)
    assert opened(again, line.send(again)).status == 200
    assert list(Exchange.objects.order_by("sequence").values_list("sequence", flat=True)) == [1, 2]


def test_any_number_of_refusals_leaves_the_allowance(alice, settings):
    settings.QFLARE_SESSION_LIMITS = {"requests": 2}
    line = alice.line()
    for sequence in range(1, 6):
        refused = line.seal(message={"more": 1}, sequence=sequence)
        assert opened(refused, line.send(refused)).status == 400
    for sequence in (10, 11):
        assert line.ask(sequence=sequence).status == 200
    assert_refused(line.ask(sequence=12), "session-limit-reached")


def test_a_new_wish_replaces_the_servers_offer(alice):
    """Two offers for one generation: the answer to the first one renews nothing any more."""
    line = alice.line()
    line.chain = renew(alice, line)
    first, second = (line.ask(PATH, {}).message["offer"] for _ in range(2))
    assert first != second
    context = RekeyContext(alice.identity.keys.suite, line.session_id, line.chain)
    for offer, answered in ((first, False), (second, True)):
        answer, renewal = rekey.answer_offer(
            context, offer, alice.identity.identity, alice.identity.keys.signer, epoch=line.chain.epoch,
            now=clock_seconds(),
        )  # fmt: skip
        request = line.seal(PATH, body=encode({"answer": answer, "confirmation": renewal.confirmation}))
        reply = opened(request, line.send(request))
        assert (reply.status == 200) is answered, reply.plaintext
