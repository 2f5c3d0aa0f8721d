"""Where weights lie, what they are called and what their content hashes to. For models and transcoder sets alike."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from atlas.errors import ModelRejected
from atlas.settings import default_home

_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_NAME = re.compile(rf"(?P<name>{_PART}(/{_PART})?)(@(?P<revision>{_PART})(?P<folder>(/{_PART})*))?")
_PATTERNS = ["*.json", "*.yaml", "*.safetensors", "*.npz", "tokenizer*", "*.model"]
_REMEMBER_FROM = 256 * 2**20  # bytes; smaller files are hashed again faster than a cache is worth


@dataclass(frozen=True)
class Place:
    """A folder on this machine, and the hub name (with the folder in the repository) and commit it came from if it did."""

    folder: Path
    hub_name: str | None = None
    revision: str | None = None


def locate(name_or_folder: str | Path, what: str, look_over: Callable[[list[Path]], None] | None = None) -> Place:
    """Find a folder, or fetch a hub repository into the Hugging Face cache. `what` names the thing in errors.

    Hub names are OWNER/NAME, OWNER/NAME@REVISION (branch, tag or commit) or OWNER/NAME@REVISION/FOLDER. They are resolved by
    huggingface_hub: not run on the real hub, in tests from a cache alone. look_over: given the files of a repository, as paths
    in the folder, before anything is fetched; may raise. Raises ModelRejected.
    """
    text = str(name_or_folder)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return Place(folder.resolve())
    if folder.exists():
        raise ModelRejected(f"The {what} {text} is a file.", "Pass the folder that holds it.")
    parts = _HUB_NAME.fullmatch(text)
    if parts is None:
        raise ModelRejected(
            f"There is no {what} folder {text}.", "Pass an existing folder or a hub name (owner/name[@revision])."
        )
    inside = (parts["folder"] or "").strip("/")
    from huggingface_hub import snapshot_download

    if look_over is not None:
        look_over(_listing(parts["name"], parts["revision"], inside))
    patterns = [f"{inside}/{pattern}" for pattern in _PATTERNS] if inside else _PATTERNS
    try:
        snapshot = Path(snapshot_download(parts["name"], revision=parts["revision"], allow_patterns=patterns))
    except Exception as error:  # as in _listing
        raise ModelRejected(
            f"The {what} {text} is neither a folder nor a hub repository that can be fetched ({type(error).__name__}).",
            "Check the name, the connection and, for gated repositories, the login.",
        ) from error
    if not (snapshot / inside).is_dir():
        raise ModelRejected(f"The hub repository of the {what} {text} has no folder {inside}.", "Check the name.")
    return Place(snapshot / inside, hub_name="/".join(filter(None, (parts["name"], inside))), revision=snapshot.name)


def _listing(name: str, revision: str | None, inside: str) -> list[Path]:
    """The files of a hub repository in a folder of it; none when the hub cannot be asked: then the cache is all there is."""
    from huggingface_hub import model_info

    try:
        siblings = model_info(name, revision=revision, timeout=10).siblings or []
    except Exception:  # its HTTP client, whose errors they are, is another one by version
        return []
    files = [Path(sibling.rfilename) for sibling in siblings]
    return [file.relative_to(inside) for file in files if file.is_relative_to(inside)]


def fetch_file(repository: str, file: str, revision: str | None, what: str) -> Path:
    """One file of a hub repository, from the Hugging Face cache or fetched into it (not run on the real hub).

    Raises ModelRejected.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # as in _listing
        at = f" at {revision}" if revision else ""
        raise ModelRejected(
            f"The {what} {file} of the hub repository {repository}{at} cannot be fetched ({type(error).__name__}).",
            "Check the name, the connection and, for gated repositories, the login.",
        ) from error


def is_name(text: object) -> bool:
    """Whether a config's entry can name something: not empty, not a path of some machine."""
    return isinstance(text, str) and bool(text.strip()) and not text.startswith(("/", ".", "~")) and "\\" not in text


def content_hash(files: list[Path], folder: Path | None = None) -> str:
    """sha256 (hex) of weight files.

    One file: its own, as `sha256sum FILE` prints. Several: that of the lines `DIGEST  NAME` sorted by name, as
    `sha256sum * | sha256sum` gives in the folder. NAME is a file's path in `folder` if it lies there, else its last part.
    """
    if len(files) == 1:
        return _digest(files[0])
    names = {
        file: file.relative_to(folder).as_posix() if folder and folder in file.parents else file.name for file in files
    }
    lines = "".join(f"{_digest(file)}  {names[file]}\n" for file in sorted(files, key=names.__getitem__))
    return hashlib.sha256(lines.encode()).hexdigest()


def _digest(file: Path) -> str:
    real = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", real.name):  # the hub cache names large files by their sha256
        return real.name
    stat = real.stat()
    key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}"
    return _remembered(real, key) if stat.st_size >= _REMEMBER_FROM else _compute(str(real), key)


@lru_cache(maxsize=4096)
def _compute(file: str, key: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remembered(file: Path, key: str) -> str:
    """Hashes of large files are kept in the atlas home; a file that changes has another key."""
    store = default_home() / "weight-hashes.json"
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = _compute(str(file), key)
        try:
            store.parent.mkdir(parents=True, exist_ok=True)
            fresh = store.with_suffix(f".{os.getpid()}.tmp")
            fresh.write_text(json.dumps(known))
            fresh.replace(store)
        except OSError:
            pass  # a read-only home costs the next trace a second, not this one
    return known[key]
