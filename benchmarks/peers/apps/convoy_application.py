"""The application on Convoy's own asyncio client. See coroutines.py."""

import asyncio

import numpy as np

import convoy
from benchmarks.peers.apps.coroutines import arguments, measure


async def main() -> None:
    """One client, shared by all coroutines."""
    given = arguments()
    image: convoy.ImageInput = given.image
    if len(given.image) == given.side**2 * 3:
        image = np.frombuffer(given.image, np.uint8).reshape(given.side, given.side, 3)
    async with convoy.AsyncImageClient(given.target, model=given.model) as client:
        await measure(lambda: client.classify(image), given)


if __name__ == "__main__":
    asyncio.run(main())
