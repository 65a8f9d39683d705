"""The worker: results and errors come back, whoever has left; several threads work at once."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

from service.errors import NotServing
from service.worker import Worker


def test_runs_in_a_thread_of_its_own_and_returns() -> None:
    async def work() -> None:
        worker = Worker("here")
        assert await worker.run(lambda: threading.current_thread().name) == "here-0"
        assert await worker.run(divmod, 7, 2) == (3, 1)
        worker.close()

    asyncio.run(work())


def test_an_error_is_the_caller_s_and_the_thread_lives() -> None:
    async def work() -> None:
        worker = Worker("here")
        with pytest.raises(ZeroDivisionError):
            await worker.run(divmod, 1, 0)
        assert await worker.run(abs, -1) == 1
        worker.close()

    asyncio.run(work())


def test_an_idle_thread_holds_nothing() -> None:
    class Large:
        def size(self, unit: object) -> int:
            return 1

    async def work() -> None:
        worker, loop = Worker("here"), asyncio.get_running_loop()
        function, argument, freed = Large(), Large(), asyncio.Semaphore(0)
        for one in (function, argument):
            weakref.finalize(one, loop.call_soon_threadsafe, freed.release)
        assert await worker.run(function.size, argument) == 1
        del function, argument, one
        for _ in range(2):
            await freed.acquire()
        worker.close()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_a_caller_who_leaves_disturbs_nobody() -> None:
    async def work() -> None:
        worker, gate = Worker("here"), threading.Event()
        gone = worker.run(gate.wait)
        after = worker.run(abs, -2)
        gone.cancel()
        gate.set()
        assert await after == 2
        worker.close()

    asyncio.run(work())


def test_threads_work_at_the_same_time() -> None:
    async def work() -> None:
        worker, both = Worker("here", threads=2), threading.Barrier(2)
        await asyncio.gather(*(worker.run(both.wait, 20) for _ in range(2)))
        worker.close()

    asyncio.run(work())


def test_calls_that_are_withdrawn_never_begin() -> None:
    entered, gate, begun = threading.Event(), threading.Event(), []

    def hold() -> bool:
        entered.set()
        return gate.wait(20)

    async def work() -> None:
        worker = Worker("here")
        first = worker.run(hold, line="a")
        entered.wait(20)
        withdrawn = [worker.run(begun.append, number, line="a") for number in range(3)]
        last = worker.run(begun.append, 3, line="a", level=2)
        worker.withdraw(withdrawn, line="a")
        gate.set()
        await asyncio.gather(first, last)
        assert all(call.cancelled() for call in withdrawn)
        assert begun == [3]
        worker.close()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_what_waits_when_it_is_closed_is_told_so() -> None:
    entered, gate = threading.Event(), threading.Event()

    def hold() -> bool:
        entered.set()
        return gate.wait(20)

    async def work() -> None:
        worker = Worker("here")
        begun = worker.run(hold, line="a")
        entered.wait(20)
        waiting = [worker.run(abs, -2, line=line) for line in ("", "a", "b")]
        worker.close()
        late = worker.run(abs, -3)
        gate.set()
        assert await begun
        outcomes = await asyncio.gather(*waiting, late, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotServing] * 4

    asyncio.run(asyncio.wait_for(work(), 20))
