"""What statements among shared tables are read with is loaded in a thread: the loop, and with it
every other tenant, goes on meanwhile."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: nothing may have loaded it before.
PROGRAM = """
import asyncio, sys, threading
from actors.commons import Commons, Grounds
from events.model import Tenant
from wire.sql.catalog import Catalog

threads = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "sqlglot":
            threads.append(threading.current_thread() is threading.main_thread())

sys.meta_path.insert(0, Watch())

def tenant(id, strategy):
    return Tenant.model_validate({"id": id, "isolation": {"strategy": strategy}})

async def main():
    async def learn(grounds, tenant):
        assert commons.learned(grounds, Catalog("1", []))

    commons = Commons(lambda _: b"k" * 32, None, learn)
    await commons.prepare(tenant("plain", "schema"))
    assert not threads and "sqlglot" not in sys.modules, "40 MB that nobody needs"
    row = [tenant(f"row{number}", "row") for number in range(3)]
    await asyncio.gather(*(commons.prepare(each) for each in row))
    assert threads == [False], threads
    assert commons.analyser(row[0]) is not None

asyncio.run(main())
"""


def test_the_second_parser_is_loaded_beside_the_loop() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
