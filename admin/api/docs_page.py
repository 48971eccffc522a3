"""/docs: the OpenAPI document as one page for people.

Made here, without a program in it and without anything from elsewhere: the pages that are usual
load scripts from other hosts, into a page where operators would type their tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import Any, Final

from starlette.responses import HTMLResponse, Response

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { background: #8881; padding: .7rem; overflow-x: auto; border-radius: 4px; }
summary { cursor: pointer; padding: .3rem 0; } details { border-bottom: 1px solid #8883; }
.method { display: inline-block; width: 4.5rem; font-weight: 600; }
table { border-collapse: collapse; } td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
:root { color-scheme: light dark; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'"


def page(document: dict[str, Any]) -> Response:
    """The page; only what the document says, escaped."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<pre>{escape(info['description'])}</pre>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>',
    ]
    for tag in document.get("tags", ()):
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>")
        for path, item in document["paths"].items():
            parts += [
                _operation(method, path, operation)
                for method, operation in item.items()
                if tag["name"] in operation.get("tags", ())
            ]
    return HTMLResponse("\n".join(parts), headers={"Content-Security-Policy": _POLICY})


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<details><summary><span class=method>{method.upper()}</span> "
        f"<code>{escape(path)}</code> {escape(operation.get('summary', ''))}</summary>",
        f"<p>{escape(operation.get('description', ''))}</p>",
    ]
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
        f"<td>{escape(each.get('description', ''))}</td></tr>"
        for each in operation.get("parameters", ())
    ]
    if rows:
        parts.append(f"<table>{''.join(rows)}</table>")
    for media in operation.get("requestBody", {}).get("content", {}).values():
        for name, example in media.get("examples", {}).items():
            parts.append(f"<p>Send, for example ({escape(name)}):</p>{_shown(example['value'])}")
        break
    wrong: list[str] = []
    for status, answer in operation.get("responses", {}).items():
        words = f"{escape(status)}: {escape(answer.get('description', ''))}"
        if status.startswith("2"):
            parts.append(f"<p>{words}</p>{_answered(answer)}")
        else:
            wrong.append(f"<li>{words}</li>")
    if wrong:
        parts.append(f"<details><summary>Or, as a problem</summary><ul>{''.join(wrong)}</ul>")
        parts.append("</details>")
    return "".join([*parts, "</details>"])


def _answered(answer: dict[str, Any]) -> str:
    """The examples of an answer, under their names where they have some."""
    parts: list[str] = []
    for kind, media in answer.get("content", {}).items():
        for name, example in media.get("examples", {}).items():
            parts.append(f"<p>{escape(name)}:</p>{_shown(example['value'])}")
        if "example" in media:
            title = f"<p>{escape(kind)}:</p>" if len(answer["content"]) > 1 else ""
            parts.append(title + _shown(media["example"]))
    return "".join(parts)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"
