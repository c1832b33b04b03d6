"""Work on several cores, interrupted."""

import os
import signal

import pytest

from nmsim.support import parallel


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_no_lock_of_the_pool_can_stay_locked(number):
    ended, held = [], []

    def work(item):
        held.append(signal.getsignal(number) is not leave)
        if item == 0:
            os.kill(os.getpid(), number)
        ended.append(item)
        return item

    def leave(number, frame):
        raise SystemExit(128 + number)

    before = signal.signal(number, leave)
    try:
        with pytest.raises(SystemExit):
            parallel.run(work, range(40), threads=3)
        assert signal.getsignal(number) is leave
    finally:
        signal.signal(number, before)
    assert all(held)
    assert sorted(ended) == list(range(40))
    assert parallel.run(work, range(1, 40), threads=3) == list(range(1, 40))
