"""A checkpoint in a transaction is read back from the chain; needs requirements-anchors.txt and eth-tester."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from audit import services
from audit.anchor_settings import parse_anchors
from audit.anchors import AnchorError, configured_anchors
from tests.audit.conftest import NOW, record

pytest.importorskip("web3", reason="web3 is not installed (requirements-anchors.txt)")
pytest.importorskip("eth_tester", reason="eth-tester is not installed: pip install eth-tester py-evm")
pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def chain() -> object:
    from eth_tester import EthereumTester
    from web3 import EthereumTesterProvider

    from audit.anchors.evm import EvmChain

    tester = EthereumTester()
    return EvmChain("http://chain.example", tester.get_accounts()[0], EthereumTesterProvider(tester))


def test_a_checkpoint_is_read_back_from_its_transaction(make_log: Callable[[int], None], chain: object) -> None:
    make_log(3)
    text = services.current_checkpoint().note
    receipt = chain.publish(text)
    chain.verify(receipt, text)
    record(0, NOW + timedelta(minutes=1))
    services.sequence_log(NOW + timedelta(minutes=1))
    with pytest.raises(AnchorError, match="something else"):
        chain.verify(receipt, services.current_checkpoint().note)


@pytest.mark.parametrize(("member", "value"), [("chain", 5), ("block", "00" * 32), ("transaction", "00" * 32)])
def test_a_receipt_of_another_place_is_refused(
    make_log: Callable[[int], None], chain: object, member: str, value: object
) -> None:
    make_log(3)
    text = services.current_checkpoint().note
    receipt = json.dumps(json.loads(chain.publish(text)) | {member: value}).encode()
    with pytest.raises(AnchorError):
        chain.verify(receipt, text)


def test_a_node_that_is_not_there_is_refused(make_log: Callable[[int], None]) -> None:
    make_log(1)
    account = "0x" + "ab" * 20
    stated = json.dumps([{"name": "chain", "kind": "evm", "url": "http://127.0.0.1:1", "account": account}])
    (plan,) = configured_anchors(parse_anchors(stated))
    with pytest.raises(AnchorError, match="did not take"):
        plan.anchor.publish(services.current_checkpoint().note)
