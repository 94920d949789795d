import subprocess
import sys

from accumcheck.ranks.watchdog import read_hang

CODE = """
import sys, time
from pathlib import Path
from accumcheck.ranks.watchdog import Watchdog

def waits(seconds):
    time.sleep(seconds)

watch = Watchdog(Path(sys.argv[1]))
with watch.limit(5, "the first block"):
    pass
with watch.limit(0.1, "train at n=7", ": look for a barrier"):
    waits(float(sys.argv[2]))
"""


def end_of(path, seconds):
    script = path.parent / "script.py"
    script.write_text(CODE)
    return subprocess.run([sys.executable, str(script), str(path), seconds], timeout=60, check=False).returncode


def test_a_block_that_hangs_ends_the_process_and_says_where(tmp_path):
    path = tmp_path / "hang"
    assert end_of(path, "50") == 1
    assert read_hang(path) == (
        "train at n=7 did not end within 0.1 seconds: look for a barrier; it hangs at script.py:7, in waits"
    )


def test_a_block_that_ends_says_nothing(tmp_path):
    path = tmp_path / "hang"
    assert end_of(path, "0") == 0
    assert read_hang(path) is None


def test_the_place_is_in_the_loop_on_the_main_thread(tmp_path):
    path = tmp_path / "hang"
    path.write_text(
        "train did not end within 1 seconds\n"
        "Timeout (0:00:01.500000)!\n"
        "Thread 0x0000000000000001 (most recent call first):\n"
        '  File "/home/me/other.py", line 3 in poll\n'
        "\n"
        "Thread 0x0000000000000002 (most recent call first):\n"
        f'  File "{subprocess.__file__}", line 5 in wait\n'
        '  File "/home/me/my_loop.py", line 7 in train\n'
    )
    assert read_hang(path) == "train did not end within 1 seconds; it hangs at my_loop.py:7, in train"
