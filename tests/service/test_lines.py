"""Lines: who waits gets as much as the others, whoever has more jobs."""

from __future__ import annotations

from service.lines import Lines


def served(lines: Lines[int], jobs: int, seconds: dict[str, float]) -> str:
    """The lines of the next jobs, each of which takes what its line's jobs take."""
    order = ""
    for _ in range(jobs):
        line, _ = taken(lines)
        lines.charge(line, seconds[line])
        order += line
    return order


def taken(lines: Lines[int]) -> tuple[str, int]:
    """The next job and its line."""
    job = lines.take()
    assert job is not None
    return job


def test_one_line_is_in_order() -> None:
    lines: Lines[int] = Lines()
    for job in range(5):
        lines.put("a", job)
    assert [taken(lines)[1] for _ in range(5)] == list(range(5))


def test_a_flood_does_not_go_before_another_line() -> None:
    lines: Lines[int] = Lines()
    for job in range(100):
        lines.put("a", job)
    seconds = {"a": 1.0, "b": 1.0}
    assert served(lines, 10, seconds) == "a" * 10
    for job in range(3):
        lines.put("b", job)
    assert served(lines, 8, seconds) == "babab" + "aaa"


def test_long_jobs_come_less_often() -> None:
    lines: Lines[int] = Lines()
    for job in range(100):
        lines.put("a", job)
        lines.put("b", job)
    order = served(lines, 55, {"a": 10.0, "b": 1.0})
    assert (order.count("a"), order.count("b")) == (5, 50)


def test_who_comes_back_has_saved_nothing_up() -> None:
    lines: Lines[int] = Lines()
    lines.put("b", 0)
    for job in range(100):
        lines.put("a", job)
    seconds = {"a": 1.0, "b": 1.0}
    served(lines, 50, seconds)
    for job in range(50):
        lines.put("b", job)
    assert served(lines, 10, seconds).count("b") == 5


def test_closed_lines_end_everyone_who_takes_and_return_what_waits() -> None:
    lines: Lines[int] = Lines()
    for job in range(3):
        lines.put("ab"[job % 2], job)
    assert sorted(lines.close()) == [0, 1, 2]
    assert [lines.take(), lines.take()] == [None, None]


def test_a_higher_level_goes_first_within_its_line() -> None:
    lines: Lines[int] = Lines()
    for job, level in enumerate((2, 3, 1, 2, 1)):
        lines.put("a", job, level)
    assert [taken(lines)[1] for _ in range(5)] == [2, 4, 0, 3, 1]


def test_a_higher_level_of_one_line_takes_nothing_from_another() -> None:
    lines: Lines[int] = Lines()
    for job in range(10):
        lines.put("a", job, 1)
        lines.put("b", job, 2)
    assert served(lines, 10, {"a": 1.0, "b": 1.0}).count("b") == 5


def test_what_is_discarded_is_not_taken() -> None:
    lines: Lines[int] = Lines()
    for job in range(6):
        lines.put("a", job, level=1 + job % 2)
    lines.discard("a", lambda job: job < 4)
    lines.discard("a", lambda job: job == 5)
    lines.discard("a", lambda job: job == 4)
    lines.discard("b", lambda job: True)
    lines.put("b", 7)
    assert taken(lines) == ("b", 7)


def test_who_does_not_wait_takes_what_is_there() -> None:
    lines: Lines[int] = Lines()
    assert lines.take(wait=False) is None
    lines.put("a", 1)
    lines.put("a", 2)
    lines.discard("a", lambda job: job == 1)
    assert lines.take(wait=False) == ("a", 2)
    assert lines.take(wait=False) is None


def test_lines_that_must_wait_are_passed_over() -> None:
    lines: Lines[int] = Lines()
    for job, line in enumerate("aab"):
        lines.put(line, job)
    assert lines.take(must_wait=lambda line: line == "a") == ("b", 2)
    assert lines.take(must_wait=lambda line: line == "a") is None
    assert [taken(lines) for _ in range(2)] == [("a", 0), ("a", 1)]


def test_who_had_to_wait_has_saved_nothing_up() -> None:
    lines: Lines[int] = Lines()
    for job in range(40):
        lines.put("a", job)
        lines.put("b", job)
    for _ in range(20):
        assert lines.take(must_wait=lambda line: line == "a")
        lines.charge("b", 1.0)
    assert served(lines, 6, {"a": 1.0, "b": 1.0}).count("a") <= 4


def test_nothing_is_left_of_jobs_that_were_discarded() -> None:
    lines: Lines[int] = Lines()
    for job in range(3):
        lines.put("a", job)
    lines.discard("a", lambda job: job < 2)
    lines.put("b", 3)
    assert [lines.take(wait=False) for _ in range(3)] == [("a", 2), ("b", 3), None]
    assert lines._present.empty()
