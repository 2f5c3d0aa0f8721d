"""Decides, from its text alone, whether untrusted Cypher is a pure read; the decision is the same on every server.

The text is cut into tokens, so that strings, backticked names and comments cannot hide or feign anything. Then whatever
writes, administers, reads files or the network, or calls a procedure or namespaced function off the lists is refused,
wherever it stands and whether or not it would have an effect. The servers hold the same line behind this one (READ access
mode and the plan on Neo4j, a read-only user on the embedded server), but differ in what they refuse and when.

Where a text could be read in two ways (escapes that stand for syntax, odd line ends in comments), it is refused as well.
A name that is a clause word and is refused by mistake can always be written in backticks.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from atlas.errors import QueryFailed, QueryRefused

PROCEDURES = frozenset(
    {
        "db.index.fulltext.querynodes",
        "db.index.vector.querynodes",
        "db.labels",
        "db.propertykeys",
        "db.relationshiptypes",
    }
)
FUNCTION_NAMESPACES = frozenset(
    {"date", "datetime", "duration", "localdatetime", "localtime", "point", "time", "vector"}
)
CLAUSES = frozenset(
    {
        "CREATE", "DELETE", "DETACH", "DROP", "FOREACH", "INSERT", "LOAD", "MERGE", "NODETACH", "REMOVE", "SET", "SHOW",
        "TERMINATE", "USE",
    }
)  # fmt: skip
COMMANDS = frozenset(
    {
        "ALTER", "BACKUP", "BEGIN", "CHECK", "COMMIT", "CYPHER", "DEALLOCATE", "DENY", "DISABLE", "DRYRUN", "ENABLE",
        "EXPORT", "GRANT", "IMPORT", "REALLOCATE", "REBUILD", "RENAME", "RESTORE", "REVOKE", "ROLLBACK", "START", "STOP",
        "TRUNCATE", "USING",
    }
)  # fmt: skip
_AFTER_ALIAS = frozenset(
    {"RETURN", "WITH", "MATCH", "WHERE", "ORDER", "SKIP", "OFFSET", "LIMIT", "UNWIND", "UNION", "OPTIONAL", "CALL"}
)
_TRANSACTIONS = frozenset({"TRANSACTION", "TRANSACTIONS"})
_HINT = "Only reading queries run here; write a name that is a Cypher word in backticks."

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<line_comment>//[^\n]*)
  | (?P<block_comment>/\*.*?\*/)
  | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
  | (?P<quoted>`(?:[^`]|``)*`)
  | (?P<number>\d\w*(?:\.\d\w*)?)
  | (?P<word>[^\W\d]\w*)
  | (?P<punct>\.\.|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENERS, _CLOSERS = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}
_ODD_LINE_END = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]|\r(?!\n)")
_ESCAPE = re.compile(r"\\[uU]+([0-9a-fA-F]{4,8})")


@dataclass(frozen=True)
class Token:
    """`kind`: word, quoted, string, number, parameter or punct. `name`: upper case of a word, plain text of the rest."""

    kind: str
    name: str
    begin: int
    end: int
    depth: int


@dataclass(frozen=True)
class Guarded:
    """A text that may run: without EXPLAIN or PROFILE in front, ended by a LIMIT where one can be added."""

    text: str
    explain: bool


def guard(query: str, params: dict[str, Any], rows: int) -> Guarded:
    """Raises QueryRefused when `query` is not a pure read, QueryFailed when it cannot be a query at all.

    `rows`: at most so many rows are asked of the server.
    """
    tokens = tokenize(query)
    if tokens and tokens[-1].name == ";" and tokens[-1].kind == "punct":
        tokens.pop()
    explain, start = False, 0
    while start < len(tokens) and tokens[start].kind == "word" and tokens[start].name in {"EXPLAIN", "PROFILE"}:
        explain |= tokens[start].name == "EXPLAIN"
        start += 1
    tokens = tokens[start:]
    if not tokens:
        raise QueryFailed("The query is empty.", "Write a query such as MATCH (c:Circuit) RETURN c.name.")
    first = tokens[0]
    if first.kind == "word" and first.name in COMMANDS:
        raise _refused(first.name)
    for position, token in enumerate(tokens):
        if token.name == ";" and token.kind == "punct":
            raise QueryRefused("More than one statement was given.", "Send one statement at a time.")
        if token.kind == "word":
            _check_word(tokens, position)
        if token.kind in {"word", "quoted"}:
            _check_function(tokens, position)
    return Guarded(_limited(query, tokens, params, rows), explain)


def tokenize(query: str) -> list[Token]:
    """Tokens without white space and comments. Raises QueryRefused for texts that servers could read differently."""
    for match in _ESCAPE.finditer(query):
        code = int(match[1][:4], 16)
        if code < 0x80 or code in {0x85, 0x2028, 0x2029}:
            raise QueryRefused(f"The query has the escape {match[0]}.", "Write the character itself.")
    tokens: list[Token] = []
    depth = 0
    stack: list[str] = []
    for match in _TOKEN.finditer(query):
        kind, text = match.lastgroup or "", match[0]
        if kind == "space" or (kind == "punct" and unicodedata.category(text[0])[0] in "ZC"):
            continue
        if kind.endswith("comment"):
            if _ODD_LINE_END.search(text) or (kind == "block_comment" and "/*" in text[2:]):
                raise QueryRefused("A comment in the query can be read in two ways.", "Leave the comment out.")
            continue
        if kind == "punct":
            if text in "'\"`" or query.startswith("/*", match.start()):
                raise QueryFailed(
                    f"A string, name or comment is not closed, from {query[match.start() :][:20]!r}.", "Close it."
                )
            if text == "\\":
                raise QueryRefused("The query has a backslash outside of strings.", "Leave it out.")
            if text in _OPENERS:
                stack.append(_OPENERS[text])
            elif text in _CLOSERS:
                if not stack or stack.pop() != text:
                    raise QueryFailed(
                        f"The brackets of the query do not match at character {match.start() + 1}.", "Mend them."
                    )
                depth = len(stack)
        name = text
        if kind == "word":
            name = unicodedata.normalize("NFKC", text).casefold().upper()
        elif kind == "quoted":
            name = text[1:-1].replace("``", "`")
        if kind in {"word", "quoted", "number"} and tokens and tokens[-1].name == "$" and tokens[-1].kind == "punct":
            kind, name = "parameter", name if kind == "quoted" else text
        tokens.append(Token(kind, name, match.start(), match.end(), depth))
        depth = len(stack)
    if stack:
        raise QueryFailed("A bracket of the query is not closed.", "Close it.")
    return tokens


def _check_word(tokens: list[Token], position: int) -> None:
    word = tokens[position].name
    if word == "PERIODIC" and _name(tokens, position - 1) == "USING":
        raise _refused("USING PERIODIC COMMIT")
    after_subquery = word == "IN" and _name(tokens, position - 1) == "}"
    if after_subquery and any(_name(tokens, position + step) in _TRANSACTIONS for step in (1, 2, 3)):
        raise _refused("CALL { } IN TRANSACTIONS")
    if (word != "CALL" and word not in CLAUSES) or _is_name(tokens, position):
        return
    if word != "CALL":
        raise _refused(word)
    following = tokens[position + 1]
    if following.name in {"(", "{"} and following.kind == "punct":
        return
    parts = _dotted(tokens, position + 1)
    procedure = ".".join(parts)
    if procedure.lower() not in PROCEDURES:
        raise QueryRefused(
            f"The procedure {procedure} is not on the list of procedures that may be called.",
            "Allowed: db.index.fulltext.queryNodes, db.index.vector.queryNodes, db.labels, db.propertyKeys, db.relationshipTypes.",
        )


def _is_name(tokens: list[Token], position: int) -> bool:
    """A clause word that can only be a name here: a property, label, type, map key, alias, or what no clause continues."""
    before, after = _at(tokens, position - 1), _at(tokens, position + 1)
    if before is not None and before.kind == "punct":
        if before.name in {":", "|", "&", "!"}:
            return True
        if before.name == ".":
            owner = _at(tokens, position - 2)
            return owner is not None and (
                owner.kind in {"word", "quoted", "parameter"} or owner.name in {")", "]", "}", "{", ","}
            )
    if after is None:
        return True
    if after.kind == "punct" and after.name not in {"(", "[", "{", "$", "+", "-"}:
        return True
    if before is not None and before.kind == "word" and before.name == "AS" and after.kind == "word":
        beyond = _at(tokens, position + 2)
        assigns = beyond is not None and beyond.kind == "punct" and beyond.name in {".", "=", "+", ":", "["}
        return after.name in _AFTER_ALIAS and not assigns
    return False


def _check_function(tokens: list[Token], position: int) -> None:
    """Namespaced functions may come from plug-ins that do anything; only the servers' own namespaces are let through."""
    before = _at(tokens, position - 1)
    if before is not None and ((before.name == "." and before.kind == "punct") or before.name == "CALL"):
        return
    parts = _dotted(tokens, position)
    after = _at(tokens, position + 2 * len(parts) - 1)
    called = len(parts) > 1 and after is not None and after.name == "(" and after.kind == "punct"
    if called and parts[0].lower() not in FUNCTION_NAMESPACES:
        raise QueryRefused(f"The function {'.'.join(parts)} is not one of the servers' own.", _HINT)


