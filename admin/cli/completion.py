"""Completion for shells, made from the parser itself, so that it never lags behind.

The scripts hold a table of commands with their options; nothing is run while somebody types.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from admin.cli.parser import subcommands


@dataclass(frozen=True, slots=True)
class Node:
    """One command: the words that lead to it, what may follow, and options that take a file."""

    words: tuple[str, ...]
    below: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]
    choices: tuple[tuple[str, tuple[str, ...]], ...]
    files: bool


def nodes(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Node]:
    """All commands, the top first."""
    below: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    choices: list[tuple[str, tuple[str, ...]]] = []
    files = False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            below = [(name, helps.get(name, "")) for name in action.choices]
        elif action.option_strings:
            if action.help == argparse.SUPPRESS:
                continue
            longest = max(action.option_strings, key=len)
            options.append((longest, (action.help or "").replace("%%", "%")))
            if action.choices:
                choices.append((longest, tuple(map(str, action.choices))))
        elif action.choices:
            below += [(str(each), "") for each in action.choices]
        elif action.metavar == "FILE":
            files = True
    yield Node(words, tuple(below), tuple(options), tuple(choices), files)
    for name, child in subcommands(parser).items():
        yield from nodes(child, (*words, name))


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What `shell` (bash, zsh or fish) is to read."""
    found = list(nodes(parser))
    if shell == "fish":
        return fish(found)
    return bash(found) if shell == "bash" else zsh(found)


def bash(found: list[Node]) -> str:
    lines = [
        "# bash completion of tenantry; source it.",
        "_tenantry() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"',
        '    local path="" word',
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        case "$path $word" in',
    ]
    for node in found[1:]:
        path = "".join(f" {word}" for word in node.words)
        lines.append(f'            "{path}") path="{path}" ;;')
    lines += ["        esac", "    done", '    case "$path:$prev" in']
    for node in found:
        path = "".join(f" {word}" for word in node.words)
        for option, values in node.choices:
            lines.append(
                f'        "{path}:{option}") '
                f'COMPREPLY=($(compgen -W "{" ".join(values)}" -- "$cur")); return ;;'
            )
    lines += [
        "        *:--config|*:--file|*:--scram|*:--data-dir) "
        'COMPREPLY=($(compgen -f -- "$cur")); return ;;',
        "    esac",
        '    case "$path" in',
    ]
    for node in found:
        path = "".join(f" {word}" for word in node.words)
        words = " ".join([name for name, _ in node.below] + [name for name, _ in node.options])
        files = ' $(compgen -f -- "$cur")' if node.files else ""
        lines.append(f'        "{path}") COMPREPLY=($(compgen -W "{words}" -- "$cur"){files}) ;;')
    lines += ["    esac", "}", "complete -o filenames -F _tenantry tenantry"]
    return "\n".join(lines)


def zsh(found: list[Node]) -> str:
    lines = [
        "#compdef tenantry",
        "_tenantry() {",
        '  local path="" word',
        "  local -a known",
        '  for word in "${words[@]:1:$((CURRENT-2))}"; do',
        '    case "$path $word" in',
    ]
    for node in found[1:]:
        path = "".join(f" {word}" for word in node.words)
        lines.append(f'      "{path}") path="{path}" ;;')
    lines += ["    esac", "  done", '  case "$path" in']
    for node in found:
        path = "".join(f" {word}" for word in node.words)
        entries = [_zsh_entry(name, about) for name, about in (*node.below, *node.options)]
        files = "; _files" if node.files else ""
        known = " ".join(entries)
        lines.append(f'    "{path}") known=({known}); _describe tenantry known{files} ;;')
    lines += [
        "  esac",
        "}",
        'if [ "$funcstack[1]" = "_tenantry" ]; then _tenantry "$@"; '
        "else compdef _tenantry tenantry; fi",
    ]
    return "\n".join(lines)


def _zsh_entry(name: str, about: str) -> str:
    text = about.replace("'", "").replace(":", "\\:").replace("\n", " ")
    return f"'{name}:{text}'" if text else f"'{name}'"


def fish(found: list[Node]) -> str:
    lines = ["# fish completion of tenantry.", "complete -c tenantry -f"]
    for node in found:
        seen = " ".join(f"__fish_seen_subcommand_from {word};" for word in node.words)
        condition = " and ".join(part.strip() for part in seen.split(";") if part.strip())
        condition = condition.replace(" and ", "; and ") or "__fish_use_subcommand"
        if node.words and node.below:
            names = " ".join(name for name, _ in node.below)
            deeper = f"{condition}; and not __fish_seen_subcommand_from {names}"
        else:
            deeper = condition
        for name, about in node.below:
            lines.append(f"complete -c tenantry -n '{deeper}' -a {name} -d '{_fish_text(about)}'")
        for name, about in node.options:
            values = dict(node.choices).get(name)
            more = f" -x -a '{' '.join(values)}'" if values else ""
            if name in ("--config", "--file", "--scram", "--data-dir"):
                more = " -r -F"
            lines.append(
                f"complete -c tenantry -n '{condition}' -l {name.lstrip('-')}{more}"
                f" -d '{_fish_text(about)}'"
            )
        if node.files:
            lines.append(f"complete -c tenantry -n '{condition}' -F")
    return "\n".join(lines)


def _fish_text(about: str) -> str:
    return about.replace("\\", "").replace("'", "").replace("\n", " ")
