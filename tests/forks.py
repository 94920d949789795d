"""Runs scripts in forked processes, which share what this one has imported; and compares what they print."""

import contextlib
import io
import os
import pickle
import shlex
import traceback
from pathlib import Path

import torch._dynamo  # noqa: F401 - what the first optimizer of a process imports takes seconds
from accumcheck.auditing import audit
from accumcheck.scripts.execute import execute

with contextlib.suppress(ImportError):
    import sklearn.datasets  # noqa: F401 - so does what many scripts import

SCRIPTS = Path(__file__).parent / "scripts"


def in_fork(call, *arguments, **options):
    """The result of a call in a forked process, and what was printed there."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                result = call(*arguments, **options)
            answer = pickle.dumps((result, printed.getvalue()))
        except BaseException:
            answer = pickle.dumps((None, traceback.format_exc()))
        with os.fdopen(write, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(answer)


def audited(script, *arguments, **options):
    """The JSON form of the report on a script."""
    return audit(str(script), arguments, **options).as_dict()


def of_set(name, line, **options):
    """The report on a script of a set, named with its arguments, and what it printed."""
    script, *arguments = shlex.split(line)
    return in_fork(audited, SCRIPTS / name / script, *arguments, **options)


def plain(name, line):
    """What a script prints that nobody watches."""
    script, *arguments = shlex.split(line)
    return in_fork(lambda: execute(str(SCRIPTS / name / script), arguments)[0])[1]
