"""The shop on the Python SDK v2: both eras, CRLF line ends in its event streams."""

import json
import pathlib
import socket

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server

SHOP = json.loads((pathlib.Path(__file__).parent / "shop.json").read_text())


async def list_tools(_context, _params):
    return types.ListToolsResult.model_validate({"tools": SHOP["tools"]})


async def list_prompts(_context, _params):
    return types.ListPromptsResult.model_validate({"prompts": SHOP["prompts"]})


async def list_resources(_context, _params):
    return types.ListResourcesResult.model_validate({"resources": SHOP["resources"]})


async def list_templates(_context, _params):
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": SHOP["resourceTemplates"]})


async def call_tool(context, params):
    result = SHOP["results"].get(params.name)
    if result is None:
        text = types.TextContent(type="text", text=f"Tool {params.name} not found")
        return types.CallToolResult(content=[text], is_error=True)
    if params.name == "slow_report":
        for step in (1, 2, 3):
            await context.session.report_progress(step, 3, f"step {step} for ada.lovelace@customers.test")
    return types.CallToolResult.model_validate(result)


def main():
    server = Server(
        "shop",
        version="1.0.0",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    uvicorn.Server(config).run(sockets=[listener])


main()
