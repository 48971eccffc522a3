"""docs/configuration.md says what the models say."""

from __future__ import annotations

from pathlib import Path

from admin.config import reference

# The installed package has no docs/ beside it.
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == reference.page(), "run: python -m admin.config.reference"


def test_the_page_tells_type_default_and_meaning() -> None:
    page = reference.page()
    assert '| `max_result_size` | size or `"unlimited"` | 100 MB | Largest result' in page
    assert "| `port` | whole number, at least 1, at most 65535 | `5432` | TCP port. |" in page
    assert "| `read_write_split` | `true` or `false` | `false` |" in page
    assert "Only `false` so far: read/write split is not part of this version" in page
