"""The update that waits for its receipt: written piece by piece, there only when its manifest is."""

from pathlib import Path

import blake3

from edge_client.outbox import MANIFEST, SEALED, Outbox


def test_an_update_is_kept_until_it_is_dropped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.kept() is None
    assert outbox.write_sealed((b"sea", b"led")) == (blake3.blake3(b"sealed").digest(), 6)
    outbox.keep(b"manifest")
    kept = Outbox(tmp_path).kept()
    assert kept is not None
    with kept.open() as sealed:
        assert (kept.manifest, kept.sealed_bytes, sealed.read()) == (b"manifest", 6, b"sealed")
    outbox.drop()
    assert Outbox(tmp_path).kept() is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_interrupted_before_its_manifest_is_not_there(tmp_path: Path) -> None:
    Outbox(tmp_path).write_sealed((b"sealed",))
    assert Outbox(tmp_path).kept() is None


def test_a_new_update_never_stands_under_the_manifest_of_another(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.write_sealed((b"first",))
    outbox.keep(b"manifest of the first")

    def power_fails() -> object:
        yield b"sec"
        raise OSError("the power fails")

    try:
        outbox.write_sealed(power_fails())  # type: ignore[arg-type]
    except OSError:
        pass
    assert Outbox(tmp_path).kept() is None


def test_its_files_are_the_owners_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "home")
    outbox.write_sealed((b"sealed",))
    outbox.keep(b"manifest")
    for name in (MANIFEST, SEALED):
        assert (tmp_path / "home" / name).stat().st_mode & 0o777 == 0o600


def test_dropping_nothing_is_harmless(tmp_path: Path) -> None:
    Outbox(tmp_path / "no home yet").drop()
