"""Measure the CPU time of the front of `hire serve` per request, for bodies of several sizes.

    python benchmarks/front_cost.py [--requests 2000]

The server behind it answers at once with a constant. CPU time hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import httpx
import psutil

from serving.address import start_front
from serving.contract import PREDICTIONS
from serving.process import RECORD, find_free_ports
from serving.server import CURRENT
from serving.tokens import KEYS

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
SIZES = {"gallery id": 100, "16 gallery ids": 1_500, "an uploaded image": 197_000, "16 uploaded images": 3_152_000}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request of a connection."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, asyncio.CancelledError):
        writer.close()


async def measure(requests: int) -> None:
    [port, own] = find_free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CURRENT).symlink_to(".", target_is_directory=True)
        (folder / RECORD).write_text(json.dumps({"inference_port": own}))
        upstream = await asyncio.start_server(answer, "127.0.0.1", own, limit=1 << 24)
        front = await asyncio.to_thread(start_front, folder, port)
        process = psutil.Process(front.pid)
        headers = {"Authorization": f"Bearer {json.loads((folder / KEYS).read_text())['inference']['key']}"}
        try:
            async with httpx.AsyncClient(headers=headers | {"Content-Type": "application/json"}, timeout=60) as client:
                for what, size in SIZES.items():
                    count = max(20, min(requests, requests * 20_000 // size))
                    body = bytes(size)
                    await client.post(front.address + PREDICTIONS, content=body)
                    before = sum(process.cpu_times()[:2])
                    for _ in range(count):
                        (await client.post(front.address + PREDICTIONS, content=body)).raise_for_status()
                    spent = sum(process.cpu_times()[:2]) - before
                    print(f"{what:20} {size:>9,} bytes {1000 * spent / count:6.2f} ms of CPU per request, n {count}")
            print(f"memory {process.memory_info().rss / 1e6:.0f} MB")
        finally:
            front.stop()
            upstream.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    asyncio.run(measure(parser.parse_args().requests))
