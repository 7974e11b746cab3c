"""Work ahead of whoever takes its results: in order, bounded, and ended with it."""

import threading

import pytest

from puma.items.ahead import in_order, one_ahead


def drawing(count, size, drawn):
    for number in range(count):
        drawn.append(number)
        yield (lambda number=number: number), size


@pytest.mark.parametrize(
    ("size", "ahead", "held"),
    [(0, 4, 4), (10, 4, 3), (30, 4, 1), (31, 4, 1)],  # of at most 30 bytes
)
def test_results_come_in_order_and_no_more_wait_than_may(size, ahead, held):
    drawn = []
    results = in_order(drawing(20, size, drawn), threads=2, ahead=ahead, bytes_ahead=30)
    for number in range(20):
        assert next(results) == number
        assert len(drawn) <= number + held + 1  # one is drawn to see whether it has room
    assert next(results, None) is None


def test_several_are_worked_on_at_once():
    meeting = threading.Barrier(3, timeout=30)
    assert len(list(in_order([(meeting.wait, 0)] * 6, threads=3))) == 6


def test_what_a_job_raises_comes_at_its_place():
    def failing():
        raise OSError("away")

    results = in_order([(lambda: 1, 0), (failing, 0), (lambda: 3, 0)])
    assert next(results) == 1
    with pytest.raises(OSError, match="away"):
        next(results)


def test_what_is_not_taken_is_not_begun():
    closed, done = [], []

    def jobs():
        try:
            for number in range(1000):
                yield (lambda number=number: done.append(number)), 0
        finally:
            closed.append(True)

    results = in_order(jobs(), threads=1, ahead=4)
    next(results)
    results.close()
    assert closed
    assert len(done) <= 5


def test_one_is_made_ahead_on_another_thread_and_the_maker_is_closed():
    threads, closed = [], []

    def making():
        try:
            for number in range(5):
                threads.append(threading.current_thread())
                yield number
            raise OSError("away")
        finally:
            closed.append(True)

    found = []
    with pytest.raises(OSError, match="away"):
        found.extend(one_ahead(making()))
    assert (found, closed) == ([0, 1, 2, 3, 4], [True])
    assert threading.current_thread() not in threads
    values = one_ahead(making())
    assert next(values) == 0
    values.close()
    assert closed == [True, True]
