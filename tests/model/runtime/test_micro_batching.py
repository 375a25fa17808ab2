import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from skylight.model.runtime.micro_batching import MicroBatcher
from tests.support.label_studio_double import wait_until


class Machine:
    """Doubles numbers once it is let; refuses those of a call with a 0."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.calls: list[list[int]] = []

    def __call__(self, numbers: list[int]) -> list[int]:
        self.calls.append(list(numbers))
        self.let.wait(20)
        if 0 in numbers:
            raise ValueError("a zero")
        return [2 * number for number in numbers]


def test_what_comes_while_it_is_busy_goes_in_together():
    machine = Machine()
    together = MicroBatcher(machine, 3)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, 1)
        wait_until(lambda: machine.calls)
        rest = [pool.submit(together, number) for number in range(2, 8)]
        wait_until(lambda: len(together._waiting) == 6)
        machine.let.set()
        assert [first.result(20), *(each.result(20) for each in rest)] == [2 * number for number in range(1, 8)]
    assert [len(call) for call in machine.calls] == [1, 3, 3]
    assert together._waiting == []


def test_an_error_reaches_those_of_its_call_alone():
    machine = Machine()
    together = MicroBatcher(machine, 2)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, 1)
        wait_until(lambda: machine.calls)
        rest = []
        for count, number in enumerate((2, 0, 3), 1):
            rest.append(pool.submit(together, number))
            wait_until(lambda count=count: len(together._waiting) == count)
        machine.let.set()
        assert first.result(20) == 2 and rest[2].result(20) == 6
        for each in rest[:2]:
            with pytest.raises(ValueError, match="a zero"):
                each.result(20)
    assert together(4) == 8
