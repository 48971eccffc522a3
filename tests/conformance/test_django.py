"""Django's ORM and its own migrations through both modes, beside a direct connection."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from psycopg import conninfo
from support.engines import Postgres
from support.proxy import WireProxy, own_database, wire_proxy

if not settings.configured:
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DATABASES={},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()

from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import IntegrityError, connections, models, transaction


class Shelf(models.Model):
    """A table that the schema editor makes and changes."""

    label = models.CharField(max_length=20)

    class Meta:
        app_label = "contenttypes"
        db_table = "conformance_shelf"


@contextlib.contextmanager
def database(dsn: str, **options: Any) -> Iterator[str]:
    """An alias of Django's for a connection."""
    given = conninfo.conninfo_to_dict(dsn)
    alias = f"at_{given['port']}_{len(options)}"
    entry = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": given["host"],
        "PORT": given["port"],
        "USER": given["user"],
        "PASSWORD": given["password"],
        "NAME": given["dbname"],
        "OPTIONS": options,
    }
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: entry})[
        alias
    ]
    try:
        yield alias
    finally:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]


def work(alias: str) -> list[Any]:
    """Migrations, ORM, savepoints, server-side cursors, introspection; what was seen."""
    seen: list[Any] = []
    call_command("migrate", database=alias, verbosity=0)
    plan = io.StringIO()
    call_command("showmigrations", database=alias, stdout=plan)
    seen.append(plan.getvalue())
    users = User.objects.using(alias)
    users.bulk_create([User(username=f"u{n}", email=f"{n}@example.org") for n in range(500)], 100)
    seen.append(users.count())
    with transaction.atomic(using=alias):
        group = Group.objects.using(alias).create(name="readers")
        with pytest.raises(IntegrityError), transaction.atomic(using=alias):
            Group.objects.using(alias).create(name="readers")
        group.user_set.add(*users.order_by("id")[:10])
        seen.append([u.username for u in users.select_for_update().filter(groups=group)])
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        users.all().delete()
        raise ZeroDivisionError
    seen.append(sum(1 for _ in users.iterator(chunk_size=50)))
    users.filter(username="u7").update(first_name="it's", last_name=r"a\b")
    seen.append(list(users.filter(last_name__contains="\\").values_list("first_name", "last_name")))
    seen.append(users.update_or_create(username="u8", defaults={"email": "new"})[1])
    seen.append(users.aggregate(models.Count("id"), models.Max("username")))
    seen.append(Permission.objects.using(alias).order_by("codename").first().codename)
    with connections[alias].schema_editor() as editor:
        editor.create_model(Shelf)
        field = models.IntegerField(default=3)
        field.set_attributes_from_name("height")
        editor.add_field(Shelf, field)
    described = io.StringIO()
    call_command("inspectdb", database=alias, stdout=described)
    seen.append(described.getvalue())
    with connections[alias].schema_editor() as editor:
        editor.delete_model(Shelf)
    call_command("sqlsequencereset", "auth", database=alias, stdout=io.StringIO())
    call_command("migrate", "auth", "zero", database=alias, verbosity=0)
    return seen


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("binding", [False, True], ids=["client-side", "server-side"])
def test_the_same_as_direct(postgres: Postgres, mode: str, binding: bool) -> None:
    options = {"server_side_binding": binding}
    with own_database(postgres) as (server, name), database(server.dsn(name), **options) as alias:
        direct = work(alias)
    with (
        own_database(postgres) as (server, name),
        wire_proxy(server, database=name, mode=mode) as at,
    ):
        with database(at.dsn(), **options) as alias:
            through = work(alias)
        at_rest(at)
    assert through == direct


def at_rest(proxy: WireProxy) -> None:
    """No client of ours holds a server any more: in transaction mode they are all idle."""
    if proxy.mode == "transaction":
        assert proxy.servers()[1] == 0
