"""Whom the log names when somebody works in a shell."""

import getpass

import pytest

from operator_admin.shell import shell_actor


def test_the_name_of_the_user(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "olga")
    assert shell_actor() == "operator:olga"


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_container_s_user_without_a_name_is_named_by_number(monkeypatch, error):
    def nameless():
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 10001)
    assert shell_actor() == "operator:uid-10001"