def _dotted(tokens: list[Token], position: int) -> list[str]:
    """The parts of `a.b.c` that begins at `position`; words as upper case, quoted names as they are."""
    parts: list[str] = []
    while (token := _at(tokens, position)) is not None and token.kind in {"word", "quoted"}:
        parts.append(token.name if token.kind == "quoted" else token.name.lower())
        following = _at(tokens, position + 1)
        if following is None or following.name != "." or following.kind != "punct":
            break
        position += 2
    return parts


def _limited(query: str, tokens: list[Token], params: dict[str, Any], rows: int) -> str:
    """The text with a LIMIT of at most `rows` at the end of every top-level RETURN.

    Needed because one server computes the whole result even when the client stops reading. Branches of a UNION without
    ALL get DISTINCT with it (which UNION implies), so that the limit counts different rows.
    """
    edits: list[tuple[int, int, str]] = []
    top = [p for p, token in enumerate(tokens) if token.depth == 0]
    unions = [p for p in top if tokens[p].kind == "word" and tokens[p].name == "UNION" and not _is_property(tokens, p)]
    distinct = any(_name(tokens, p + 1) != "ALL" for p in unions)
    ends = [*unions, len(tokens)]
    for begin, end in zip([-1, *unions], ends, strict=False):
        branch = [p for p in top if begin < p < end and tokens[p].kind == "word" and not _is_property(tokens, p)]
        returns = [p for p in branch if tokens[p].name == "RETURN"]
        if not returns:
            continue
        tail = [p for p in branch if p > returns[-1]]
        limits = [p for p in tail if tokens[p].name == "LIMIT" and _at(tokens, p + 1) and p + 1 < end]
        if limits:
            edits += _lowered(tokens, limits[-1] + 1, end, params, rows)
            continue
        has_distinct = _name(tokens, returns[-1] + 1) == "DISTINCT"
        if distinct and not has_distinct:
            if any(tokens[p].name == "ORDER" for p in tail):
                continue
            edits.append((tokens[returns[-1]].end, tokens[returns[-1]].end, " DISTINCT"))
        last = tokens[end - 1].end
        edits.append((last, last, f"\nLIMIT {rows}\n"))
    text_end = tokens[-1].end
    text = query[:text_end]
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    return text[tokens[0].begin :]


