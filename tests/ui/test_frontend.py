"""The canvas's JavaScript: its pure modules under node, and how the modules become one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from ui.canvas import component

FRONTEND = files("ui.canvas") / "frontend"


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if not found:
        message = "node is not installed; the pure JavaScript of the canvas is not tested"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def test_layout_links_and_hits_hold_under_plain_node(node: str, tmp_path: Path):
    folder = tmp_path / "frontend"
    shutil.copytree(str(FRONTEND), folder)
    (folder / "package.json").write_text('{"type": "module"}')
    script = Path(__file__).with_name("layout.test.mjs")
    done = subprocess.run([node, str(script), str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout


def test_the_joined_module_is_valid_javascript_without_imports(node: str, tmp_path: Path):
    joined = component.join({name: component._read(name) for name in component.ORDER}, "canvas.js")
    assert not re.search(r"^import\b", joined, re.MULTILINE)
    assert joined.count("export default") == 1
    path = tmp_path / "joined.mjs"
    path.write_text(joined, encoding="utf-8")
    done = subprocess.run([node, "--check", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_module_of_the_folder_is_joined_or_is_the_bridge():
    present = {path.name for path in FRONTEND.iterdir() if path.name.endswith(".js")}
    assert present == {*component.ORDER, "bridge.js"}


def test_two_modules_with_the_same_top_level_name_are_refused():
    with pytest.raises(ValueError, match=r"same is defined in a\.js and in b\.js"):
        component.join({"a.js": "const same = 1;\n", "b.js": "export function same() {}\n"}, "x.js")


def test_text_from_files_never_becomes_html_in_the_canvas():
    for name in (*component.ORDER, "bridge.js"):
        text = component._read(name)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name
