"""Runs the ```console blocks of a page in order and compares what comes out; `...` stands for anything, as in doctest."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Step:
    line: int
    command: str
    expected: str


def steps(page: Path) -> list[Step]:
    found = []
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```console\n(.*?)^```", text, re.M | re.S):
        first = text[: block.start(1)].count("\n") + 1
        for part in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.M):
            found.append(Step(first + block[1][: part.start()].count("\n"), part[1], part[2]))
    return found


def check(page: Path, environment: dict[str, str]) -> int:
    """Run every step; returns how many. Raises AssertionError naming page and line."""
    environment = {
        **os.environ,
        **environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = steps(page)
    for step in done:
        run = subprocess.run(step.command, shell=True, capture_output=True, text=True, env=environment, timeout=120)
        got = run.stdout + run.stderr
        example = doctest.Example(step.command, step.expected)
        same = doctest.OutputChecker().check_output(step.expected, got, FLAGS)
        assert same, f"{page.name} line {step.line}: " + doctest.OutputChecker().output_difference(example, got, FLAGS)
    return len(done)
