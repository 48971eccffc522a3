"""pools, reload, drain, version, completion and help, as people type them."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator

import pytest
from support.serving import CONFIG, Home, Proxy, home, serving

from admin.cli.completion import nodes, script
from admin.cli.main import main, parser
from admin.cli.operate_args import subcommands

__all__ = ["home"]


@pytest.fixture(scope="module")
def proxy(home: Home) -> Iterator[Proxy]:
    home.config.write_text(CONFIG)
    with serving(home, "--workers", "2") as made:
        yield made


def test_pools_of_all_workers(proxy: Proxy, home: Home) -> None:
    clients = [proxy.connect() for _ in range(6)]
    try:
        for client in clients:
            client.execute("SELECT 1")
        told = json.loads(home.run("pools", "--json").stdout)
        assert told["missing"] == []
        assert [(row["tenant"], row["clients"]) for row in told["pools"]] == [("acme", 6)]
        assert "transaction" in home.run("pools").stdout
    finally:
        for client in clients:
            client.close()


def test_reload_says_what_is_wrong_with_the_file(proxy: Proxy, home: Home) -> None:
    assert "1 have read" in home.run("reload").stdout
    home.change('strategy = "schema"', 'strategy = "shema"')
    wrong = home.run("reload")
    assert wrong.returncode == 1
    assert "shema" in wrong.stderr
    home.config.write_text(CONFIG)


def test_drain_waits_for_a_transaction(home: Home) -> None:
    home.config.write_text(CONFIG)
    other = Home(CONFIG)
    try:
        with serving(other) as made:
            client = made.connect()
            client.execute("BEGIN")
            slow = other.run("drain", "--timeout", "1")
            assert slow.returncode == 1
            assert "still drains" in slow.stderr
            client.execute("COMMIT")
            # It was told to end already, so it may have gone by now.
            assert other.run("drain").returncode in (0, 3)
            client.close()
            assert made.wait() == 0
        gone = other.run("drain")
        assert (gone.returncode, "No Tenantry runs" in gone.stderr) == (3, True)
    finally:
        other.remove()


def test_versions_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"tenantry", "python", "postgresql (built in)", "nats-server (built in)"} <= set(told)


def test_help_of_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "exit-codes"]) == 0
    assert "not allowed" in capsys.readouterr().out
    assert main(["help", "operators", "put"]) == 0
    assert "--sql-password" in capsys.readouterr().out
    assert main(["help", "tenant"]) == 2


def test_help_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "settings"]) == 0
    told = capsys.readouterr().out
    for name in ("isolation.strategy", "pool.dedicated_pool", "rate_limits.qps_limit", "metadata"):
        assert f"  {name}\n" in told
    assert "users" not in told.splitlines()
    assert main(["help", "settings", "allow_ddl"]) == 0
    assert "qps" not in capsys.readouterr().out.split("for example")[0]
    assert main(["help", "settings", "colour"]) == 3


def every(found: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for child in subcommands(found).values():
        yield child
        yield from every(child)


def test_every_command_teaches_with_examples() -> None:
    for each in every(parser()):
        assert "\nexamples:\n" in each.format_help(), f"{each.prog} has no examples"
        assert each.epilog is not None
        assert each.prog in each.epilog, each.prog


def bash(words: str) -> list[str]:
    """What bash would offer for the last of `words`."""
    listed = words.split(" ")
    typed = " ".join(f"'{word}'" for word in listed)
    text = f"{script(parser(), 'bash')}\nCOMP_WORDS=({typed})\nCOMP_CWORD={len(listed) - 1}\n"
    text += "_tenantry\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
    done = subprocess.run(
        ["bash", "--norc", "-c", text], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_values() -> None:
    assert bash("tenantry do") == ["doctor"]
    assert set(bash("tenantry tenants dis")) == {"disable"}
    assert "--sql-password" in bash("tenantry operators put ann --s")
    assert bash("tenantry operators put ann --role v") == ["viewer"]
    assert "tenants" in bash("tenantry --debug t")


def test_scripts_hold_every_command() -> None:
    for shell in ("zsh", "fish"):
        text = script(parser(), shell)
        for node in nodes(parser()):
            assert not node.words or node.words[-1] in text
