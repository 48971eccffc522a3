"""PostgreSQL's own programs (psql, pg_dump, pgbench …), as the embedded server brings them."""

from __future__ import annotations

import os
import re
import subprocess

from psycopg import conninfo

from admin.engines.programs import packaged_programs

PROGRAM_SECONDS = 60


def run(program: str, dsn: str, *arguments: str, text: str = "") -> str:
    """What a PostgreSQL program says, errors included; what names the way there is taken out."""
    given = conninfo.conninfo_to_dict(dsn)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
    names |= {"dbname": "PGDATABASE"}
    environment = {variable: str(given[key]) for key, variable in names.items()}
    done = subprocess.run(
        [str(packaged_programs() / program), *arguments],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
        env={**os.environ, **environment, "PGSSLMODE": "disable", "LC_ALL": "C"},
    )
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)
