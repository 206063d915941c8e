"""Who acts, by the name of the time, with the key of the row that the name belongs to."""


class Party(str):
    """A name such as "device:press 7"; `key` is the primary key of its row, or empty where there is no row."""

    __slots__ = ("key",)

    key: str

    def __new__(cls, role: str, name: str, key: object = "") -> "Party":
        """Return `role:name` with the key as text."""
        party = super().__new__(cls, f"{role}:{name}")
        party.key = str(key)
        return party


def key_of(actor: str) -> str:
    """Return the key of an actor; a plain name, such as "system", has none."""
    return actor.key if isinstance(actor, Party) else ""
