"""Labels of devices: short texts by name, by which a federation chooses whom it invites."""

from qflare_protocol.errors import Refusal
from qflare_protocol.fields import short_text

MAX_LABELS = 32
MAX_NAME = 64
MAX_VALUE = 100


def checked_labels(value: object) -> dict[str, str]:
    """Return labels that are in form. Raises `Refusal("malformed-message")`."""
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise Refusal("malformed-message", f"Labels are a map of at most {MAX_LABELS} texts.")
    return {
        short_text(name, MAX_NAME, what="name of a label"): short_text(text, MAX_VALUE, what=f"label {name}")
        for name, text in value.items()
    }


def parse_labels(lines: list[str]) -> dict[str, str]:
    """Read labels written as NAME=VALUE. Raises `Refusal("malformed-message")`."""
    labels: dict[str, str] = {}
    for line in lines:
        name, divider, text = line.partition("=")
        if not divider or name.strip() in labels:
            raise Refusal("malformed-message", f"A label is NAME=VALUE, each name once; {line!r} is not.")
        labels[name.strip()] = text.strip()
    return checked_labels(labels)


def labels_as_text(labels: dict[str, str]) -> str:
    """Return labels as `parse_labels` reads them from words: NAME=VALUE, separated by spaces."""
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
