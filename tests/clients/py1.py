"""Drives the Python SDK of the first generation (mcp 1.x). Usage: see driver.py."""

from contextlib import asynccontextmanager

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

import driver


@asynccontextmanager
async def connect(options):
    headers = {} if options.token is None else {"Authorization": f"Bearer {options.token}"}
    timeout = httpx.Timeout(30, read=300)
    async with httpx.AsyncClient(headers=headers, timeout=timeout) as http:
        async with streamable_http_client(options.url, http_client=http) as (read, write, _):
            async with ClientSession(read, write) as client:
                await client.initialize()
                yield client


driver.run(connect)
