"""Batch files of prompts: what is kept, what is listed with its line, what is refused whole."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from atlas import prompt_files
from atlas.errors import InputRejected
from atlas.group_records import TraceRequest
from atlas.prompt_files import read_prompts


def csv_file(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def test_a_csv_gives_the_requests_of_its_rows():
    requests, rejected = read_prompts(
        "a.csv",
        csv_file(
            "prompt,profile,targets,max_features,node_threshold,chat,collection",
            'the opposite of hot is,demo," cold, warm",20,0.5,yes,first',
            '"a, ""b"" c",,,,,,',
        ),
    )
    assert not rejected
    assert requests[0] == TraceRequest(
        prompt="the opposite of hot is",
        profile="demo",
        targets=[" cold", " warm"],
        max_features=20,
        node_threshold=0.5,
        chat=True,
        collection="first",
    )
    assert requests[1] == TraceRequest(prompt='a, "b" c')


def test_a_jsonl_gives_the_requests_of_its_lines():
    data = b'{"prompt": "one", "again": true}\r\n\n{"token_ids": [1, 2], "model": "m", "targets": null}\n'
    requests, rejected = read_prompts("A.JSONL", data)
    assert not rejected
    assert requests == [TraceRequest(prompt="one", again=True), TraceRequest(token_ids=[1, 2], model="m")]


def test_bad_rows_are_listed_with_their_lines_and_the_others_kept():
    requests, rejected = read_prompts(
        "a.csv",
        csv_file(
            "prompt,max_features,token_ids",
            "good,,",
            "",
            "bad,none,",
            '"two',
            'lines",,',
            "both,,1 2",
            '"   ",5,',
            "too,many,,cells,here",
            "last,3,",
        ),
    )
    assert [request.prompt for request in requests] == ["good", "two\nlines", "last"]
    assert [row.line for row in rejected] == [4, 7, 8, 9]
    assert "max_features" in rejected[0].reason
    assert "not both" in rejected[1].reason


def test_bad_lines_of_a_jsonl_say_why():
    lines = [
        '{"prompt": "x", "promt": 1}',
        "[1]",
        '"text"',
        "{",
        '{"prompt": "x", "node_threshold": NaN}',
        "[" * 100_000,
        '{"prompt": "a\\u0000b"}',
        '{"prompt": "a\\ud800b"}',
        '{"prompt": 5}',
        '{"token_ids": []}',
        '{"token_ids": [-1]}',
        '{"prompt": "x", "profile": "demo", "model": "m"}',
        '{"prompt": "x", "max_features": ' + "9" * 5000 + "}",
    ]
    requests, rejected = read_prompts("a.jsonl", "\n".join(lines).encode())
    assert not requests
    assert [row.line for row in rejected] == list(range(1, len(lines) + 1))
    assert "promt is not known" in rejected[0].reason
    assert all(row.reason and "Traceback" not in row.reason for row in rejected)


def test_a_quote_that_is_never_closed_is_told_with_its_line_and_swallows_nothing_silently():
    requests, rejected = read_prompts("a.csv", csv_file("prompt", "good", '"open', "swallowed", "swallowed too"))
    assert [request.prompt for request in requests] == ["good"]
    assert [row.line for row in rejected] == [3]
    assert "lines 3 to 5" in rejected[0].reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_of_spreadsheets_are_read(encoding: str):
    requests, _ = read_prompts("a.csv", "prompt;collection\r\nMünchen, 日本;first\r\n".encode(encoding))
    assert requests == [TraceRequest(prompt="München, 日本", collection="first")]


def test_another_encoding_is_refused_with_the_line():
    with pytest.raises(InputRejected, match="line 3 has the byte 0xfc") as caught:
        read_prompts("a.csv", "prompt\ngood\nMünchen\n".encode("latin-1"))
    assert caught.value.place == "line 3"


def test_line_separators_inside_json_text_do_not_cut_it():
    requests, rejected = read_prompts("a.jsonl", '{"prompt": "a\u2028b\x85c"}'.encode())
    assert [request.prompt for request in requests] == ["a\u2028b\x85c"]
    assert not rejected


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"x", "neither"),
        ("a", b"x", "neither"),
        ("a.csv", b"", "no prompt"),
        ("a.csv", b"\n \n", "no prompt"),
        ("a.csv", b"prompt\n", "no prompt"),
        ("a.jsonl", b"", "no prompt"),
        ("a.csv", b"promt\nx\n", "'promt'"),
        ("a.csv", b"the capital of France is\n", "not known"),
        ("a.csv", b"prompt,prompt\nx,y\n", "twice"),
        ("a.csv", b"model\nx\n", "no column"),
        ("a.csv", b'"prompt\nx\n', "header"),
    ],
)
def test_a_file_of_no_use_is_refused_in_a_sentence(name: str, data: bytes, said: str):
    with pytest.raises(InputRejected, match=said) as caught:
        read_prompts(name, data)
    assert caught.value.hint


def test_too_large_too_many_and_too_long_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompt_files, "MAX_ROWS", 2)
    with pytest.raises(InputRejected, match="more than 2 rows"):
        read_prompts("a.csv", csv_file("prompt", "a", "b", "c"))
    monkeypatch.setattr(prompt_files, "MAX_CHARACTERS", 3)
    assert "4 characters" in read_prompts("a.csv", csv_file("prompt", "abcd"))[1][0].reason
    monkeypatch.setattr(prompt_files, "MAX_BYTES", 5)
    with pytest.raises(InputRejected, match="bytes"):
        read_prompts("a.csv", csv_file("prompt", "abcd"))


@given(
    some.sampled_from(["a.csv", "a.jsonl"]),
    some.one_of(
        some.binary(max_size=200),
        some.text(alphabet='prompt,;"\n\r[]{}:0\x00é', max_size=200).map(
            lambda text: ("prompt,targets\n" + text).encode()
        ),
        some.recursive(
            some.none() | some.booleans() | some.floats() | some.integers() | some.text(max_size=5),
            lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
        ).map(lambda value: json.dumps({"prompt": value, "token_ids": value}).encode()),
    ),
)
@settings(max_examples=300, deadline=None)
def test_whatever_the_bytes_the_answer_is_rows_or_one_sentence(name: str, data: bytes):
    try:
        requests, rejected = read_prompts(name, data)
    except InputRejected:
        return
    assert requests or rejected
    for request in requests:
        json.dumps(request.model_dump(), allow_nan=False).encode()
    assert [row.line for row in rejected] == sorted({row.line for row in rejected})


PROMPT = some.text(
    some.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=30
).filter(str.strip)


@given(some.lists(PROMPT, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_what_was_written_is_read_again_line_ends_and_quotes_included(prompts: list[str]):
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_ALL)
    writer.writerow(["prompt"])
    writer.writerows([prompt] for prompt in prompts)
    assert [r.prompt for r in read_prompts("a.csv", table.getvalue().encode())[0]] == prompts
    lines = "\n".join(json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts)
    assert [r.prompt for r in read_prompts("a.jsonl", lines.encode())[0]] == prompts
