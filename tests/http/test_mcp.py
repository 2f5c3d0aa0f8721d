"""An assistant, played by the SDK's own client, asks over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import sys

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.http.conftest import COMMAND

pytestmark = pytest.mark.embedded


def converse(client: Client, talk):
    async def main():
        async with client:
            return await talk(client)

    return asyncio.run(main())


def over_stdio(environment: dict[str, str]) -> Client:
    return Client(
        stdio_client(StdioServerParameters(command=sys.executable, args=["-c", COMMAND, "mcp"], env=environment))
    )


def over_http(served, token: str) -> Client:
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False)
    return Client(streamable_http_client(f"{served.url}/mcp", http_client=http))


@pytest.fixture(params=["stdio", "stdio to a server", "http"])
def assistant(request, served) -> Client:
    if request.param == "http":
        return over_http(served, served.tokens["reader"])
    if request.param == "stdio":
        return over_stdio(served.environment)
    elsewhere = {**served.environment, "ATLAS_SERVER": served.url, "ATLAS_TOKEN": served.tokens["reader"]}
    return over_stdio(elsewhere)


def test_an_assistant_asks_everything_and_is_told_what_the_atlas_tells(assistant, served) -> None:
    first, second = served.circuits["a b"], served.circuits["a c"]
    asked = {
        "overview": {},
        "search": {"text": "cities", "layers": [0, 1]},
        "circuits": {"collection": "toys"},
        "show": {"circuit": first},
        "feature": {"key": "toy/toy-set/0/6"},
        "paths": {"source": "feature:toy/toy-set/0/6", "target": "logit:x", "null_graphs": 5},
        "compare": {"a": first, "b": second},
        "cypher": {"query": "MATCH (c:Circuit) RETURN count(c) AS n"},
        "annotations": {},
        "concepts": {},
    }

    async def talk(client: Client):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        return tools, {name: await client.call_tool(name, given) for name, given in asked.items()}

    tools, answers = converse(assistant, talk)
    assert set(tools) == set(asked)
    for name, tool in tools.items():
        assert tool.description, name
        assert tool.output_schema, name
        assert tool.annotations.read_only_hint, name
        assert not {"context", "atlas"} & set(tool.input_schema["properties"]), name
    for name, answer in answers.items():
        assert not answer.is_error, (name, answer.content)
        if name == "search":
            asked[name]["layers"] = (0, 1)
        local = getattr(served.local, name)(**asked[name])
        if isinstance(local, list):
            assert answer.structured_content == {"result": [row.model_dump(mode="json") for row in local]}, name
        elif name != "overview":
            assert answer.structured_content == local.model_dump(mode="json"), name
    assert answers["cypher"].structured_content["rows"] == [[3]]


def test_what_an_assistant_must_not_do_is_refused_in_one_sentence(assistant) -> None:
    async def talk(client: Client):
        return [
            await client.call_tool("cypher", {"query": "MATCH (n) DETACH DELETE n"}),
            await client.call_tool("show", {"circuit": "nowhere"}),
            await client.call_tool("paths", {"source": "x", "target": "y", "null_graphs": 10**9}),
        ]

    refused = converse(assistant, talk)
    assert all(answer.is_error for answer in refused)
    texts = [answer.content[0].text for answer in refused]
    assert "Traceback" not in "".join(texts)
    assert "reads" in texts[0] or "read" in texts[0], texts[0]
    assert "nowhere" in texts[1]
    assert "999" in texts[2]


def test_without_a_token_that_works_the_address_answers_nothing(served) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    for headers in ({}, {"Authorization": "Bearer atlas_" + "A" * 43}, {"Authorization": "Basic eDp5"}):
        answer = httpx2.post(f"{served.url}/mcp", json=call, headers=headers, trust_env=False)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "AccessDenied"


def test_a_token_revoked_between_two_calls_ends_the_talk(served) -> None:
    token = served.local.new_token("reader1")

    async def talk(client: Client):
        await client.call_tool("overview", {})
        served.local.revoke_token(token.id)
        return await client.call_tool("overview", {})

    with pytest.raises(Exception) as caught:  # noqa: PT011  the SDK wraps it in groups
        converse(over_http(served, token.secret), talk)
    assert "error response" in " ".join(str(leaf) for leaf in leaves(caught.value))


def leaves(error: BaseException) -> list[BaseException]:
    inner = [leaf for each in getattr(error, "exceptions", ()) for leaf in leaves(each)]
    return inner or [error]
