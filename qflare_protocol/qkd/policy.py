"""Whether a session is to have a QKD key."""

from enum import StrEnum


class QkdUse(StrEnum):
    """What one side wants of a session: no QKD key, one where it can be had, or no session without."""

    OFF = "off"
    PREFERRED = "preferred"
    REQUIRED = "required"
