"""What each command does: one function a command, `(server, options) -> what to print`."""

import argparse
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operator_cli.server import Refused, Server

ENDED = ("completed", "failed", "cancelled")
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Table:
    """Rows, and the columns that people are shown."""

    rows: list[dict[str, Any]]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One row."""

    row: dict[str, Any]
    failed: bool = field(default=False)


Printed = Table | Row
Run = Callable[[Server, argparse.Namespace], Printed]

DEVICES = ("name", "group", "state", "suite", "last_seen_at", "state_reason")
TOKENS = ("id", "device_name", "group", "state", "expires_at", "used_by")
FEDERATIONS = ("name", "group", "state", "current_version", "planned_rounds", "mode")
ROUNDS = ("federation", "number", "state", "submissions", "target_updates", "end_reason", "id")
PARTS = ("device", "state", "reason", "progress", "loss", "submitted_at")
MODELS = ("federation", "number", "metrics", "released_at", "created_at", "id")
ENTRIES = ("index", "occurred_at", "actor", "description")


def issue_tokens(server: Server, options: argparse.Namespace) -> Table:
    """Issue tokens and show their texts, this once."""
    terms = {"count": options.count, "device_name": options.name, "group": options.group, "hours": options.hours}
    return Table(server.change("POST", "tokens", terms | {"suite": options.suite}), ("device_name", "token", "command"))


def list_tokens(server: Server, options: argparse.Namespace) -> Table:
    """List tokens, newest first."""
    return Table(list(server.rows("tokens", at_most=options.limit)), TOKENS)


def revoke_token(server: Server, options: argparse.Namespace) -> Row:
    """Revoke an unused token."""
    return Row(server.change("POST", f"tokens/{options.id}/revoke", {}))


def list_devices(server: Server, options: argparse.Namespace) -> Table:
    """List devices by name."""
    narrowed = {"state": options.state, "group": options.group}
    return Table(list(server.rows("devices", at_most=options.limit, **narrowed)), DEVICES)


def show_device(server: Server, options: argparse.Namespace) -> Row:
    """Show a device."""
    return Row(_device(server, options.device))


def change_device(server: Server, options: argparse.Namespace) -> Row:
    """Suspend, resume or revoke a device."""
    device = _device(server, options.device)
    return Row(server.change("POST", f"devices/{device['id']}/{options.verb}", {"reason": options.reason}))


def label_device(server: Server, options: argparse.Namespace) -> Row:
    """Give a device these labels and no others."""
    pairs = [label.partition("=") for label in options.labels]
    if not all(separator for _, separator, _ in pairs):
        raise Refused("A label has the form NAME=VALUE.")
    device = _device(server, options.device)
    labels = {name: value for name, _, value in pairs}
    return Row(server.change("PUT", f"devices/{device['id']}/labels", {"labels": labels}))


def list_federations(server: Server, options: argparse.Namespace) -> Table:
    """List federations by name."""
    return Table(list(server.rows("federations", at_most=options.limit)), FEDERATIONS)


def show_federation(server: Server, options: argparse.Namespace) -> Row:
    """Show a federation with its terms and policy."""
    return Row(_federation(server, options.federation))


def change_federation(server: Server, options: argparse.Namespace) -> Row:
    """Pause or resume a federation."""
    federation = _federation(server, options.federation)
    return Row(server.change("POST", f"federations/{federation['id']}/{options.verb}", {}))


def list_rounds(server: Server, options: argparse.Namespace) -> Table:
    """List rounds, newest first."""
    federation = options.federation and _federation(server, options.federation)["id"]
    narrowed = {"federation": federation, "state": options.state}
    return Table(list(server.rows("rounds", at_most=options.limit, **narrowed)), ROUNDS)


def show_round(server: Server, options: argparse.Namespace) -> Row:
    """Show a round."""
    return Row(server.get(f"rounds/{options.id}"))


def list_participations(server: Server, options: argparse.Namespace) -> Table:
    """List who was invited to a round, and what became of it."""
    return Table(list(server.rows(f"rounds/{options.id}/participations", at_most=options.limit)), PARTS)


def open_round(server: Server, options: argparse.Namespace) -> Row:
    """Open a round; with `--wait` say how it goes until its end, and fail unless it is completed."""
    federation = _federation(server, options.federation)
    opened = server.change("POST", "rounds", {"federation": federation["id"]})
    return _watched(server, opened) if options.wait else Row(opened)


def _watched(server: Server, round_: dict[str, Any]) -> Row:
    said = ""
    while round_["state"] not in ENDED:
        counted = f"{round_['submissions']} of {round_['target_updates']} updates"
        line = f"round {round_['number']} is {round_['state']}, {counted}"
        if line != said:
            sys.stderr.write(line + "\n")
            said = line
        time.sleep(POLL_SECONDS)
        round_ = server.get(f"rounds/{round_['id']}")
    return Row(round_, failed=round_["state"] != "completed")


def extend_round(server: Server, options: argparse.Namespace) -> Row:
    """Put the deadline of an open round off."""
    body = {"seconds": options.seconds, "reason": options.reason}
    return Row(server.change("POST", f"rounds/{options.id}/extend", body))


def cancel_round(server: Server, options: argparse.Namespace) -> Row:
    """End a round without a model."""
    return Row(server.change("POST", f"rounds/{options.id}/cancel", {"reason": options.reason}))


def list_models(server: Server, options: argparse.Namespace) -> Table:
    """List model versions, newest first."""
    federation = options.federation and _federation(server, options.federation)["id"]
    return Table(list(server.rows("models", at_most=options.limit, federation=federation)), MODELS)


def release_model(server: Server, options: argparse.Namespace) -> Row:
    """Make a version the released one of its federation."""
    federation = _federation(server, options.federation)
    version = server.only("models", "model version", federation=federation["id"], number=options.number)
    return Row(server.change("POST", f"models/{version['id']}/release", {}))


def roll_back(server: Server, options: argparse.Namespace) -> Row:
    """Release an earlier version than the released one."""
    federation = _federation(server, options.federation)
    body = {"number": options.number, "reason": options.reason, "continue_training": options.continue_training}
    return Row(server.change("POST", f"federations/{federation['id']}/roll-back", body))


def list_entries(server: Server, options: argparse.Namespace) -> Table:
    """List entries of the audit log, newest first."""
    narrowed = {"kind": options.kind, "actor": options.actor, "after": options.after}
    return Table(list(server.rows("log/entries", at_most=options.limit, **narrowed)), ENTRIES)


def prove_entry(server: Server, options: argparse.Namespace) -> Row:
    """Write the proof of an entry, which `qflare-verify` checks offline."""
    proof = server.get(f"log/entries/{options.index}/proof")["proof"]
    output = options.output or Path(f"entry-{options.index}.tlog-proof")
    output.write_text(proof)
    return Row({"index": options.index, "proof": str(output)})


def _device(server: Server, named: str) -> dict[str, Any]:
    return _by_id_or_name(server, "devices", "device", named)


def _federation(server: Server, named: str) -> dict[str, Any]:
    return _by_id_or_name(server, "federations", "federation", named)


def _by_id_or_name(server: Server, path: str, what: str, named: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = server.get(f"{path}/{uuid.UUID(named)}")
    except ValueError:
        row = server.only(path, what, name=named)
    return row
