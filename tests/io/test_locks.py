# SPDX-License-Identifier: Apache-2.0
"""Locks of folders, exclusive and shared."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from regplugins.io import folder_lock

pytest.importorskip("fcntl", reason="the operating system has no such locks")

HOLD = """
import sys, time
from pathlib import Path
from regplugins.io import folder_lock
with folder_lock(Path(sys.argv[1])) as is_held:
    print(is_held, flush=True)
    time.sleep(100)
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with folder_lock(tmp_path) as first, folder_lock(tmp_path) as second:
        assert (first, second) == (True, False)
    with folder_lock(tmp_path) as again:
        assert again


def test_shared_holders_keep_out_those_that_want_it_alone(tmp_path: Path) -> None:
    hold = partial(folder_lock, tmp_path)
    with hold(shared=True) as one, hold(shared=True) as other, hold() as alone:
        assert (one, other, alone) == (True, True, False)
    with folder_lock(tmp_path) as alone:
        assert alone


def test_holders_share_for_one_purpose(tmp_path: Path) -> None:
    hold = partial(folder_lock, tmp_path, shared=True)
    with hold(purpose="a") as one, hold(purpose="b") as other, hold(purpose="a") as third:
        assert (one, other, third) == (True, False, True)
    with hold(purpose="b") as now:
        assert now


def test_an_unused_folder_is_not_left_behind(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path / "a/b"):
        (tmp_path / "a/b/result").touch()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["result"]


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with folder_lock(tmp_path) as is_held:
            assert not is_held
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    with folder_lock(tmp_path) as is_held:
        assert is_held
