"""Drives the Python SDK of the second generation (mcp 2.x), in both eras. Usage: see driver.py."""

from contextlib import asynccontextmanager

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import driver


@asynccontextmanager
async def connect(options):
    headers = {} if options.token is None else {"Authorization": f"Bearer {options.token}"}
    mode = "legacy" if options.mode == "legacy" else "2026-07-28"
    timeout = httpx2.Timeout(30, read=300)
    async with httpx2.AsyncClient(headers=headers, timeout=timeout) as http:
        # No cache: a step is there to reach the server.
        async with Client(streamable_http_client(options.url, http_client=http), mode=mode, cache=None) as client:
            yield client


driver.run(connect)
