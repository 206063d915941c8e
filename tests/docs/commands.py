"""Every command that a document names, and what is wrong with it: a command or a flag that does not exist."""

import argparse
import re
from collections.abc import Iterator

from django.core.management import get_commands, load_command_class

from edge_client.cli import _parser as edge_parser
from operator_cli.main import _parser as operator_parser
from verifier.qflare_verify import _parser as verifier_parser

# Of Django, and of a README's shell that is not ours to parse.
_NAME = r"[a-z][a-z_]*"
_MANAGE = re.compile(rf"manage\.py ({_NAME})(?![\w.])([^`\n]*)")
_PROGRAM = re.compile(r"(?:^|[\s`/])(qflare-edge|qflare-verify|qflare)((?: [^`\n]*)?)")


def commands_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield program and arguments of every command, in blocks and in sentences."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for name, arguments in _MANAGE.findall(joined):
        yield f"manage.py {name}", arguments.split(" #")[0]
    for line in re.findall(r"^ {4,}(\S.*)$|`([^`\n]+)`", joined, re.MULTILINE):
        for program, arguments in _PROGRAM.findall("".join(line)):
            if not re.search(r"manage\.py|kubectl|adduser", "".join(line)):
                yield program, arguments.split(" #")[0]


def fault_of(program: str, arguments: str) -> str:
    """Return what is wrong with a command, or nothing."""
    words = re.split(r"[\s|;&()\[\]]+", re.split(r" [|;&>] | && ", arguments)[0])
    if program.startswith("manage.py "):
        name = program.split()[1]
        if name not in get_commands():
            return f"there is no {program}"
        return _unknown_flags(load_command_class(get_commands()[name], name).create_parser("manage.py", name), words)
    parser = {"qflare-edge": edge_parser, "qflare": operator_parser, "qflare-verify": verifier_parser}[program]()
    return _unknown_flags(parser, words)


def _unknown_flags(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """Follow the words into the parser of a command below it; flags may stand at any of them."""
    known, at = _flags(parser), parser
    for word in words:
        nested = [action for action in at._actions if isinstance(action, argparse._SubParsersAction)]
        if nested and word in nested[0].choices:
            at = nested[0].choices[word]
            known |= _flags(at)
    strangers = {word.partition("=")[0].strip(".,:") for word in words if re.match(r"--[a-z]", word)} - known
    return f"there is no {', '.join(sorted(strangers))}" if strangers else ""


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}
