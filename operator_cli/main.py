"""The command line of `qflare`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from operator_cli import commands
from operator_cli.commands import Printed, Run, Table
from operator_cli.output import print_row, print_rows
from operator_cli.server import Refused, Server, Unreachable, api_key

EXIT_FAILED, EXIT_REFUSED, EXIT_UNREACHABLE = 1, 2, 3
DEFAULT_SERVER = "http://127.0.0.1:8000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 a round that was waited for failed, 2 refused, 3 unreachable."""
    options = _parser().parse_args(arguments)
    try:
        printed: Printed = options.run(Server(options.server, api_key()), options)
    except Refused as refusal:
        sys.stderr.write(f"Refused: {refusal}\n")
        return EXIT_REFUSED
    except Unreachable as failure:
        sys.stderr.write(f"The server cannot be reached: {failure}\n")
        return EXIT_UNREACHABLE
    except KeyboardInterrupt:
        return 130
    if isinstance(printed, Table):
        print_rows(printed.rows, printed.columns, as_json=options.json)
        return 0
    print_row(printed.row, as_json=options.json)
    return EXIT_FAILED if printed.failed else 0


def _parser() -> argparse.ArgumentParser:
    about = "Operate a QFLARE site. The API key is that of QFLARE_API_KEY_FILE or QFLARE_API_KEY."
    parser = argparse.ArgumentParser(prog="qflare", description=about)
    server = os.environ.get("QFLARE_SERVER", DEFAULT_SERVER)
    parser.add_argument("--server", default=server, help="address of the site (QFLARE_SERVER; now %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, whole rows, for scripts")
    nouns = parser.add_subparsers(title="nouns", required=True, metavar="NOUN")
    _add_tokens(nouns)
    _add_devices(nouns)
    _add_federations(nouns)
    _add_rounds(nouns)
    _add_models(nouns)
    _add_log(nouns)
    return parser


def _noun(nouns: Any, name: str, about: str) -> Any:
    return nouns.add_parser(name, help=about).add_subparsers(title="verbs", required=True, metavar="VERB", dest="verb")


def _verb(verbs: Any, name: str, run: Run) -> argparse.ArgumentParser:
    about = (run.__doc__ or "").strip()
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
    verb.set_defaults(run=run)
    return verb


def _list(verbs: Any, run: Run, name: str = "list") -> argparse.ArgumentParser:
    verb = _verb(verbs, name, run)
    verb.add_argument("--limit", type=int, default=100, help="at most so many rows (default: %(default)s)")
    return verb


def _add_tokens(nouns: Any) -> None:
    verbs = _noun(nouns, "tokens", "enrolment tokens")
    issue = _verb(verbs, "issue", commands.issue_tokens)
    issue.add_argument("--count", type=int, default=1)
    issue.add_argument("--name", default="", help="device's name; several are for NAME-1, NAME-2")
    issue.add_argument("--group", default="")
    issue.add_argument("--suite", default="", help="default: the site's")
    issue.add_argument("--hours", type=float, default=24.0, help="lifetime (default: %(default)s)")
    _list(verbs, commands.list_tokens)
    _verb(verbs, "revoke", commands.revoke_token).add_argument("id")


def _add_devices(nouns: Any) -> None:
    verbs = _noun(nouns, "devices", "the registry of devices")
    listing = _list(verbs, commands.list_devices)
    listing.add_argument("--state", choices=("active", "suspended", "revoked"))
    listing.add_argument("--group")
    _verb(verbs, "show", commands.show_device).add_argument("device", help="name or id")
    for name in ("suspend", "resume", "revoke"):
        change = _verb(verbs, name, commands.change_device)
        change.add_argument("device", help="name or id")
        change.add_argument("--reason", required=True, help="kept in the audit log")
    label = _verb(verbs, "label", commands.label_device)
    label.add_argument("device", help="name or id")
    label.add_argument("labels", nargs="*", metavar="NAME=VALUE")


def _add_federations(nouns: Any) -> None:
    verbs = _noun(nouns, "federations", "federations")
    _list(verbs, commands.list_federations)
    for name, run in (
        ("show", commands.show_federation),
        *((v, commands.change_federation) for v in ("pause", "resume")),
    ):
        _verb(verbs, name, run).add_argument("federation", help="name or id")


def _add_rounds(nouns: Any) -> None:
    verbs = _noun(nouns, "rounds", "rounds of training")
    listing = _list(verbs, commands.list_rounds)
    listing.add_argument("--federation", help="name or id")
    listing.add_argument("--state")
    _verb(verbs, "show", commands.show_round).add_argument("id")
    _list(verbs, commands.list_participations, "participations").add_argument("id")
    opening = _verb(verbs, "open", commands.open_round)
    opening.add_argument("federation", help="name or id")
    opening.add_argument("--wait", action="store_true", help="until it has ended")
    extend = _verb(verbs, "extend", commands.extend_round)
    extend.add_argument("id")
    extend.add_argument("--seconds", type=int, required=True)
    cancel = _verb(verbs, "cancel", commands.cancel_round)
    cancel.add_argument("id")
    for verb in (extend, cancel):
        verb.add_argument("--reason", required=True, help="kept in the audit log")


def _add_models(nouns: Any) -> None:
    verbs = _noun(nouns, "models", "versions of the global models")
    _list(verbs, commands.list_models).add_argument("--federation", help="name or id")
    release, back = _verb(verbs, "release", commands.release_model), _verb(verbs, "roll-back", commands.roll_back)
    for verb in (release, back):
        verb.add_argument("federation", help="name or id")
        verb.add_argument("number", type=int, help="the version's")
    back.add_argument("--reason", required=True, help="kept in the audit log")
    back.add_argument("--continue-training", action="store_true", help="the next round starts from it too")


def _add_log(nouns: Any) -> None:
    verbs = _noun(nouns, "log", "the audit log")
    listing = _list(verbs, commands.list_entries, "entries")
    listing.add_argument("--kind", help="such as round.completed")
    listing.add_argument("--actor", help="such as operator:olga")
    listing.add_argument("--after", type=int, metavar="INDEX", help="entries behind this one")
    prove = _verb(verbs, "prove", commands.prove_entry)
    prove.add_argument("index", type=int)
    prove.add_argument("--output", type=Path)


if __name__ == "__main__":
    raise SystemExit(main())
