"""Exit with 0 when the Tenantry in .venv is compiled, with 1 when the interpreter runs it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    built = ROOT.glob(".venv/lib/python3*/site-packages/wire/postgres/protocol.*.so")
    sys.exit(0 if any(built) else 1)
