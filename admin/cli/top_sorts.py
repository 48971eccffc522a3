"""By what `tenantry top` can sort; apart, because the parser of the command line needs it."""

from __future__ import annotations

from typing import Final, Literal

Sort = Literal["qps", "p99", "clients", "refused", "limits", "bytes", "errors", "tenant"]
SORTS: Final[tuple[Sort, ...]] = (
    *("qps", "p99", "clients", "refused", "limits", "bytes", "errors", "tenant"),
)
# The key that sorts by each.
KEYS: Final[dict[str, Sort]] = {
    "t": "qps",
    "l": "p99",
    "c": "clients",
    "r": "refused",
    "m": "limits",
    "b": "bytes",
    "e": "errors",
    "n": "tenant",
}
