"""The recorded fetches of an op, and the race that runs once, before the fetch that it names."""

from hvfuzz.machine.fetches import Fetches


def test_the_action_runs_once_before_its_fetch() -> None:
    fetches = Fetches()
    order: list[str] = []
    fetches.arm(2, lambda: order.append("race"))
    for number in range(4):
        fetches.before()
        order.append(f"fetch {number}")
    assert order == ["fetch 0", "fetch 1", "race", "fetch 2", "fetch 3"]
    assert fetches.count == 4


def test_an_action_may_fetch_itself() -> None:
    fetches = Fetches()
    runs: list[int] = []

    def race() -> None:
        runs.append(fetches.count)
        fetches.before()

    fetches.arm(0, race)
    fetches.before()
    fetches.before()
    assert runs == [1]
    assert fetches.count == 3


def test_reset_disarms_and_forgets() -> None:
    fetches = Fetches()
    fetches.arm(1, lambda: None)
    fetches.before()
    fetches.record(3, 0x1000, 0x2000, 8)
    assert fetches.log == [(3, 0x1000, 0x2000, 8)]
    log = fetches.log
    fetches.reset()
    assert fetches.log is log
    assert (fetches.count, fetches.log, fetches.action, fetches.trigger) == (0, [], None, -1)
    fetches.before()
    fetches.before()
    assert fetches.count == 2
