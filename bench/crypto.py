"""`python -m bench.crypto`: every post-quantum algorithm that is served here, beside its classical counterpart."""

from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.measuring import interleaved_medians
from bench.report import Figure, parse_options, show
from qflare_protocol import pqc
from qflare_protocol.pqc import registry

REPETITIONS = 200
MESSAGE = bytes(4096)  # about what a handshake message signs

TARGET_MILLISECONDS = {
    ("ML-KEM-1024", "keygen"): 0.1,
    ("ML-KEM-1024", "encapsulate"): 0.15,
    ("ML-KEM-1024", "decapsulate"): 0.2,
    ("ML-DSA-44", "sign"): 0.5,
    ("ML-DSA-44", "verify"): 0.1,
    ("FrodoKEM-640-AES", "keygen"): 10.0,
}
"""The published targets."""

Cases = dict[tuple[str, str], Callable[[], object]]

CLASSICAL_KEM, CLASSICAL_SIGNATURE = "X25519", "Ed25519"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse_options(__doc__, arguments, repetitions=REPETITIONS)
    figures, notes = measure(options.repetitions)
    show("Public-key algorithms", figures, as_json=options.json, notes=notes)


def measure(repetitions: int) -> tuple[list[Figure], list[str]]:
    """Return a figure for each operation of each algorithm, and which algorithms no engine serves here."""
    absent = [name for name in (*registry.KEM_NAMES, *registry.SIGNATURE_NAMES) if registry.failure_of(name)]
    cases: Cases = {**_x25519(), **_ed25519()}
    for name in registry.KEM_NAMES:
        cases |= {} if name in absent else _kem(name)
    for name in registry.SIGNATURE_NAMES:
        cases |= {} if name in absent else _signature(name)
    seconds = interleaved_medians({" ".join(key): case for key, case in cases.items()}, repetitions=repetitions)
    figures = [_figure(name, operation, seconds) for name, operation in cases if not name.endswith("25519")]
    return figures, [f"No engine here serves {', '.join(absent)}."] if absent else []


def _figure(name: str, operation: str, seconds: dict[str, float]) -> Figure:
    classical = CLASSICAL_KEM if name in registry.KEM_NAMES else CLASSICAL_SIGNATURE
    reference = f"{classical} {operation}"
    engine = (pqc.kem if name in registry.KEM_NAMES else pqc.signature)(name).engine
    target = TARGET_MILLISECONDS.get((name, operation))
    return Figure(
        f"{name} {operation} ({engine})",
        seconds[f"{name} {operation}"],
        reference,
        seconds[reference],
        most_seconds=None if target is None else target / 1e3,
    )


def _kem(name: str) -> Cases:
    kem = pqc.kem(name)
    pair = kem.generate()
    _, ciphertext = kem.encapsulate(pair.public)
    return {
        (name, "keygen"): kem.generate,
        (name, "encapsulate"): lambda: kem.encapsulate(pair.public),
        (name, "decapsulate"): lambda: kem.decapsulate(pair.private, ciphertext),
    }


def _signature(name: str) -> Cases:
    signature = pqc.signature(name)
    pair = signature.generate()
    signed = signature.sign(pair.private, MESSAGE)
    return {
        (name, "keygen"): signature.generate,
        (name, "sign"): lambda: signature.sign(pair.private, MESSAGE),
        (name, "verify"): lambda: signature.verify(pair.public, MESSAGE, signed),
    }


def _x25519() -> Cases:
    """As a KEM: a key pair; a fresh key pair and an exchange; an exchange."""
    key, peer = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    return {
        (CLASSICAL_KEM, "keygen"): lambda: X25519PrivateKey.generate().public_key(),
        (CLASSICAL_KEM, "encapsulate"): lambda: X25519PrivateKey.generate().exchange(peer),
        (CLASSICAL_KEM, "decapsulate"): lambda: key.exchange(peer),
    }


def _ed25519() -> Cases:
    key = Ed25519PrivateKey.generate()
    public, signed = key.public_key(), key.sign(MESSAGE)
    return {
        (CLASSICAL_SIGNATURE, "keygen"): lambda: Ed25519PrivateKey.generate().public_key(),
        (CLASSICAL_SIGNATURE, "sign"): lambda: key.sign(MESSAGE),
        (CLASSICAL_SIGNATURE, "verify"): lambda: public.verify(signed, MESSAGE),
    }


if __name__ == "__main__":
    main()
