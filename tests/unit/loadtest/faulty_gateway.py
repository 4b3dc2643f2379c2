"""A gateway with faults on demand, as a process of its own: the truth that load tests are held to.

    python faulty_gateway.py [STALL_EVERY_S STALL_S]

Prints {"port", "origin_s"}, a second line after 100 requests, and serves until killed. It stalls,
as a whole, during the last STALL_S seconds of every STALL_EVERY_S, counted on the monotonic clock
from origin_s. The text of a request decides its answer: "refuse" 429, "fail" 500, "drop" closes the
connection, "hang" never answers, any other is served, by a model of digest ddd...
"""

import asyncio
import json
import sys
import time

ANSWER = json.dumps({"data": [], "farshore": {"digest": "d" * 64}}).encode()
STATUS = {"refuse": 429, "fail": 500}


class Connection(asyncio.Protocol):
    requests = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        ]
        wanted = int(lengths[0].split(b":")[1]) if lengths else 0
        if separator and len(body) >= wanted:
            self.received = b""
            self.answer(json.loads(body)["input"] if wanted else "")

    def answer(self, text: str) -> None:
        Connection.requests += 1
        if Connection.requests == 100:
            print("busy", flush=True)
        if text == "drop":
            self.transport.abort()
        elif text != "hang":
            head = f"HTTP/1.1 {STATUS.get(text, 200)} X\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
            self.transport.write(head.encode() + ANSWER)


async def stall_forever(origin_s: float, every_s: float, stall_s: float) -> None:
    """Block the whole process during the last part of every period."""
    end_s = origin_s
    while True:
        end_s += every_s
        await asyncio.sleep(end_s - stall_s - time.monotonic())
        time.sleep(max(end_s - time.monotonic(), 0))


async def main(every_s: float = 0.0, stall_s: float = 0.0) -> None:
    server = await asyncio.get_running_loop().create_server(
        Connection, "127.0.0.1", 0, backlog=4096
    )
    origin_s = time.monotonic()
    print(
        json.dumps({"port": server.sockets[0].getsockname()[1], "origin_s": origin_s}), flush=True
    )
    if stall_s:
        await stall_forever(origin_s, every_s, stall_s)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:])))
