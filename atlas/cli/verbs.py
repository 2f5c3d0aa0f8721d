"""Registers every verb on the app, in the order in which `atlas --help` lists them."""

from atlas.cli import (  # noqa: F401
    annotations,
    backup,
    circuits,
    collections,
    components,
    demo,
    faithfulness,
    files,
    intervene,
    jobs,
    labels,
    patch,
    people,
    questions,
    serve,
    servers,
    trace,
    verify,
)
from atlas.cli.main import app

ORDER = [
    "demo",
    "trace",
    "prune",
    "patch",
    "components",
    "faithfulness",
    "intervene",
    "verify",
    "import",
    "export",
    "circuits",
    "show",
    "delete",
    "annotate",
    "label",
    "search",
    "paths",
    "compare",
    "cypher",
    "ui",
    "serve",
    "mcp",
    "migrate",
    "rebuild",
    "doctor",
    "backup",
    "restore",
    "health",
    "audit",
    "up",
    "down",
]
NOUNS = ["notes", "collections", "worker", "jobs", "people"]
app.registered_commands.sort(
    key=lambda command: ORDER.index(str(command.name or getattr(command.callback, "__name__", "")))
)
app.registered_groups.sort(key=lambda group: NOUNS.index(str(group.name)))
