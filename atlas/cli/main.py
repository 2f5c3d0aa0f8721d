"""The `atlas` command. Exit 0 done, 1 a part failed, 2 wrong use; a failure is one sentence, with --json also one document."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from typer.exceptions import TyperException

from atlas.cli.output import emit_error
from atlas.errors import AtlasError, MissingExtra, UsageError

if TYPE_CHECKING:
    from atlas.api import Atlas

INTERRUPTED = 130  # what Typer makes of a KeyboardInterrupt, which it does not let through

app = typer.Typer(
    name="atlas",
    help="Trace prompts through language models and keep, search, compare and query the circuits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextlib.contextmanager
def opened() -> Iterator[Atlas]:
    """The atlas that the settings name, closed at the end."""
    from atlas.api import Atlas

    with Atlas.open() as atlas:
        yield atlas


def need_extra(extra: str, what: str) -> MissingExtra:
    return MissingExtra(
        f"{what} needs the extra [{extra}], which is not installed.", f"Run: pip install 'circuit-atlas[{extra}]'"
    )


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Turns a missing optional package into one sentence that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        own = (error.name or "").split(".")[0]
        if own in {"atlas", "ingest", "ui", "migrations"}:
            raise
        raise need_extra(name, what) from error


def version_callback(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"circuit-atlas {version('circuit-atlas')}")
        raise typer.Exit()


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=version_callback, is_eager=True, help="Print the version."
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what is done, on stderr."),
) -> None:
    from atlas import logs
    from atlas.settings import load_settings

    try:
        logs.setup_from(load_settings(), verbose=verbose)
    except AtlasError:  # the verb that reads the settings will tell
        logs.setup(verbose=verbose)
    if not verbose:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it sets its own level when it is imported
        logging.getLogger("transformers").setLevel(logging.ERROR)  # or has been


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script; exits the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  Python has none where the caller closed it
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal lacks is no failure
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    from atlas.cli import verbs  # noqa: F401  (registers the verbs)

    as_json = "--json" in arguments
    try:
        return _run(arguments)
    except (KeyboardInterrupt, typer.Abort):
        pass
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if not _was_interrupted(error):
            return _explain(error, as_json)
    emit_error(AtlasError("Interrupted.", "What was finished is kept; run the command again to go on."), as_json)
    return 1


def _run(arguments: list[str]) -> int:
    result = app(arguments, prog_name="atlas", standalone_mode=False)
    if result == INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether `error` is only what an interrupt left behind: a half-written buffer, a connection cut off."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _explain(error: Exception, as_json: bool) -> int:
    """Print what went wrong and return the exit code."""
    if isinstance(error, AtlasError):
        told = error
    elif type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return 2
    elif isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "atlas"
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        told = UsageError(f"{message}.", f"See `{where} --help`.")
    elif isinstance(error, MemoryError):
        told = AtlasError("There is not enough memory for this.", "Close other programs, or ask for less at once.")
    else:  # a fault of this program; the traceback is for those who ask for it
        logging.getLogger(__name__).info("unexpected", exc_info=error)
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        told = AtlasError(
            f"An unexpected fault stopped this: {what}.", "`atlas --verbose ...` says where; please report it."
        )
    emit_error(told, as_json)
    return told.exit_code


if __name__ == "__main__":
    from atlas.cli import main as imported  # the verbs register on that module's app, not on this one

    imported.main()
