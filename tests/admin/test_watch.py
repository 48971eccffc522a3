"""A watched file: when it counts as changed, and that what it says is obeyed then."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psycopg
import pytest
from support.serving import Home, home, serving, until

from admin.config.watch import FileWatch

__all__ = ["home"]


def test_a_change_counts_once_and_when_it_rests(tmp_path: Path) -> None:
    path = tmp_path / "tenantry.toml"
    path.write_text("one")
    file = FileWatch(path)
    assert not file.changed()
    path.write_text("half of")
    assert not file.changed(), "it may be in the middle of being written"
    path.write_text("half of two")
    assert not file.changed()
    assert file.changed()
    assert not file.changed()


def test_a_file_that_takes_its_place(tmp_path: Path) -> None:
    path, other = tmp_path / "tenantry.toml", tmp_path / "new"
    path.write_text("one")
    file = FileWatch(path)
    other.write_text("two")
    other.rename(path)
    assert [file.changed(), file.changed()] == [False, True]


def test_a_link_that_moves(tmp_path: Path) -> None:
    """As the files of a mounted ConfigMap do."""
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    path = tmp_path / "tenantry.toml"
    path.symlink_to("a")
    file = FileWatch(path)
    path.unlink()
    assert not file.changed(), "a file that is gone has not changed"
    path.symlink_to("b")
    assert [file.changed(), file.changed()] == [False, True]


def test_a_file_that_was_changed_back_is_applied_again(tmp_path: Path) -> None:
    path = tmp_path / "tenantry.toml"
    path.write_text("one")
    file = FileWatch(path)
    path.write_text("two")
    assert [file.changed(), file.changed()] == [False, True]
    path.write_text("one")
    assert [file.changed(), file.changed()] == [False, True]


# --- `tenantry serve --watch` ---------------------------------------------------------------------


@pytest.mark.engine
def test_open_connections_feel_a_file_that_was_saved(home: Home) -> None:
    with serving(home, "--workers", "2", "--watch") as proxy, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(8)]
        assert all(map(can_write, clients))
        home.change("allow_ddl = true", 'allow_ddl = "perhaps"')
        proxy.says("was not applied")
        assert all(map(can_write, clients)), "a wrong file changes nothing"
        home.change('allow_ddl = "perhaps"', "allow_ddl = false")
        for client in clients:
            until(lambda c=client: not can_write(c), "to refuse DDL", proxy.log)  # type: ignore[misc]
        home.change("allow_ddl = false", "allow_ddl = true")
        for client in clients:
            until(lambda c=client: can_write(c), "to let it again", proxy.log)  # type: ignore[misc]


def can_write(client: psycopg.Connection) -> bool:
    try:
        client.execute("CREATE TABLE IF NOT EXISTS scratch (n int)")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def test_without_a_file_there_is_nothing_to_watch(home: Home) -> None:
    done = home.run("serve", "--watch")
    assert done.returncode == 2
    assert "--watch needs a file" in done.stderr
