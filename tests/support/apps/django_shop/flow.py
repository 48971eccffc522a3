"""Runs steps of the shop's day, which are named as arguments; prints what was seen as JSON.

python flow.py migrate:shop:0001 start migrate stock
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import django
from django.core.management import call_command


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    django.setup()
    # Models can be imported from here on only.
    day = importlib.import_module("shop.day")
    seen: dict[str, Any] = {}
    for wanted in sys.argv[1:]:
        name, *arguments = wanted.split(":")
        if name == "migrate":
            call_command("migrate", *arguments, verbosity=0)
        else:
            seen[name] = getattr(day, name)()
    day.FIXTURE.unlink(missing_ok=True)
    json.dump(seen, sys.stdout, default=str)


if __name__ == "__main__":
    main()
