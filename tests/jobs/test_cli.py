"""The queue on the command line, up to where a worker would begin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import atlas_command  # noqa: F401

PROMPT = "The opposite of hot is"


@pytest.fixture
def command(atlas_command):  # noqa: F811
    return atlas_command


def queue(command, *arguments: str) -> dict:
    result = command("trace", *arguments, "--profile", "demo", "--queue", "--json")
    assert result.code == 0, result.err
    return result.json


def test_a_queued_prompt_is_listed_shown_cancelled_and_retried(command) -> None:
    text = command("trace", PROMPT, "--profile", "demo", "--queue")
    assert "queued job" in text.out
    assert "No worker runs: start one with `atlas worker`." in text.out
    (row,) = command("jobs", "--json").json
    assert (row["state"], row["title"], row["author"]) == ("queued", PROMPT, "tester")
    short = row["id"][-8:]
    assert short in command("jobs", "--mine").out
    assert PROMPT in command("jobs", "show", short).out
    assert command("jobs", "show", short, "--json").json["arguments"]["prompt"] == PROMPT
    assert command("jobs", "cancel", short, "--json").json["state"] == "cancelled"
    again = command("jobs", "cancel", short)
    assert again.code == 1
    assert f"The job {short} is cancelled already and stays so." in again.err
    assert command("jobs", "retry", short).code == 0
    assert command("jobs", "--state", "queued", "--json").json[0]["id"] == row["id"]
    assert command("worker", "list", "--json").json == []


def test_a_file_of_prompts_is_queued_without_its_bad_rows(command, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    file.write_text("prompt,profile,max_features\none,,\n,demo,\ntwo,absent,\nthree,,many\nfour,demo,7\n")
    result = command("trace", "--prompts", file, "--profile", "demo", "--node-threshold", "0.7", "--queue", "--json")
    assert result.code == 1
    assert len(result.json["jobs"]) == 2
    assert result.json["batch"].startswith("many 20")
    assert [(row["file"], row["line"]) for row in result.json["rejected"]] == [(str(file), n) for n in (3, 4, 5)]
    asked = [command("jobs", "show", job, "--json").json["arguments"] for job in result.json["jobs"]]
    assert asked[0] == {"prompt": "one", "profile": "demo", "node_threshold": 0.7}
    assert asked[1] == {"prompt": "four", "profile": "demo", "max_features": 7, "node_threshold": 0.7}
    text = command("trace", "--prompts", file, "--profile", "demo", "--queue", "--batch", "b")
    assert f"{file} line 4: There is no profile 'absent'" in text.out
    assert command("jobs", "cancel", "--batch", "b", "--json").json == {"changed": 2, "already": 0}
    assert len(command("jobs", "--batch", "b", "--state", "cancelled", "--json").json) == 2
    assert command("jobs", "watch", "--batch", "b", "--json").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trace", "--queue"], 2, "either a prompt or token ids"),
        (["trace", "x", "--queue"], 2, "needs a model and its transcoders"),
        (["trace", "x", "--queue", "--profile", "absent"], 2, "no profile 'absent'"),
        (["trace", "x", "--queue", "--profile", "demo", "--device", "cpu"], 2, "worker chooses device"),
        (["trace", "x", "--profile", "demo", "--batch", "b"], 2, "--batch names jobs"),
        (["trace", "x", "--prompts", "y.csv"], 2, "--prompts names the prompts"),
        (["trace", "--prompts", "absent.csv", "--queue"], 1, "absent.csv cannot be read"),
        (["trace", "--prompts", "bad.txt", "--queue"], 1, "neither .csv nor .jsonl"),
        (["trace", "--prompts", "bad.csv", "--queue"], 1, "no column `prompt`|is not known"),
        (["jobs", "show", "feed"], 1, "There is no job 'feed'"),
        (["jobs", "cancel"], 2, "either job ids or --batch"),
        (["jobs", "retry", "--batch", "absent"], 1, "There is no batch 'absent'"),
        (["jobs", "--state", "asleep"], 2, "no job state 'asleep'"),
        (["worker", "--name", "a b", "--device", "cpu"], 2, "worker name 'a b'"),
        (["worker", "--device", "cpu", "--kinds", "dance"], 2, "no kind of job 'dance'"),
        (["worker", "--device", "tpu9"], 2, "device 'tpu9' is not here"),
    ],
)
def test_wrong_use_is_one_sentence(command, tmp_path: Path, arguments, code, said) -> None:
    import re

    (tmp_path / "bad.txt").write_text("x")
    (tmp_path / "bad.csv").write_text("colour\nred\n")
    result = command(*arguments, "--json")
    assert result.code == code, result.err
    assert re.search(said, json.loads(result.out)["error"]["message"])
    assert command("jobs", "--json").json == []


def test_several_jobs_at_once_tell_what_was_refused(command) -> None:
    first = queue(command, "a")["jobs"][0]
    second = queue(command, "b")["jobs"][0]
    command("jobs", "cancel", second)
    result = command("jobs", "cancel", first, second, "--json")
    assert result.code == 1
    assert [row["id"] for row in result.json["jobs"]] == [first]
    assert result.json["refused"][0]["job"] == second


def test_labels_and_rebuilds_are_queued_and_model_folders_named_in_full(command, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    job = command("trace", "x", "--model", "m", "--transcoders", "owner/set", "--queue", "--json").json["jobs"][0]
    arguments = command("jobs", "show", job, "--json").json["arguments"]
    assert (arguments["model"], arguments["transcoders"]) == (str(tmp_path / "m"), "owner/set")
    assert command("label", "--limit", "3", "--queue").code == 0
    assert command("rebuild", "--queue").code == 0
    assert [row["kind"] for row in command("jobs", "--json").json] == ["rebuild", "label", "trace"]


def test_a_full_queue_is_one_sentence(command, monkeypatch) -> None:
    monkeypatch.setenv("ATLAS_QUEUE_LIMIT", "1")
    queue(command, "a")
    result = command("trace", "b", "--profile", "demo", "--queue")
    assert result.code == 1
    assert "The queue is full: 1 jobs wait" in result.err
