"""The one failure of quantum key distribution."""


class QkdUnavailable(Exception):  # noqa: N818 - it says what happened
    """No key can be had, in a sentence that carries no key material; the policy decides what follows."""
