"""The reference page and the command line say the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import typer

from atlas.cli import verbs  # noqa: F401
from atlas.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "scripts" / "cli_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands():
    return typer.main.get_command(app).commands


def leaves(given, before=""):
    """Verbs that do something; a noun such as `notes` has some of its own."""
    for name, command in given.items():
        inside = getattr(command, "commands", None)
        if inside:
            assert command.help, name
            yield from leaves(inside, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_the_reference_page_is_not_stale() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == load_script().render(), (
        "run scripts/cli_reference.py"
    )


def test_every_verb_and_option_has_a_help_text_and_every_verb_takes_json() -> None:
    for name, command in leaves(commands()):
        assert command.help, name
        assert any("--json" in parameter.opts for parameter in command.params), name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_the_verbs_of_the_contract_are_there_and_unfinished_ones_are_not() -> None:
    expected = "demo trace prune patch components faithfulness intervene verify worker jobs import export circuits show delete annotate notes collections label search paths compare cypher rebuild migrate doctor backup restore health ui serve mcp people audit up down"
    assert set(commands()) == set(expected.split())
