"""The application on aiohttp. See coroutines.py."""

import asyncio

import aiohttp
import numpy as np

from benchmarks.peers.apps.coroutines import arguments, measure


async def main() -> None:
    """One session, shared by all coroutines, with a connection for each."""
    given = arguments()
    connector = aiohttp.TCPConnector(limit=given.coroutines)
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:

        async def classify() -> object:
            async with session.post(f"http://{given.target}", data=given.image) as reply:
                return np.frombuffer(await reply.read(), np.float32)

        await measure(classify, given)


if __name__ == "__main__":
    asyncio.run(main())
