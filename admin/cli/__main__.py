"""`python -m admin.cli` is `tenantry`."""

import sys

from admin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
