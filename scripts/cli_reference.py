"""Writes docs/cli.md from the help texts; a test fails when the page is stale. Run: python scripts/cli_reference.py"""

from __future__ import annotations

from pathlib import Path

import typer

from atlas.cli import verbs  # noqa: F401
from atlas.cli.main import app
from atlas.cli.nouns import LIST

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Command line

Text for people on a terminal; with `--json`, which every verb accepts, one JSON document on stdout. Logs and progress go to stderr.
Exit 0: done. Exit 1: a part failed; the document is still printed and says what. Exit 2: wrong use. A failure is one sentence that says
what to do; with `--json` also `{"error": {"type", "message", "hint"}}`. A CIRCUIT argument is an id, a unique id prefix or a unique name.

This page is made from the help texts by `python scripts/cli_reference.py`.
"""


def _verbs(group, before: str = ""):
    """(name, verb); what a noun such as `notes` does by itself stands under its own name."""
    for name, verb in group.commands.items():
        if getattr(verb, "commands", None):
            yield from _verbs(verb, f"{before}{name} ")
        else:
            yield (before.strip() if before and name == getattr(group, "default", LIST) else f"{before}{name}"), verb


def render() -> str:
    command = typer.main.get_command(app)
    parts = [HEAD]
    for name, verb in _verbs(command):
        parts.append(f"\n## atlas {name}\n\n{verb.help}\n")
        usage = []
        rows = []
        for parameter in verb.params:
            help_text = getattr(parameter, "help", None) or ""
            if parameter.param_type_name == "argument":
                metavar = parameter.metavar or parameter.name.upper()
                usage.append(metavar if parameter.required else f"[{metavar}]")
                rows.append((f"`{metavar}`", help_text, ""))
            elif "--help" not in parameter.opts:
                names = ", ".join([*parameter.opts, *parameter.secondary_opts])
                if parameter.required:
                    usage.append(f"{parameter.opts[0]} {parameter.name.upper()}")
                default = parameter.default
                shown = (
                    "" if default in (None, False) or parameter.required else f"`{getattr(default, 'value', default)}`"
                )
                rows.append((f"`{names}`", help_text, shown))
        parts.append(f"\n    atlas {name} {' '.join([*usage, '[OPTIONS]'])}\n")
        parts.append("\n| | | default |\n|---|---|---|\n" + "".join(f"| {a} | {b} | {c} |\n" for a, b, c in rows))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
