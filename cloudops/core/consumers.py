"""``/ws/live/``: one WebSocket per page that says which topics changed; the page fetches the fragments again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from cloudops.core.live import group_of

COALESCE_SECONDS = 0.2
MAX_TOPICS = 50
MayWatch = Callable[[Any, str], Awaitable[bool]]


class LiveConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """``{"subscribe": [topic, …]}`` in, ``{"changed": [topic, …]}`` out, at most five times a second.

    ``may_watch`` (given by the composition root) decides topic by topic; a refused topic is left out silently, so that
    a stranger learns nothing.
    """

    may_watch: MayWatch | None = None

    async def connect(self) -> None:
        self.topics: set[str] = set()
        self.changed: set[str] = set()
        self.timer: asyncio.Task[None] | None = None
        await self.accept()
        if not self.scope["user"].is_authenticated:
            await self.close(code=4401)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        wanted = content.get("subscribe") if isinstance(content, dict) else None
        if not isinstance(wanted, list):
            return
        for topic in wanted[:MAX_TOPICS]:
            if not isinstance(topic, str) or topic in self.topics or len(self.topics) >= MAX_TOPICS:
                continue
            if self.may_watch is not None and await self.may_watch(self.scope["user"], topic):
                self.topics.add(topic)
                await self.channel_layer.group_add(group_of(topic), self.channel_name)
        await self.send_json({"subscribed": sorted(self.topics)})

    async def live_changed(self, message: dict[str, Any]) -> None:
        """Channel-layer handler: collects topics for a moment, then tells the page once."""
        self.changed.add(message["topic"])
        if self.timer is None or self.timer.done():
            self.timer = asyncio.create_task(self._tell_soon())

    async def _tell_soon(self) -> None:
        await asyncio.sleep(COALESCE_SECONDS)
        topics, self.changed = sorted(self.changed), set()
        await self.send_json({"changed": topics})

    async def disconnect(self, code: int) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for topic in self.topics:
            await self.channel_layer.group_discard(group_of(topic), self.channel_name)

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        try:
            return await super().decode_json(text_data)
        except ValueError:
            return None
