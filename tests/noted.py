"""A case of an experiment that notes in a folder when it is begun and when it is done."""

import os
import time
from pathlib import Path


def measure(number, folder, pause=0.05):
    """One row; what is noted is the number, and behind it the process."""
    with (Path(folder) / "begun").open("a") as file:
        file.write(f"{number}\n")
    time.sleep(pause)
    with (Path(folder) / "done").open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    return [{"number": number, "square": number**2}]
