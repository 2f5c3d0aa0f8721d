"""The README's tour, the fenced Python and the notebook run, on the atlas that `atlas demo` makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.console import check, steps

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = [pytest.mark.slow, pytest.mark.embedded]


def test_the_demo_says_what_it_made(demo_home) -> None:
    made = demo_home.summary
    assert len(made["circuits"]) == 10
    assert made["labels"] == made["features"] > 100


def test_the_tour_of_the_readme_gives_the_output_shown(demo_home) -> None:
    assert check(ROOT / "README.md", demo_home.environment) >= 7


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if steps(page)], ids=lambda page: page.name)
def test_the_commands_of_a_page_give_the_output_shown(page: Path, demo_home) -> None:
    check(page, demo_home.environment)


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text("utf-8")], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, demo_home, tmp_path, monkeypatch) -> None:
    for name, value in demo_home.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "circuit.safetensors").write_bytes((ROOT / "tests" / "data" / "circuit-v1.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        exec(compile(block, str(page), "exec"), {})


def test_the_notebook_runs(demo_home, monkeypatch) -> None:
    for name, value in demo_home.environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    assert "The capital of the state containing Dallas is" in printed
    assert "logit/4/" in printed
