"""Chain and traffic keys over several epochs, and which epochs a receiver still takes."""

from typing import Any

from qflare_protocol.epochs import BUCKET_SECONDS, EpochChain, receive_epoch
from tests.vectors.parties import NOW
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

FIRST, EPOCHS = NOW // BUCKET_SECONDS, 4


def make() -> VectorFile:
    """Make the file."""
    case = Case("four epochs of generation 0", {"root": bytes(range(64)), "epoch_0": FIRST})
    case.step("expand", "chain_key_0", key="root", label="chain")
    case.step("expand", "ratchet_key", key="root", label="ratchet")
    for step in range(EPOCHS):
        if step:
            case.values[f"epoch_{step}"] = FIRST + step
            number = {"label": "next epoch", "inputs": [f"epoch_{step}"]}
            case.step("expand", f"chain_key_{step}", key=f"chain_key_{step - 1}", **number)
        number = {"label": "epoch traffic", "inputs": [f"epoch_{step}"]}
        case.step("expand", f"traffic_key_{step}", key=f"chain_key_{step}", **number)
    receipts = [_receipt(*row) for row in TAKEN]
    purpose = "Chain and traffic keys, and messages of an epoch and generation taken or refused at a server's time."
    return VectorFile(purpose, "7.1 Epochs", [case, *receipts], [_refused(case.values, *row) for row in REFUSED])


START = FIRST * BUCKET_SECONDS
TAKEN = (
    ("the current epoch", START + 10, 0, 0),
    ("the next epoch, ahead of the clock", START + 299, 1, 1),
    ("the current epoch, after a move", START + 310, 1, 1),
    ("the epoch just left, within 30 seconds", START + 329, 0, 1),
    ("an epoch two further on", START + 601, 2, 2),
)
REFUSED = (
    ("the epoch just left, after 30 seconds", START + 330, 0, 0),
    ("an epoch that is long over", START + 900, 1, 0),
    ("two epochs ahead", START + 10, 2, 0),
    ("the epoch before the session's first", START + 10, -1, 0),
    ("a generation that has not begun", START + 10, 0, 1),
)


def _receipt(name: str, now: int, step: int, reached: int) -> Case:
    """A message of epoch FIRST + step arrives; the receiver's chain then stands at FIRST + reached."""
    values = {"root": bytes(range(64)), "first_epoch": FIRST, "now": now, "generation": 0, "epoch": FIRST + step}
    return Case(f"taken: {name}", values | {"epoch_reached": FIRST + reached})


def _refused(values: dict[str, Any], name: str, now: int, step: int, generation: int) -> Refused:
    replaces = {"root": values["root"], "first_epoch": FIRST, "now": now, "epoch": FIRST + step}
    return Refused(name, "receiver of a message", "epoch-expired", replaces | {"generation": generation})


def _follow(values: dict[str, Any]) -> None:
    if "epoch_0" not in values:
        return
    chain = EpochChain.begin(values["root"], values["epoch_0"])
    assert chain.ratchet_key == values["ratchet_key"]
    for step in range(EPOCHS):
        chain = chain.advance(values[f"epoch_{step}"], now=values[f"epoch_{step}"] * BUCKET_SECONDS)
        assert chain.chain_key == values[f"chain_key_{step}"]
        assert chain.traffic_key(chain.epoch, 0, now=0) == values[f"traffic_key_{step}"]


def _receive(values: dict[str, Any]) -> None:
    if "first_epoch" not in values:
        return
    begun = EpochChain.begin(values["root"], values["first_epoch"])
    moved, key = receive_epoch(begun, values["epoch"], values["generation"], now=values["now"])
    assert moved.epoch == values["epoch_reached"]
    assert key == begun.advance(values["epoch"], now=0).derive_key("traffic")


RECEIVERS: dict[str, Receiver] = {"keeper of the chain": _follow, "receiver of a message": _receive}
