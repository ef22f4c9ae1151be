"""The example in docs opens a console through the real server, of a simulated VM that really draws."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from asgiref.sync import sync_to_async
from django.db import connections

from cloudops.asgi import application
from consoles.models import ConsoleSession
from tests.api.conftest import World

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "open_console.py"


@contextlib.asynccontextmanager
async def _server() -> AsyncIterator[int]:
    config = uvicorn.Config(
        application, host="127.0.0.1", port=0, ws="consoles.relay.server:RelayProtocol", lifespan="on", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task
        await sync_to_async(connections.close_all)()


async def _run(port: int, token: str, *arguments: str) -> tuple[int, str, str]:
    environment = {"PATH": os.environ["PATH"], "CLOUDOPS_TOKEN": token}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLE),
        f"http://127.0.0.1:{port}",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 40)
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.django_db(transaction=True)
async def test_the_example_opens_a_console_and_saves_the_screen(
    transactional_world: World, tmp_path: Path, settings: Any
) -> None:
    world = transactional_world
    token = await sync_to_async(world.token)("tenant", "console")
    picture = tmp_path / "screen.ppm"
    async with _server() as port:
        settings.CONSOLE_BASE_URL = f"http://127.0.0.1:{port}"
        code, out, err = await _run(port, token, world.simulated.name, "--save", str(picture))
        assert (code, err) == (0, "")
        assert "Slot " in out
        assert world.simulated.name in out
        header, _, pixels = picture.read_bytes().partition(b" 255\n")
        _, width, height = header.split()
        assert len(pixels) == int(width) * int(height) * 3
        assert len(set(pixels)) > 1, "the simulated screen is not of one colour"
        session = await ConsoleSession.objects.exclude(pk__in=[world.session.pk, world.member_session.pk]).aget()
        for _ in range(100):
            await session.arefresh_from_db()
            if session.status == "closed":
                break
            await asyncio.sleep(0.05)
        assert (session.status, session.closed_reason) == ("closed", "user_closed")


@pytest.mark.django_db(transaction=True)
async def test_the_example_tells_what_went_wrong(transactional_world: World) -> None:
    world = transactional_world
    token = await sync_to_async(world.token)("tenant", "console")
    weak = await sync_to_async(world.token)("tenant")
    async with _server() as port:
        code, _, err = await _run(port, token, "no-such-vm")
        assert (code, err.strip()) == (1, "There are 0 VMs named 'no-such-vm' that you may see.")
        code, _, err = await _run(port, weak, world.simulated.name)
        assert code == 1
        assert "403 forbidden: This token lacks the scope “console”." in err
        await world.host.__class__.objects.aupdate(console_limit_override=1)
        code, _, err = await _run(port, token, world.simulated.name)
        assert "409 console-limit" in err
        assert "Try again in" in err
