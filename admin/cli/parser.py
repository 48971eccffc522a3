"""The parser of one command: what it says of words that it does not know, and its examples."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

# What people of other tools type, and what it is called here: the first that there is.
HABITS: Final = {
    "add": ("create",),
    "backup": ("export", "events"),
    "cat": ("show",),
    "check": ("verify", "doctor"),
    "describe": ("show",),
    "drop": ("delete",),
    "edit": ("change",),
    "get": ("show", "list"),
    "health": ("doctor",),
    "history": ("events",),
    "info": ("show",),
    "log": ("events", "tail"),
    "logs": ("events", "tail"),
    "ls": ("list",),
    "modify": ("change",),
    "new": ("create",),
    "ps": ("top", "status"),
    "remove": ("delete",),
    "restore": ("import", "events"),
    "revert": ("undo",),
    "rm": ("delete", "remove"),
    "rollback": ("undo",),
    "run": ("serve",),
    "set": ("change", "put"),
    "start": ("serve", "up"),
    "status": ("doctor",),
    "stop": ("drain", "down"),
    "update": ("change", "put", "apply"),
}
# As alike as "lst" and "list"; less would suggest what nobody meant.
ALIKE: Final = 0.6


def near(word: str, known: Iterable[str]) -> str:
    """What was probably meant by `word`, or ""."""
    known = list(known)
    for habit in HABITS.get(word, ()):
        if habit in known:
            return habit
    found = difflib.get_close_matches(word, known, 1, ALIKE)
    return found[0] if found else ""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors end in what to do."""

    examples: Sequence[str] = ()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        own = {option for action in self._actions for option in action.option_strings}
        if words and words[0].startswith("--") and words[0].partition("=")[0] not in own:
            self.error(
                f"{words[0]} is not an option here: options stand behind the command, "
                "as in `tenantry tenants list --data-dir DIR`"
            )
        given, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self._deepest(words)._refuse(unknown)
        return given

    def format_help(self) -> str:
        """A group without examples of its own shows the first one of each of its commands."""
        if self.epilog is None:
            children = [each for each in subcommands(self).values() if isinstance(each, Parser)]
            lines = [each.examples[0] for each in children if each.examples]
            if lines:
                self.epilog = "\n  ".join(("examples:", *lines))
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """What is wrong, how it is written, one example, and where to read more; exit code 2."""
        if message == "the following arguments are required: COMMAND":
            self.print_help(sys.stderr)
            self.exit(2, f"\n{self.prog}: name one of these commands\n")
        self.print_usage(sys.stderr)
        example = f"\nfor example: {self.examples[0]}" if self.examples else ""
        more = f"`{self.prog} --help` tells more."
        self.exit(2, f"{self.prog}: {message}{example}\n{more}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(each) for each in action.choices]
        probably = near(str(value), known)
        if isinstance(action, argparse._SubParsersAction):
            hint = f'did you mean "{probably}"?' if probably else f"use one of {', '.join(known)}"
            self.error(f'there is no command "{value}" here: {hint}')
        hint = f' (did you mean "{probably}"?)' if probably else ""
        what = f'"{value}" is not one of {", ".join(known)}{hint}'
        raise argparse.ArgumentError(action, what)

    def _deepest(self, words: Sequence[str]) -> Parser:
        """The parser of the command that `words` name."""
        found: Parser = self
        for word in words:
            below = subcommands(found).get(word)
            if isinstance(below, Parser):
                found = below
        return found

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        known = [
            option
            for action in self._actions
            if action.help is not argparse.SUPPRESS
            for option in action.option_strings
            if option.startswith("--")
        ]
        told = []
        for word in unknown:
            probably = near(word.partition("=")[0], known) if word.startswith("-") else ""
            told.append(word + (f' (did you mean "{probably}"?)' if probably else ""))
        self.error(f"this means nothing here: {', '.join(told)}")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands beneath a parser, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
