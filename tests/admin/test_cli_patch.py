"""Settings as people write them, and that every command of ours leads somewhere."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import pytest

from admin.cli import send as cli_send
from admin.cli import tables as cli_tables
from admin.cli import tenant_commands as cli_tenant_commands
from admin.cli import tiers as cli_tiers
from admin.cli import tokens as cli_tokens
from admin.cli import users as cli_users
from admin.cli.commands_args import _Run
from admin.cli.failure import Failure
from admin.cli.main import parser
from admin.cli.patch import FILE_BYTES_MAX, read_patch, without_nothing


@pytest.mark.parametrize(
    ("texts", "patch"),
    [
        (["name=Acme Corp"], {"name": "Acme Corp"}),
        (["name="], {"name": None}),
        (["a.b=1", "a.c=2.5"], {"a": {"b": 1, "c": 2.5}}),
        (["a.b=1", "a.b="], {"a": {"b": None}}),
        (["x=100MB", "y=unlimited", "z=true"], {"x": "100MB", "y": "unlimited", "z": True}),
        (['x=["a", "b"]', 'y={"k": null}'], {"x": ["a", "b"], "y": {"k": None}}),
        (['name="200"', "n= 7 "], {"name": "200", "n": 7}),
        (["metadata.note=a=b"], {"metadata": {"note": "a=b"}}),
        (["a=1", "a.b=2"], {"a": {"b": 2}}),
    ],
)
def test_what_is_written_is_what_is_meant(texts: list[str], patch: dict[str, Any]) -> None:
    assert read_patch(texts, None) == patch


@pytest.mark.parametrize("text", ["name", "=1", ".a=1", "a..b=1"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(Failure, match="is not a setting") as caught:
        read_patch([text], None)
    assert caught.value.exit_code == 2


def test_a_file_and_what_is_laid_over_it(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text('name = "A"\n[pool]\nmin_idle = 1\nmax_connections = 2\n')
    as_json.write_text('{"name": "A", "pool": {"min_idle": 1, "max_connections": 2}}')
    for file in (toml, as_json):
        assert read_patch(["pool.min_idle="], str(file)) == {
            "name": "A",
            "pool": {"min_idle": None, "max_connections": 2},
        }
    assert without_nothing({"a": {"b": None, "c": 1}, "d": None}) == {"a": {"c": 1}}


@pytest.mark.parametrize("content", [b"{", b"a = ", b"\xff", b"x" * (FILE_BYTES_MAX + 1)])
def test_a_file_that_cannot_be_used(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(Failure):
        read_patch([], str(file))
    with pytest.raises(Failure, match="No such file"):
        read_patch([], str(tmp_path / "none"))


def test_every_command_leads_to_a_function() -> None:
    found: list[_Run] = []

    def walk(made: argparse.ArgumentParser) -> None:
        run = made.get_default("run")
        if isinstance(run, _Run):
            found.append(run)
        for action in made._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    walk(below)

    walk(parser())
    modules = {
        module.__name__.rpartition(".")[2]: module
        for module in (cli_tenant_commands, cli_tiers, cli_tokens, cli_users)
    }
    assert len(found) == 20
    for run in found:
        assert inspect.iscoroutinefunction(getattr(modules[run._module], run._name))


def test_settings_and_options_may_be_mixed() -> None:
    given = parser().parse_args(
        ["tenants", "create", "acme", "--file", "a=b", "name=A", "--dry-run", "pool.min_idle=2"]
    )
    assert (given.id, given.file, given.dry_run) == ("acme", "a=b", True)
    assert given.settings == ["name=A", "pool.min_idle=2"]


def test_names_that_a_subject_cannot_carry_become_ones_that_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, expected in (("ann", "ann"), ("a.b c", "a_b_c"), ("_x", "x"), ("-", "operator")):
        monkeypatch.setattr("getpass.getuser", lambda name=name: name)
        assert cli_send.me() == expected


def test_a_table_without_rows_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    cli_tables.print_table(("A",), [], "There is [none].")
    cli_tables.print_table(("A", "B"), [("[x]", 1)], "")
    assert capsys.readouterr().out.split() == ["There", "is", "[none].", "A", "B", "[x]", "1"]
