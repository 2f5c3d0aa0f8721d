"""The page about the API, made from its OpenAPI document: plain HTML that needs no script and no other host."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

HEADINGS = {"question": "Questions", "write": "Writes", "file": "Circuit files"}
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 22%, transparent); --accent: light-dark(#2563c9, #6ea3f5); }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 5rem; background: light-dark(#fff, #0e1117);
  color: light-dark(#22262e, #e8eaee); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 0.3rem; }
h2 { margin: 2.5rem 0 0.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 0.2rem; font-size: 1.05rem; font-family: ui-monospace, monospace; }
nav { columns: 13rem; margin: 1rem 0; }
nav a { display: block; }
a { color: var(--accent); }
p { margin: 0.3rem 0; }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0; }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 0.7rem 0.25rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { padding: 0.8rem; border: 1px solid var(--line); border-radius: 7px; overflow-x: auto; }
"""


def page(document: dict[str, Any]) -> str:
    """The whole page as HTML. Every text of the document is escaped."""
    schemas = document["components"]["schemas"]
    groups: dict[str, list[str]] = {tag: [] for tag in HEADINGS}
    links = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation["tags"][0]
            groups[tag].append(_operation(method, path, operation, schemas))
            links.append(f'<a href="#{escape(operation["operationId"])}">{escape(operation["operationId"])}</a>')
    body = "".join(f"<h2>{HEADINGS[tag]}</h2>{''.join(entries)}" for tag, entries in groups.items())
    info = document["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Circuit Atlas API</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="docs.css">'
        '<link rel="icon" href="data:,"></head><body>'
        f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1><main>{_introduction()}"
        f'<nav aria-label="verbs">{"".join(sorted(links))}</nav>{body}<h2>Records</h2>{_records(schemas)}</main></body></html>'
    )


def _introduction() -> str:
    example = (
        "curl https://HOST/api/v1/search \\\n"
        '  -H "Authorization: Bearer $ATLAS_TOKEN" -H "Content-Type: application/json" \\\n'
        '  -d \'{"text": "capital cities", "limit": 5}\''
    )
    return (
        "<p>Every verb is a POST with one JSON object, and answers with one JSON document. An access token says who asks; "
        "<code>atlas people token</code> or the page People makes one. A failure is "
        "<code>{&quot;error&quot;: {&quot;type&quot;, &quot;message&quot;, &quot;hint&quot;}}</code>.</p>"
        f'<pre>{escape(example)}</pre><p><a href="openapi.json">The same as an OpenAPI document</a></p>'
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    name = escape(operation["operationId"])
    texts = [operation.get("summary", ""), *operation.get("description", "").split("\n\n")]
    about = "".join(f"<p>{escape(text)}</p>" for text in texts if text.strip())
    rows = [
        (each["name"], each["schema"], each.get("required", False), f"in the {each['in']}")
        for each in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        schema = schemas.get(_referred(body), body)
        needed = schema.get("required", [])
        rows += [(key, each, key in needed, "") for key, each in schema.get("properties", {}).items()]
    content = operation["responses"]["200"].get("content", {})
    result = content.get("application/json", {}).get("schema")
    answer = _kind(result) if result else ", ".join(map(escape, content))
    title = f"{method.upper()} /api{escape(path)}"
    return f'<section id="{name}"><h3>{title}</h3>{about}{_table(rows)}<p>Answers {answer or "nothing"}.</p></section>'


def _table(rows: Iterable[tuple[str, dict[str, Any], bool, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_kind(schema)}</td><td>{_default(schema, needed)}</td>"
        f"<td>{escape(schema.get('description', '') or where)}</td></tr>"
        for name, schema, needed, where in rows
    )
    head = "<tr><th>name</th><th>type</th><th>default</th><th></th></tr>"
    return f"<table>{head}{lines}</table>" if lines else ""


def _records(schemas: dict[str, Any]) -> str:
    parts = []
    for name, schema in sorted(schemas.items()):
        if name.endswith("Arguments"):
            continue
        needed = schema.get("required", [])
        rows = [(key, each, key in needed, "") for key, each in schema.get("properties", {}).items()]
        about = escape(schema.get("description", ""))
        parts.append(
            f'<section id="record-{escape(name)}"><h3>{escape(name)}</h3><p>{about}</p>{_table(rows)}</section>'
        )
    return "".join(parts)


def _referred(schema: dict[str, Any]) -> str:
    return schema.get("$ref", "").rsplit("/", 1)[-1]


def _kind(schema: dict[str, Any]) -> str:
    """The type of a schema as HTML, records as links."""
    if name := escape(_referred(schema)):
        return name if name.endswith("Arguments") else f'<a href="#record-{name}">{name}</a>'
    if options := schema.get("anyOf") or schema.get("allOf"):
        return " or ".join(_kind(option) for option in options)
    if "enum" in schema:
        return " or ".join(escape(repr(value)) for value in schema["enum"])
    if "prefixItems" in schema:
        return f"[{', '.join(_kind(item) for item in schema['prefixItems'])}]"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [f"{sign} {schema[key]}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in schema]
    return escape(" ".join([str(kind), *bounds]))


def _default(schema: dict[str, Any], needed: bool) -> str:
    return "needed" if needed else escape(str(schema["default"])) if schema.get("default") is not None else ""
