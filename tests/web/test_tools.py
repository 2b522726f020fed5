"""``peft-atlas mcp``: a real client starts the command and asks its tools."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent

from recommender import Constraints
from web.query import names_of
from web.tools import FEW, server

ROOT = Path(__file__).parents[2]


def ask(tool: str, **arguments: object) -> CallToolResult:
    """What a tool answers to a client in this process."""

    async def call() -> CallToolResult:
        async with Client(server("test")) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(call())


def test_a_client_starts_the_command_and_gets_a_recommendation():
    async def call() -> tuple[set[str], CallToolResult]:
        command = StdioServerParameters(command=sys.executable, args=["-m", "cli.main", "mcp"], cwd=ROOT)
        async with Client(command) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            return tools, await client.call_tool("recommend", {"gpu_mem": "24GB", "params": "7B"})

    tools, answer = asyncio.run(call())
    assert tools == {"recommend", "estimate", "methods", "method", "compare"}
    assert not answer.is_error
    assert len(answer.structured_content["ranked"]) == FEW
    assert answer.structured_content["summary"] in answer.content[0].text


def test_recommend_takes_every_constraint_by_the_name_of_an_address():
    async def knobs() -> dict[str, dict[str, object]]:
        async with Client(server("test")) as client:
            return {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}

    schema = asyncio.run(knobs())
    names = set(names_of(Constraints)) - {"config"}
    assert set(schema["recommend"]["properties"]) == names
    assert set(schema["estimate"]["properties"]) == names | {"method"}
    assert all(each["description"] for each in schema["recommend"]["properties"].values())


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("recommend", {"gpu_mem": "24", "params": "7B"}, "24GB"),
        ("recommend", {"params": "7B"}, "gpu_mem=24GB"),
        ("recommend", {"gpu_memm": "24GB", "params": "7B"}, "did you mean gpu_mem"),
        ("recommend", {"gpu": "rtx-409", "params": "7B"}, "rtx-4090"),
        ("estimate", {"method": "lorra", "params": "7B"}, "lora"),
        ("method", {"slug": "pfeifer_adapter"}, "pfeiffer_adapter"),
        ("method", {"slug": "(IA)^3"}, "ia3"),
        ("methods", {"class": "additive.adapters"}, "additive.adapter"),
        ("compare", {"methods": ["lora"]}, "2 to 6"),
    ],
)
def test_a_mistake_names_what_was_expected(tool: str, arguments: dict[str, object], told: str):
    answer = ask(tool, **arguments)
    assert answer.is_error
    said = answer.content[0]
    assert isinstance(said, TextContent)
    assert told in said.text


def test_a_record_comes_with_its_sources_and_citation():
    found = ask("method", slug="dora").structured_content
    assert found["record"]["counts"]["trainable"]["source"]["ref"]
    assert found["bibtex"].startswith("@misc{liu2024dora")


def test_lists_are_short_enough_for_a_conversation():
    answer = ask("methods", **{"class": "selective"})
    assert answer.structured_content["total"] == len(answer.structured_content["items"]) > 5
    assert {"bitfit", "diff_pruning"} <= {each["slug"] for each in answer.structured_content["items"]}
    assert len(json.dumps(ask("methods").structured_content)) < 40_000


def test_a_comparison_says_what_differs():
    both = ask("compare", methods=["lora", "dora"], only="differences").structured_content
    assert [each["slug"] for each in both["methods"]] == ["lora", "dora"]
