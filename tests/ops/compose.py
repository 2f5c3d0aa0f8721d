"""Reads the Compose files as Docker Compose does, as far as the tests need it: merge keys, `!override`, `${NAME:-default}`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MAIN, GPU, TESTS = (ROOT / f"docker-compose{part}.yml" for part in ("", ".gpu", ".tests"))


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!override", lambda loader, node: loader.construct_mapping(node, deep=True))


def load(file: Path) -> dict[str, Any]:
    """The file as written, variables not yet filled in."""
    return yaml.load(file.read_text("utf-8"), _Loader)


def filled(value: Any, environment: dict[str, str] | None = None) -> Any:
    """`value` with variables filled in from `environment` or their defaults, and `$$` as `$`."""
    if isinstance(value, dict):
        return {key: filled(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return (environment or {}).get(match[1]) or match[2] or ""

    return re.sub(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}", put, value)


def services(file: Path = MAIN) -> dict[str, Any]:
    return filled(load(file)["services"])
