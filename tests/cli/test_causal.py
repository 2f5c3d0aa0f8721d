"""`atlas patch`, `components`, `faithfulness`, `intervene`, `verify`: what they refuse, and what they print."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from atlas.causal_records import (
    BaselineScore,
    Controls,
    Curve,
    FaithfulnessResult,
    InterventionRequest,
    InterventionRow,
    Moved,
    VerifyResult,
)
from atlas.circuit import KIND, SITE, Circuit, Edges, Nodes
from atlas.cli import drawing, faithfulness, intervene, patch, verify
from atlas.cli.output import PlainConsole
from tests.conftest import make_circuit

DEMO = ("--profile", "demo")
CASE = ("--clean", "a b", "--answer", "c")
NODE = ("--node", "feature/0/1/6")

WRONG_USE = {
    "patch without a model": (("patch", *CASE), "This needs a model. Pass --model, or --profile demo"),
    "patch with two models": (("patch", *DEMO, "--model", "x", *CASE), "Pass either --model or --profile."),
    "patch without cases": (("patch", *DEMO), "exactly one of --pairs, --clean and --template"),
    "patch with two sources": (("patch", *DEMO, *CASE, "--template", "ioi"), "exactly one of --pairs"),
    "an answer to nothing": (("patch", *DEMO, "--template", "ioi", "--answer", "x"), "--answer belongs to --clean."),
    "no answer": (("patch", *DEMO, "--clean", "a b"), "A clean prompt needs its answer. Pass --answer"),
    "an unknown metric": (("patch", *DEMO, *CASE, "--metric", "loss"), "no metric 'loss'. Metrics: logit-difference"),
    "an unknown site": (("patch", *DEMO, *CASE, "--sites", "resid,mlps"), "no site 'mlps' to patch. Sites: resid"),
    "no site": (("patch", *DEMO, *CASE, "--sites", ","), "There is no site to patch."),
    "an unknown direction": (("patch", *DEMO, *CASE, "--direction", "up"), "--direction"),
    "a function in the queue": (
        ("patch", *DEMO, *CASE, "--metric", "function:os:getcwd", "--queue"),
        "A function of your own is not run by a worker.",
    ),
    "a device in the queue": (("patch", *DEMO, *CASE, "--queue", "--device", "cpu"), "--device is for work done here"),
    "an unknown template": (("components", *DEMO, "--template", "poems"), "--template"),
    "no steps": (("components", *DEMO, *CASE, "--steps", "0"), "--steps"),
    "nothing faithful": (
        ("components", *DEMO, *CASE, "--faithfulness", "0"),
        "--faithfulness: input should be greater",
    ),
    "not a number": (("components", *DEMO, *CASE, "--faithfulness", "nan"), "--faithfulness: input should be greater"),
    "a profile that is not there": (("components", "--profile", "nobody", *CASE), "no profile 'nobody'"),
    "no random circuits": (("faithfulness", "x", "--random-circuits", "0"), "--random-circuits"),
    "nothing to change": (("intervene", "x", "--ablate"), "exactly one of --node, --supernode, --edge and --path"),
    "a node and a supernode": (("intervene", "x", *NODE, "--supernode", "s", "--ablate"), "exactly one of --node"),
    "nothing done": (("intervene", "x", *NODE), "exactly one of --ablate, --scale, --steer and --from"),
    "two things done": (("intervene", "x", *NODE, "--ablate", "--scale", "2"), "exactly one of --ablate"),
    "a scaled edge": (("intervene", "x", "--edge", "a->b", "--scale", "2"), "cut; --scale changes nodes."),
    "half an edge": (("intervene", "x", "--edge", "a->"), "'a->' is not an edge: SOURCE->TARGET."),
    "one end of an edge": (("intervene", "x", "--edge", "a"), "'a' is not an edge: SOURCE->TARGET."),
    "an edge of three": (("intervene", "x", "--edge", "a->b->c"), "'a->b->c' is not an edge"),
    "a path of one": (("intervene", "x", "--path", "a"), "'a' is not a path: A->B->C."),
    "a key too many": (("intervene", "x", *NODE, "feature/1/1/7", "--ablate"), "'feature/1/1/7' belongs to nothing."),
    "an endless scale": (("intervene", "x", *NODE, "--scale", "inf"), "--scale is inf. Pass a finite number."),
    "too many controls": (("intervene", "x", *NODE, "--ablate", "--controls", "900"), "--controls"),
    "transcoders of nothing": (("verify", "x", "--transcoders", "t"), "--transcoders belongs to a model."),
    "a model in the queue": (("verify", "x", "--model", "m", "--queue"), "--model is for work done here"),
    "no features": (("verify", "x", "--features", "0"), "--features"),
}


@pytest.mark.parametrize("name", WRONG_USE)
def test_wrong_use_is_exit_2_and_one_sentence(atlas_command, name: str) -> None:
    arguments, said = WRONG_USE[name]
    result = atlas_command(*arguments)
    assert result.code == 2
    assert said in result.err.replace("\n", " ")
    assert result.out == ""
    assert "Traceback" not in result.err
    as_json = atlas_command(*arguments, "--json")
    assert as_json.code == 2
    assert set(as_json.json["error"]) == {"type", "message", "hint"}


def test_a_file_of_prompts_is_read_or_refused_in_one_sentence(atlas_command, tmp_path) -> None:
    files = {
        "absent.txt": (None, "cannot be read as text: no such file or directory."),
        "empty.txt": (b"\n\n", "holds no prompt."),
        "latin.txt": ("é".encode("latin-1"), "it is not utf-8."),
        "many.txt": (b"x\n" * 1001, "holds 1,001 prompts. Pass at most 1,000."),
        "ids.jsonl": (b'{"token_ids": [1]}', "line 1 has no prompt."),
        "broken.csv": (b'prompt\n"a', "line 2: the quotes are not closed"),
    }
    for name, (data, said) in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        for verb in (("verify", "x"), ("intervene", "x", *NODE, "--ablate")):
            result = atlas_command(*verb, "--prompts", tmp_path / name)
            assert result.code == 1
            assert said in result.err
            assert len(result.err.splitlines()) == 1


def test_a_missing_file_of_cases_is_one_sentence(atlas_command, tmp_path) -> None:
    result = atlas_command("patch", *DEMO, "--pairs", tmp_path / "absent.jsonl")
    assert result.code == 1
    assert result.err == f"There is no file {tmp_path / 'absent.jsonl'}. Pass a .jsonl or .csv file of cases.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--edge", "token/-1/0/5->feature/0/1/6"),
        ("--edge", "token/-1/0/5", "feature/0/1/6"),
        ("--path", "token/-1/0/5", "feature/0/1/6"),
        ("--path", "token/-1/0/5 -> feature/0/1/6"),
    ],
)
def test_an_edge_may_be_written_in_two_ways(arguments: tuple[str, ...]) -> None:
    option, first, *rest = arguments
    edge, path = (first, None) if option == "--edge" else (None, first)
    assert intervene._what(rest, [], None, edge, path) == {"nodes": ["token/-1/0/5", "feature/0/1/6"]}


# -- what is printed


def printed(show, *arguments) -> str:
    import io

    console = PlainConsole(file=io.StringIO(), width=200)
    show(console, *arguments)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def patched(positions: int = 3, layers: int = 2, heads: int = 2) -> Circuit:
    """A heat map with effect (layer + 1) * position / 10, heads with effect -(layer + head) / 4."""
    places = [("resid", "pre", layer, position, -1) for layer in range(layers) for position in range(positions)]
    places += [("head", "out", layer, -1, head) for layer in range(layers) for head in range(heads)]
    nodes = Nodes(
        len(places),
        kind=np.array([KIND[p[0]] for p in places]),
        site=np.array([SITE[p[1]] for p in places]),
        layer=np.array([p[2] for p in places]),
        position=np.array([p[3] for p in places]),
        index=np.array([p[4] for p in places]),
    )
    effect = [(p[2] + 1) * p[3] / 10 if p[0] == "resid" else -(p[2] + p[4]) / 4 for p in places]
    record = make_circuit("a b", (1.0, 1.0, 1.0)).record
    return replace(Circuit(record, nodes, Edges(0)), extra={"patching.effect": np.array(effect, dtype=np.float32)})


def test_a_heat_map_is_shaded_characters_layer_by_position() -> None:
    lines = drawing.patching_maps(patched())
    assert lines[0] == "down: token, across: layer"
    assert lines[1].split() == ["stream", "before"]
    assert [line[14:].rstrip() for line in lines[2:6]] == [" 0 1", " · ·", " ░ ▒", " ▒ ▓"]
    assert lines[3].startswith("0 a")
    heads = lines.index("down: layer, across: head")
    assert lines[heads + 1].strip() == "heads, all positions at once"
    assert [line[14:].rstrip() for line in lines[heads + 2 : heads + 5]] == [" 0 1", " ·-▒", "-▒-▓"]
    assert lines[-1] == drawing.LEGEND
    text = printed(patch.show_patched, patched())
    assert "head 1.1" in text
    assert "stream before layer 1 at 2" in text


def test_maps_stand_beside_each_other_only_where_they_fit() -> None:
    grid = np.zeros((1, 12))
    few = drawing.heat_maps("token", "layer", ["a"], [("one", grid), ("two", grid), ("three", grid)])
    assert few[1].split() == ["one", "two", "three"]
    assert few[2].split() == ["1", "1"] * 3
    wide = drawing.heat_maps("token", "layer", ["a"], [("one", np.zeros((1, 40))), ("two", np.zeros((1, 90)))])
    assert [line.strip() for line in wide if line.strip() in ("one", "two")] == ["one", "two"]
    assert "down: token, across: layer, the first 64" in wide
    assert max(len(line) for line in wide) == 14 + 2 * 64


def test_bars_of_one_scale_go_both_ways() -> None:
    assert drawing.bar(1.0, 1.0, 4) == "    |████"
    assert drawing.bar(-0.5, 1.0, 4) == "  ██|    "
    assert drawing.bar(None, 1.0, 4) == drawing.bar(math.nan, 1.0, 4) == drawing.bar(1.0, 0.0, 4) == "    |    "


def test_a_scatter_has_the_corners_where_they_belong() -> None:
    lines = drawing.scatter([(2.0, 1.0, "a"), (-2.0, -1.0, "b"), (math.nan, 1.0, "c")], width=9, height=5)
    assert lines == [
        "up: measured, -1 to 1; across: predicted, -2 to 2",
        "    │   a",
        "    │",
        "────┼────",
        "    │",
        "b   │",
    ]
    assert drawing.scatter([(-2.0, -1.0, "b"), (-1.0, 0.0, "a")], width=5, height=3)[1:] == ["──a─┼", "    │", "b   │"]
    assert drawing.scatter([]) == []


def row(**changes: object) -> InterventionRow:
    asked = InterventionRequest(circuit="c1-a", kind="ablate", nodes=["feature/0/1/6"])
    known = {
        "id": "i1",
        "circuit": "c1-a",
        "author": "tester",
        "created_at": "2026-01-01",
        "request": asked,
        "nodes": ["feature/0/1/6"],
        "prompt": "a b",
        "targets": [Moved(node="logit/2/1/9", text="b", before=4.0, measured=-1.5, predicted=-2.0)],
        "moved": [Moved(node="feature/1/1/7", before=1.0, measured=-0.25, predicted=-0.5)],
        "controls": Controls(count=12, same_position=9, quantile=0.1),
        "mark": "confirmed",
        "reason": "It fell as predicted, and more than the controls let it.",
        "spearman": 0.9,
    }
    return InterventionRow(**{**known, **changes})


def test_an_intervention_shows_its_mark_and_predicted_beside_measured() -> None:
    text = printed(intervene.show_intervention, row())
    assert "intervention i1: feature/0/1/6 set to 0 on 'a b'" in text
    assert "✓ confirmed: It fell as predicted" in text
    assert "12 controls, 9 of them at the same position; 95% of them move the target by less than 0.1" in text
    (target,) = [line for line in text.splitlines() if "logit/2/1/9" in line]
    assert target.split()[:5] == ["logit/2/1/9", "b", "4", "-2", "██████████|"]
    assert target.split()[5:] == ["-1.5", "████████|"]
    assert "rank correlation of predicted and measured 0.900" in text


def test_the_document_of_an_intervention_has_the_effect_on_top() -> None:
    document = intervene.with_effect(row())
    assert list(document)[:2] == ["predicted", "actual"]
    assert (document["predicted"], document["actual"], document["mark"]) == (-2.0, -1.5, "confirmed")
    json.dumps(document, allow_nan=False)
    nothing = intervene.with_effect(row(targets=[]))
    assert (nothing["predicted"], nothing["actual"]) == (None, None)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kind": "scale", "factor": 2.0}, "n times 2"),
        ({"kind": "steer", "value": -1.5}, "-1.5 on n"),
        ({"kind": "patch", "prompt": "x y"}, "n as in 'x y'"),
        ({"kind": "cut"}, "n -> m cut"),
        ({"kind": "ablate", "supernode": "Texas"}, "the supernode Texas set to 0"),
        ({"kind": "ablate", "nodes": ["head/3/-1/0"]}, "head/3/-1/0 as on the corrupted prompts"),
    ],
)
def test_what_was_done_is_said_in_words(asked: dict, said: str) -> None:
    nodes = asked.get("nodes") or (["n", "m"] if asked["kind"] == "cut" else ["n"])
    request = InterventionRequest(circuit="c", **{**asked, "nodes": nodes})
    assert intervene.described(row(request=request, nodes=nodes, prompt="")) == said


def test_a_verification_shows_the_score_with_what_it_must_be_compared_with() -> None:
    points = [
        Moved(node=f"feature/0/1/{i}", text="confirmed", before=1.0, measured=i - 2.0, predicted=2.0 * i - 4)
        for i in range(5)
    ]
    result = VerifyResult(
        circuit="c1-a",
        spearman=0.8,
        interval=(0.5, 0.9),
        p_value=0.005,
        tested=5,
        confirmed=3,
        refuted=1,
        inconclusive=1,
        controls=40,
        edges_confirmed=7,
        baselines=[BaselineScore(name="raw activation", spearman=0.2)],
        points=points,
        interventions=["i1", "i2"],
        verdict="partial",
    )
    text = printed(verify.show_verification, result)
    assert "rank correlation of predicted and measured effects 0.800, 95% 0.500 to 0.900 (bootstrap over nodes)" in text
    assert "p 0.005 against 40 controls" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["nodes", "3", "1", "1", "5"] in lines
    assert ["edges", "7", "0", "0", "7"] in lines
    assert ["raw", "activation", "0.2"] in lines
    assert text.count("✓") == 1 + 5 + 5, "once in the head, in the table and in the scatter for every point"
    assert "before" not in text
    empty = printed(verify.show_verification, VerifyResult(circuit="c1-a", spearman=None))
    assert "no causal score, fewer than 3 effects could be measured" in empty


def test_faithfulness_shows_curves_with_bounds_and_areas_beside_the_baselines() -> None:
    result = FaithfulnessResult(
        circuit="c1-a",
        metric="logit-difference",
        fractions=[0.1, 1.0],
        full=3.0,
        empty=-1.0,
        signed=Curve(name="signed", values=[0.5, 1.0]),
        absolute=Curve(name="absolute", values=[0.4, 1.0]),
        damage=Curve(name="damage", values=[0.7, 1.0]),
        baselines=[Curve(name="random", values=[0.1, 1.0], low=[0.0, 1.0], high=[0.2, 1.0])],
        cpr=0.75,
        cmd=0.3,
        baseline_cpr={"random": 0.55},
        baseline_cmd={"random": 0.45},
        total=70,
        circuit_size=30,
        circuit_faithfulness=0.875,
        cases=4,
    )
    text = printed(faithfulness.show_faithfulness, result)
    assert "logit-difference of the whole model 3, with everything corrupted -1; 4 cases" in text
    assert "the circuit as it is stored: 30 of 70 edges, f 0.875" in text
    features = printed(faithfulness.show_faithfulness, result.model_copy(update={"unit": "features"}))
    assert "with all features off -1" in features
    lines = text.splitlines()
    (first,) = [line for line in lines if line.lstrip().startswith("10 %")]
    assert "0.100 (0.000 to 0.200)" in first
    assert ["this", "circuit", "0.75", "0.3"] in [line.split() for line in lines]
    assert ["random", "0.55", "0.45"] in [line.split() for line in lines]


def test_text_is_no_wider_than_a_terminal_needs() -> None:
    console = Console(width=200)
    assert console.measure(intervene.moved_table(row().targets)).maximum <= 130


# -- with the shipped model

PAIR = ("--clean", "The opposite of hot is", "--corrupted", "The opposite of big is", "--answer", " cold")
WRONG = ("--wrong", " small")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--clean", "The opposite of hot is", "--corrupted", "In Texas the big key and the doors"), ("6 tokens",)),
        (("--clean", "The opposite of hot is", "--corrupted", "The opposite of the hot is"), ("6 tokens", "7")),
        ((*PAIR[:4], "--answer", " cold hot", *WRONG), ("cold hot", "2 tokens")),
        (PAIR, ("wrong",)),
        ((*PAIR[:2], "--answer", " cold", *WRONG), ("corrupted",)),
        (("--template", "agreement", "--count", "10000"), ("different pairs", "fewer")),
        ((*PAIR, *WRONG, "--metric", "function:no_such_module:f"), ("no_such_module",)),
        ((*PAIR, *WRONG, "--device", "cuda:7"), ("cuda:7",)),
    ],
)
def test_cases_that_cannot_be_used_are_one_sentence_and_leave_nothing(
    atlas_command, arguments: tuple[str, ...], said: tuple[str, ...]
) -> None:
    if "--corrupted" in arguments and "--answer" not in arguments:
        arguments = (*arguments, "--answer", " cold", *WRONG)
    alone = (
        "In Texas the big key and the doors" not in arguments
    )  # heat maps also take prompts whose positions correspond
    result = atlas_command("components" if alone else "patch", *DEMO, *arguments)
    assert result.code in (1, 2)
    assert all(word in result.err for word in said)
    assert "unexpected" not in result.err
    assert len(result.err.splitlines()) == 1
    assert not result.out
    assert atlas_command("circuits", "--json").json == []


@pytest.fixture(scope="module")
def kept(shared_home) -> dict[str, str]:
    """In the shared home: a traced circuit, a heat map, a circuit of components, and one of a model that is not here."""
    from atlas import Atlas
    from atlas.causal_records import ComponentsRequest, PatchRequest, PromptPair
    from ingest import trace
    from ingest.components.circuit import component_circuit
    from ingest.components.patching import patch as patch_model
    from ingest.organism import model_path, transcoders_path

    pair = PromptPair(
        clean="The opposite of hot is", corrupted="The opposite of big is", answer=" cold", wrong=" small"
    )
    absent = make_circuit("far away", (1.0, 1.0, 1.0))
    elsewhere = absent.record.model.model_copy(update={"name": "gpt-9", "weights_hash": "0" * 64})
    with Atlas.open(shared_home) as atlas:
        return {
            "graph": trace(atlas, pair.clean, model=model_path(), transcoders=transcoders_path()).circuit,
            "heat map": patch_model(atlas, PatchRequest(profile="demo", pairs=[pair], sites=["resid"])).circuit,
            "components": component_circuit(atlas, ComponentsRequest(profile="demo", pairs=[pair], steps=2)).circuit,
            "absent": atlas.add(absent.with_record(model=elsewhere)).circuit,
        }


@pytest.fixture
def command(atlas_command, shared_home, monkeypatch):
    monkeypatch.setenv("ATLAS_HOME", str(shared_home))
    return atlas_command


UNUSABLE = {
    "no such circuit": (("verify", "c1-ffff"), "c1-ffff"),
    "no such node": (("intervene", "graph", "--node", "feature/0/1/99999", "--ablate"), "has no node"),
    "no such supernode": (("intervene", "graph", "--supernode", "none", "--ablate"), "has no supernode 'none'"),
    "no such edge": (("intervene", "graph", "--edge", "logit->token"), "has no edge from"),
    "a logit": (("intervene", "graph", "--node", "logit", "--ablate"), "cannot be changed: it is a logit."),
    "another length": (
        ("intervene", "graph", "--node", "token", "--from", "The opposite of the hot is"),
        "has 7 tokens, the circuit's has 6",
    ),
    "a steered head": (("intervene", "components", "--node", "head", "--steer", "1"), "no value that a number"),
    "a heat map changed": (("intervene", "heat map", "--node", "resid", "--ablate"), "table of patching effects"),
    "a heat map verified": (("verify", "heat map"), "table of patching effects"),
    "a heat map's curves": (("faithfulness", "heat map"), "has no edges to keep or cut."),
    "a model that is not here": (("verify", "absent"), "needs the model gpt-9"),
    "a node of a model that is not here": (("intervene", "absent", "--node", "token", "--ablate"), "the model gpt-9"),
    "the wrong model": (
        ("intervene", "absent", "--node", "token", "--ablate", "--model", "MODEL", "--transcoders", "SET"),
        "was traced with",
    ),
    "no set": (("verify", "graph", "--model", "MODEL"), "so its model is not enough. Pass --transcoders too."),
}


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_done_to_a_circuit_is_one_sentence_and_leaves_nothing(
    command, kept, shared_home, name: str
) -> None:
    from atlas import Atlas
    from ingest.organism import model_path, transcoders_path

    arguments, said = UNUSABLE[name]
    with Atlas.open(shared_home) as atlas:
        circuit = kept.get(arguments[1])
        keys = atlas.load(circuit).keys if circuit else []
        before = [len(atlas.interventions(each)) + len(atlas.measurements(each)) for each in kept.values()]
    words = {**kept, "MODEL": str(model_path()), "SET": str(transcoders_path())}
    for kind in ("token", "logit", "head", "resid"):
        words[kind] = next((key for key in keys if key.startswith(kind)), kind)
    words["logit->token"] = f"{words['logit']}->{words['token']}"
    result = command(*(words.get(argument, argument) for argument in arguments))
    assert result.code in (1, 2)
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not result.out
    with Atlas.open(shared_home) as atlas:
        assert [len(atlas.interventions(each)) + len(atlas.measurements(each)) for each in kept.values()] == before


@pytest.mark.slow
@pytest.mark.embedded
def test_the_documents_of_the_contract(command, kept) -> None:
    graph = kept["graph"]
    node = next(n["key"] for n in command("show", graph, "--json").json["top_nodes"] if n["kind"] == "feature")
    ablated = command("intervene", graph, "--node", node, "--ablate", "--json")
    assert ablated.code == 0, ablated.err
    assert {"predicted", "actual", "mark", "moved", "controls", "author", "id"} <= set(ablated.json)
    assert ablated.json["actual"] == ablated.json["targets"][0]["measured"]
    assert ablated.json["author"] == "tester"
    verified = command("verify", graph, "--features", "4", "--paths", "2", "--permuted", "1", "--json")
    assert verified.code == 0, verified.err
    assert {"spearman", "p_value", "confirmed", "refuted", "inconclusive", "controls"} <= set(verified.json)
    assert (
        verified.json["tested"] == verified.json["confirmed"] + verified.json["refuted"] + verified.json["inconclusive"]
    )
    shown = command("show", graph, "--json").json
    assert shown["evidence"]["verification"]
    curves = command("faithfulness", kept["components"], "--random-circuits", "1", "--json")
    assert curves.code == 0, curves.err
    assert len(curves.json["signed"]["values"]) == len(curves.json["fractions"]) == 10
    again = command("components", *DEMO, *PAIR, *WRONG, "--steps", "2", "--json")
    assert (again.json["circuit"], again.json["already"]) == (kept["components"], True)
