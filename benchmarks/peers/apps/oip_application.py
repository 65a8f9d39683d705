"""The application on tritonclient's asyncio client. See coroutines.py."""

import asyncio

from tritonclient.grpc.aio import InferenceServerClient

from benchmarks.peers.apps.coroutines import arguments, measure
from benchmarks.peers.apps.oip_client import image_input


async def main() -> None:
    """One client, shared by all coroutines; each request has an input of its own."""
    given = arguments()
    async with InferenceServerClient(given.target) as client:

        async def classify() -> object:
            answer = await client.infer("network", [image_input(given.image, given.side)])
            return answer.as_numpy("probabilities")

        await measure(classify, given)


if __name__ == "__main__":
    asyncio.run(main())
