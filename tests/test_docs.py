"""What the documents say to type is accepted, what they show loads, what they point at is there."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from admin.cli.main import parser
from admin.cli.parser import subcommands
from admin.config.load import load

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("docker-compose.yml")]
)
EXAMPLES = sorted([*(ROOT / "docs").glob("*.toml"), *(ROOT / "admin").glob("*.toml")])
ENVIRONMENT = {
    "ACME_PASSWORD": "a",
    "GAMMA_PASSWORD": "g",
    "WIDGETCO_PASSWORD": "w",
    "NATS_PASSWORD": "n",
    "POSTGRES_PASSWORD": "p",
    "TENANTRY_DB_PASSWORD": "t",
}

# `tenantry …` in code spans and code blocks, and in comments of examples.
COMMAND = re.compile(r"(?:^|`|[ #])(?:\.venv/bin/)?tenantry ([a-z][^`\n]*)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def code(text: str) -> str:
    """The parts of a document that are code: indented or fenced blocks, and spans."""
    blocks = re.findall(r"(?:^    .*\n)+|^```.*?^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", text)])


def commands(path: Path) -> list[str]:
    text = path.read_text()
    text = code(text) if path.suffix == ".md" else text
    found = []
    for match in COMMAND.finditer(text):
        # Two blanks or a comment end a command; what follows is an explanation.
        command = re.split(r"\s{2,}|\s#\s", match[1].strip())[0]
        if "…" not in command and "|" not in command:
            found.append(command)
    return found


SHOWN = sorted({(path.name, command) for path in DOCUMENTS for command in commands(path)})


def test_the_documents_show_commands() -> None:
    assert ("README.md", "demo --once") in SHOWN
    assert len(SHOWN) > 10


@pytest.mark.parametrize(("document", "command"), SHOWN)
def test_commands_shown_are_commands_there_are(document: str, command: str) -> None:
    words = [word for word in shlex.split(command) if word not in ("[--workers", "N]")]
    words = ["2" if word == "N" else word for word in words]
    found: argparse.ArgumentParser | None = parser()
    for word in words:
        found = subcommands(found).get(word) if found is not None else None
    if found is not None:
        return  # a command is spoken of, not shown
    try:
        parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"{document}: tenantry {command}")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_files_load(path: Path) -> None:
    loaded = load(path, ENVIRONMENT)
    assert [str(mistake) for mistake in loaded.mistakes] == []
    assert [str(warning) for warning in loaded.warnings] == []


def test_toml_in_the_readme_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    (tmp_path / "ca.pem").touch()
    for block in blocks:
        file = tmp_path / "tenantry.toml"
        file.write_text(block)
        loaded = load(file, ENVIRONMENT)
        assert (loaded.mistakes, loaded.warnings) == ([], [])
        assert [id for id, _ in loaded.tenants] == ["acme", "widgetco", "gamma"]


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p.suffix == ".md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text()):
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{path.name}: #{anchor}"


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p.suffix == ".md"], ids=lambda p: p.name)
def test_files_named_exist(path: Path) -> None:
    folders = "admin|actors|events|wire|tests|docs|bench|tools"
    for name in re.findall(rf"`((?:{folders})/[\w./]+\.\w+)`", path.read_text()):
        assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_make_targets_named_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for path in DOCUMENTS:
        for target in re.findall(r"(?:^    |`)make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"
