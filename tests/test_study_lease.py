"""The lease of a store: one holder at a time, and what becomes of it when a holder dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from jaxperturb.errors import OutputError, StoreInUseError
from jaxperturb.study import lease as module
from jaxperturb.study.lease import lease_path, read_holder, take


@pytest.fixture
def store(tmp_path):
    return tmp_path / "results.sqlite"


@pytest.fixture
def own(store):
    """A holder of this process, which holds nothing."""
    lease = take(store)
    found = read_holder(store)
    lease.release()
    return found


def write(store, holder):
    lease_path(store).write_text(json.dumps(asdict(holder)))


def seconds_ago(seconds):
    return time.time() - seconds


def test_a_lease_is_a_file_while_it_is_held(store):
    lease = take(store)
    holder = read_holder(store)
    assert (holder.pid, holder.is_gone()) == (os.getpid(), False)
    assert abs(holder.beat - time.time()) < 60
    lease.release()
    assert list(store.parent.iterdir()) == []
    assert read_holder(store) is None


def test_a_second_one_is_refused_and_told_who_holds_it_and_since_when(store):
    lease = take(store)
    since = read_holder(store).since
    with pytest.raises(StoreInUseError) as caught:
        take(store)
    message = str(caught.value)
    assert f"{store} is being written by another run (process {os.getpid()} on " in message
    assert f", since {since})" in message
    assert "\n" not in message
    lease.release()
    take(store).release()


@pytest.mark.parametrize("silent", [0, 30, 89, -30])
def test_one_of_another_host_counts_until_it_is_silent_for_90_seconds(store, own, silent):
    write(store, replace(own, host="elsewhere", machine="another", beat=seconds_ago(silent)))
    with pytest.raises(StoreInUseError, match=r"on elsewhere, since .* it is given up after 90 s"):
        take(store)


@pytest.mark.parametrize("silent", [91, 10_000, -10_000])
def test_one_of_another_host_that_is_silent_is_taken_over(store, own, silent):
    write(store, replace(own, host="elsewhere", machine="another", beat=seconds_ago(silent)))
    lease = take(store)
    assert read_holder(store).host == own.host
    lease.release()


def test_a_dead_process_of_this_host_frees_it_at_once(store):
    code = f"from pathlib import Path; from jaxperturb.study.lease import take; take(Path({str(store)!r})); print(); input()"
    holding = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holding.stdout.readline()
    with pytest.raises(StoreInUseError, match=f"process {holding.pid} on "):
        take(store)
    holding.send_signal(signal.SIGKILL)
    time.sleep(0.2)
    # It is dead, though nobody has fetched its end: its number is still there.
    lease = take(store)
    assert read_holder(store).pid == os.getpid()
    lease.release()
    holding.communicate()


def test_a_later_process_of_the_same_number_is_not_its_holder(store, own):
    write(store, replace(own, process="12345"))
    take(store).release()


def test_a_sleeping_process_of_this_host_keeps_it(store, own):
    write(store, replace(own, beat=seconds_ago(10_000)))
    with pytest.raises(StoreInUseError):
        take(store)


def test_one_whose_lease_was_taken_over_notices_and_leaves_it_alone(store, own):
    lease = take(store)
    lease.check()
    other = replace(own, token="other", host="elsewhere")
    write(store, other)
    with pytest.raises(StoreInUseError, match="taken over by another run .* on elsewhere"):
        lease.check()
    lease.release()
    assert read_holder(store) == other


def test_signs_of_life_are_renewed_but_never_over_anothers_lease(store, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    lease = take(store)
    first = read_holder(store)
    for _ in range(500):
        if read_holder(store).beat > first.beat:
            break
        time.sleep(0.01)
    later = read_holder(store)
    assert replace(later, beat=first.beat) == first
    assert later.beat > first.beat
    other = replace(first, token="other", beat=0.0)
    for _ in range(20):  # a beat may have looked just before; who takes over settles and looks again for that reason
        module._replace(lease_path(store), other)
        time.sleep(0.1)
        if read_holder(store).token == other.token:
            break
    time.sleep(0.2)
    assert read_holder(store) == other
    lease.release()


def test_of_many_that_want_it_at_once_one_gets_it(store, own):
    write(store, replace(own, machine="another", beat=0.0))  # a dead one, for all to take over
    start, got = threading.Barrier(8), []

    def want():
        start.wait()
        try:
            got.append(take(store))
        except StoreInUseError:
            got.append(None)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lease,) = (one for one in got if one is not None)
    lease.check()
    lease.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": "x"}'])
def test_a_lease_that_cannot_be_read_is_given_up_when_it_is_old(store, monkeypatch, content):
    monkeypatch.setattr(module, "_SETTLE_SECONDS", 0.001)
    path = lease_path(store)
    path.write_text(content)
    with pytest.raises(StoreInUseError):
        take(store)
    os.utime(path, (0, 0))
    take(store).release()
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OutputError, match=r"writer cannot be written: "):
        take(tmp_path / "missing" / "results.sqlite")
