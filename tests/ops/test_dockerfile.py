"""The Dockerfile by its instructions: it was not run on a real Docker engine here."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch

from tests.ops.compose import ROOT

FILE = ROOT / "docker" / "Dockerfile"


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage; '' holds what is above the first FROM."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, stage = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            found[stage] = [("FROM", base)]
        else:
            found[stage].append((name, rest.strip()))
    return found


def values(name: str) -> list[str]:
    return [rest for instructions in stages().values() for each, rest in instructions if each == name]


def test_both_targets_run_as_a_user_without_rights() -> None:
    for target in ("base", "worker"):
        instructions = stages()[target]
        assert instructions[-1] == ("USER", "10001:10001"), "the last word, so that nothing after it is root's"
        assert instructions[0] == ("FROM", "runtime")


def test_every_stage_stands_on_one_before_it_or_on_the_one_pinned_image() -> None:
    seen = {"${PYTHON_IMAGE}"}
    for name, instructions in stages().items():
        if name:
            assert instructions[0][1] in seen
            seen.add(name)
    (image,) = values("ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.1[123]-slim-\w+", image)


def test_nothing_secret_and_no_address_is_baked_in() -> None:
    text = FILE.read_text("utf-8")
    assert not re.search(r"https?://|index-url", text)
    for rest in [*values("ENV"), *values("ARG")]:
        assert not re.search("(?i)password|token|secret", rest)
    assert "ADD" not in {name for instructions in stages().values() for name, _ in instructions}


def test_packages_are_pinned_and_the_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    installs = [line for run in values("RUN") for line in run.split("&&") if "pip install" in line]
    assert len(installs) == 4
    for line in installs:
        words = shlex.split(line)
        assert "--constraint constraints.txt" in line or "--no-deps" in words
        for name in re.findall(r"\[(.*)\]", line):
            assert set(name.split(",")) <= set(extras)


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*", "only what is named is sent to the build"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]["find"]
    copied = {word for rest in values("COPY") if "--from" not in rest for word in rest.split()[:-1]}
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, rule) for rule in kept), name
    assert {pattern.rstrip("*") for pattern in packages["include"]} <= copied
    for private in ("secrets", ".git", "tests", ".env"):
        assert private not in kept