def _lowered(
    tokens: list[Token], position: int, end: int, params: dict[str, Any], rows: int
) -> list[tuple[int, int, str]]:
    """The edit that lowers `LIMIT 5` or `LIMIT $n` to `rows`; none for other expressions."""
    token = tokens[position]
    begin = token.begin
    if token.name == "$" and position + 1 < end:
        position += 1
        token = tokens[position]
        value = params.get(token.name)
    else:
        value = int(token.name) if token.kind == "number" and token.name.isdecimal() else None
    simple = position + 1 >= end or tokens[position + 1].kind == "word"
    if simple and isinstance(value, int) and not isinstance(value, bool) and value > rows:
        return [(begin, token.end, str(rows))]
    return []


def _is_property(tokens: list[Token], position: int) -> bool:
    before = _at(tokens, position - 1)
    return before is not None and before.kind == "punct" and before.name in {".", ":", "|", "&", "!"}


def _at(tokens: list[Token], position: int) -> Token | None:
    return tokens[position] if 0 <= position < len(tokens) else None


def _name(tokens: list[Token], position: int) -> str:
    token = _at(tokens, position)
    return token.name if token is not None and token.kind in {"word", "punct"} else ""


def _refused(word: str) -> QueryRefused:
    return QueryRefused(f"The query is not a pure read: {word} is not allowed.", _HINT)
