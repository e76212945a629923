"""Who holds an instance: told apart by the locks that a process has open, and by nothing else."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import process
from appliance.instance import Instance
from appliance.verbs import holder


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    made = Instance(tmp_path / "nfl")
    made.make()
    return made


@pytest.fixture
def other(instance: Instance) -> Iterator[int]:
    """Another process, that takes the locks of `drain` alone."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        locks = [process.Lock(path) for path in (instance.drain_lock, instance.lock)]
        taken = all(lock.try_acquire() for lock in locks)
        os.write(tell, b"1" if taken else b"0")
        signal.pause()
        os._exit(0)
    os.close(tell)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_nobody_holds_it(instance: Instance) -> None:
    assert holder.parent(instance) is None
    assert holder.draining(instance) is None
    holder.refuse_second(instance)


def test_an_instance_holds_it_with_or_without_a_drain_beside_it(instance: Instance) -> None:
    lock, turn = process.Lock(instance.lock), process.Lock(instance.drain_lock)
    assert lock.try_acquire()
    assert (holder.parent(instance), holder.draining(instance)) == (os.getpid(), None)
    with pytest.raises(holder.AlreadyRuns, match=f"pid {os.getpid()}"):
        holder.refuse_second(instance)
    lock.release()
    assert holder.parent(instance) is None
    assert turn.try_acquire()
    assert (holder.parent(instance), holder.draining(instance)) == (None, os.getpid())
    turn.release()


def test_a_drain_that_works_alone_is_no_instance_and_is_ended(
    instance: Instance, other: int
) -> None:
    assert (holder.parent(instance), holder.draining(instance)) == (None, other)
    holder.refuse_second(instance)
    lock = process.Lock(instance.lock)
    holder.acquire(lock, instance, drain_s=5)
    end = os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
    assert end
    assert end.si_status == signal.SIGTERM, "asked, not killed"
    assert (holder.parent(instance), holder.draining(instance)) == (os.getpid(), None)
    lock.release()


def test_a_drain_beside_an_instance_is_left_alone(instance: Instance, other: int) -> None:
    """Its pid is in both files, but the instance's lock is somebody else's."""
    instance.lock.unlink()
    lock = process.Lock(instance.lock)
    assert lock.try_acquire()
    assert (holder.parent(instance), holder.draining(instance)) == (os.getpid(), other)
    with pytest.raises(holder.AlreadyRuns):
        holder.refuse_second(instance)
    assert os.waitpid(other, os.WNOHANG) == (0, 0)
    lock.release()
