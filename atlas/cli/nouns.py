"""A verb with verbs of its own, such as `atlas notes undo ID`: without one of them it does one of them, mostly lists."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from atlas.cli.main import app

LIST = "list"


class _Noun(TyperGroup):
    default = LIST

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def noun(name: str, help_text: str, default: str = LIST) -> typer.Typer:
    """`atlas NAME VERB ...`; the command named `default` answers `atlas NAME ...` where no verb is given."""
    cls = type("Noun", (_Noun,), {"default": default})
    made = typer.Typer(cls=cls, help=help_text, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.add_typer(made, name=name)
    return made
