"""The reference of commands: `manage.py`, `qflare`, `qflare-edge` and `qflare-verify`, from their own parsers."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from django.apps import apps
from django.core.management import get_commands, load_command_class
from django.core.management.base import DjangoHelpFormatter

ROOT = Path(__file__).resolve().parents[1]
_HEADING = """# Commands

Made of the commands' own parsers. `manage.py` is run as `.venv/bin/python manage.py` in the checkout, or in a container
of the site; `qflare-edge` on devices, `qflare` by operators, `qflare-verify` by auditors.
"""


def commands_page(programs: dict[str, argparse.ArgumentParser]) -> str:
    """Return the page, of our own management commands and the named programs."""
    lines = [_HEADING, "## manage.py", ""]
    for name, parser in own_management_commands():
        lines += _section(f"manage.py {name}", parser, level=3)
    for program, parser in programs.items():
        lines += ["", f"## {program}", ""]
        for words, part in _leaves(program, parser):
            lines += _section(words, part, level=3 if words != program else 0)
    return "\n".join(lines) + "\n"


def own_management_commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield name and parser of every management command of this project."""
    ours = {config.name for config in apps.get_app_configs() if Path(config.path).is_relative_to(ROOT)}
    ours = {name for name in ours if ".venv" not in apps.get_app_config(_label(name)).path}
    for name, owner in sorted(get_commands().items()):
        if owner in ours:
            yield name, load_command_class(owner, name).create_parser("manage.py", name)


def _label(name: str) -> str:
    return next(config.label for config in apps.get_app_configs() if config.name == name)


def _leaves(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the program itself, where it has options of its own, and every command below it."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested or len(parser._actions) > len(nested) + 1:
        yield words, parser
    for action in nested:
        for name, part in action.choices.items():
            yield from _leaves(f"{words} {name}", part)


def _section(title: str, parser: argparse.ArgumentParser, *, level: int) -> list[str]:
    lines = [f"{'#' * level} {title}", ""] if level else []
    if parser.description:
        lines += [_plain(" ".join(parser.description.split())), ""]
    rows = [_row(action) for action in parser._actions if _is_shown(action)]
    if rows:
        lines += ["| argument | what it does |", "|---|---|", *rows, ""]
    return lines


def _is_shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, argparse._HelpAction | argparse._SubParsersAction) or action.help == argparse.SUPPRESS
    return not hidden and not DjangoHelpFormatter.show_last & set(action.option_strings) and action.dest != "version"


def _row(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else action.metavar or action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    names = [f"`{name} {value}`".replace(" `", "`") for name in action.option_strings] or [f"`{value}`"]
    parts = [(action.help or "").replace("%(default)s", str(_default_shown(action))).replace("%%", "%")]
    if action.choices:
        parts.append(f"One of {', '.join(map(str, action.choices))}.")
    if action.required and action.option_strings:
        parts.append("Required.")
    return f"| {', '.join(names)} | {_plain(' '.join(filter(None, parts)))} |"


def _default_shown(action: argparse.Action) -> object:
    """Return the default; of one that is of the machine the page is made on, what it is."""
    if action.dest in ("home", "name"):
        return {"home": "~/.qflare-edge", "name": "the host's name"}[action.dest]
    return action.default


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
