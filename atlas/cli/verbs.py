"""Registers every verb on the app, in the order in which `atlas --help` lists them."""

from atlas.cli import (  # noqa: F401
    annotations,
    backup,
    circuits,
    collections,
    demo,
    files,
    jobs,
    labels,
    people,
    questions,
    serve,
    servers,
    trace,
)
from atlas.cli.main import app

ORDER = [
    "demo",
    "trace",
    "prune",
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
app.registered_commands.sort(
    key=lambda command: ORDER.index(str(command.name or getattr(command.callback, "__name__", "")))
)
