"""Every error a user may see. All derive from AtlasError; the command line prints the message and the hint, never a traceback.

AtlasError                  exit 1
├── UsageError              exit 2   a wrong argument, an unknown option value
│   └── MissingExtra        exit 2   the verb needs torch or streamlit and the extra is not installed
├── NotFound                         no circuit, feature, node, collection or model of that name
│   └── Ambiguous                    the name or id prefix fits several
├── InputRejected                    a file, a prompt or a model folder that cannot be used; `place` says where
├── ModelRejected                    a model or transcoder set that is missing, unknown or does not fit
├── StoreUnavailable                 catalog or graph server down, wrong password, disk full, locked by another process
├── AccessDenied                     signed in, but not allowed; or not signed in where that is needed
├── JobEnded                         a job that is over already, or not over yet, cannot be cancelled or tried again
├── SchemaMismatch                   data written by a newer version, or a projection that must be rebuilt
├── QueryRefused                     user Cypher that is not a pure read
└── QueryFailed                      user Cypher with a syntax error, or stopped by a limit
"""

from __future__ import annotations


class AtlasError(Exception):
    """One sentence that says what is wrong and where (`message`), and one that says what to do (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self):
        return type(self), (self.message, self.hint)


class UsageError(AtlasError):
    exit_code = 2


class MissingExtra(UsageError):
    pass


class NotFound(AtlasError):
    pass


class Ambiguous(NotFound):
    pass


class InputRejected(AtlasError):
    """`place` is the position inside the input: a JSON path such as ``links[17].weight``, or ''."""

    def __init__(self, message: str, hint: str = "", place: str = "") -> None:
        super().__init__(message, hint)
        self.place = place

    def __reduce__(self):
        return type(self), (self.message, self.hint, self.place)


class ModelRejected(AtlasError):
    pass


class StoreUnavailable(AtlasError):
    pass


class AccessDenied(AtlasError):
    pass


class JobEnded(AtlasError):
    pass


class SchemaMismatch(AtlasError):
    pass


class QueryRefused(AtlasError):
    pass


class QueryFailed(AtlasError):
    pass
