"""What the two Python drivers share: arguments, the script on stdin, one JSON line for each step, and a time limit on each step.

A driver exits with 0 whatever the server answered: a refused call is an observation, not a failure.
Another exit code means that the driver itself broke.
"""

import argparse
import json
import logging
import sys
import warnings

import anyio


def parse_arguments():
    parser = argparse.ArgumentParser(description="Runs a script of MCP steps (JSON on stdin) against a server.")
    parser.add_argument("url")
    parser.add_argument("--token")
    parser.add_argument("--mode", choices=["legacy", "modern"], default="legacy")
    parser.add_argument("--timeout-ms", type=int, default=10_000)
    return parser.parse_args()


def _field(value, *names):
    """The first of `names` that `value` has: the generations of the SDK spell their fields differently."""
    for name in names:
        found = getattr(value, name, None)
        if found is not None:
            return found
    return None


def _text(result):
    parts = _field(result, "content", "contents")
    if parts is None:
        parts = [message.content for message in _field(result, "messages") or []]
    return "\n".join(getattr(part, "text", None) or f"<{getattr(part, 'type', '?')}>" for part in parts)


def observation(op, result):
    """What one step did, in the one shape that all drivers print."""
    entries = _field(result, "tools", "prompts", "resources", "resource_templates", "resourceTemplates")
    return {
        "op": op,
        "ok": True,
        "isError": _field(result, "is_error", "isError") is True,
        "text": _text(result),
        "structured": _field(result, "structured_content", "structuredContent"),
        "names": None if entries is None else [entry.name for entry in entries],
        "meta": _field(result, "meta"),
    }


def _leaf(error):
    """The first real exception inside nested groups (whose class has no built-in name before Python 3.11)."""
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]
    return error


def failure(op, error, error_class=None):
    leaf = _leaf(error)
    if error_class is None:
        error_class = "timeout" if isinstance(leaf, TimeoutError) else type(leaf).__name__
    code = _field(leaf, "code")
    if code is None:
        code = _field(_field(leaf, "error"), "code")
    return {
        "op": op,
        "ok": False,
        "isError": False,
        "text": "",
        "meta": None,
        "errorClass": error_class,
        "code": code if isinstance(code, (int, str)) else None,
        "message": f"{type(leaf).__name__}: {leaf}" if error_class == "dead" else str(leaf),
    }


def _print(line):
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


async def _step(client, op, one):
    if op == "list":
        return await client.list_tools()
    if op == "call":
        return await client.call_tool(one["tool"], one.get("arguments", {}))
    if op == "ping":
        return await client.send_ping()
    if op == "list_prompts":
        return await client.list_prompts()
    if op == "get_prompt":
        return await client.get_prompt(one["name"], one.get("arguments", {}))
    if op == "list_resources":
        return await client.list_resources()
    if op == "read_resource":
        return await client.read_resource(one["uri"])
    raise ValueError(f"the driver knows no step named {op}")


def run(connect):
    """Enters `connect(options)`, runs every step, and prints one line for each (the first line is the connection).

    Where the SDK tears its whole session down, the step that ran and all after it are reported as `dead`.
    """
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    options = parse_arguments()
    steps = [{"op": "connect"}, *json.load(sys.stdin)]
    seconds = options.timeout_ms / 1000
    done = 0

    async def session():
        nonlocal done
        with anyio.fail_after(seconds) as limit:
            async with connect(options) as client:
                limit.deadline = float("inf")
                _print(observation("connect", None))
                done = 1
                for one in steps[1:]:
                    try:
                        with anyio.fail_after(seconds):
                            result = await _step(client, one["op"], one)
                        line = observation(one["op"], result)
                    except Exception as error:
                        line = failure(one["op"], error)
                    _print(line)
                    done += 1
                # Closing has its limit too: some servers never answer the DELETE.
                limit.deadline = anyio.current_time() + 2

    try:
        anyio.run(session)
    except BaseException as error:  # the SDKs raise groups that hold cancellations
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        for one in steps[done:]:
            _print(failure(one["op"], error, None if done == 0 else "dead"))
