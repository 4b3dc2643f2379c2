"""One gRPC channel per node, shared by all that is asked there."""

import asyncio
from collections.abc import Container

import grpc

from serving.gateway.model_client import CHANNEL_OPTIONS

KEEP_S = 30.0  # longer than any deadline: what began with a channel ends with it


class Channels:
    """Open channels by address. Make it in the event loop that uses it."""

    def __init__(self) -> None:
        self._open: dict[str, grpc.aio.Channel] = {}
        self._leaving: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    def to(self, url: str) -> grpc.aio.Channel:
        """The channel to a node."""
        if url not in self._open:
            self._open[url] = grpc.aio.insecure_channel(url, options=CHANNEL_OPTIONS)
        return self._open[url]

    def keep(self, urls: Container[str], linger_s: float = KEEP_S) -> None:
        """Close the channels to all other nodes when what was asked there is answered."""
        for url in [url for url in self._open if url not in urls]:
            channel = self._open.pop(url)
            self._leaving[channel] = asyncio.create_task(self._close_later(channel, linger_s))

    async def close(self) -> None:
        """Close every channel; requests in flight are cancelled."""
        for leaving in self._leaving.values():
            leaving.cancel()
        await asyncio.gather(*(c.close() for c in (*self._open.values(), *self._leaving)))

    async def _close_later(self, channel: grpc.aio.Channel, linger_s: float) -> None:
        await asyncio.sleep(linger_s)
        await channel.close()
        del self._leaving[channel]
