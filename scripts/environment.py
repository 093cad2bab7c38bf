"""Runs a script in the project's own environment, .venv, made on first use.

Every script here begins with ``environment.enter("test")``. That call returns at once inside the
finished environment; anywhere else it finds a Python that is new enough, makes .venv, installs
minilm with the extras named, and starts the script again in there. Nothing but Python is needed,
and this file runs on any Python 3, to be able to say that a newer one is wanted.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

OLDEST = (3, 10)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")


def enter(extras=""):
    """Makes sure that the running process is .venv's Python with ``minilm[extras]`` installed."""
    ready = _ready_file(extras)
    if os.path.exists(ready):
        if os.path.realpath(sys.prefix) == os.path.realpath(VENV):
            return
    else:
        _install(extras, ready)
    os.execv(PYTHON, [PYTHON] + sys.argv)


def _ready_file(extras):
    """A file that exists once everything is installed; its name changes with what is to be installed."""
    digest = hashlib.sha256(extras.encode())
    for name in ("setup.cfg", "pyproject.toml", os.path.join("scripts", "constraints.txt")):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return os.path.join(VENV, "ready-" + digest.hexdigest()[:16])


def _install(extras, ready):
    try:
        lock = open(os.path.join(ROOT, ".venv.lock"), "w")
    except OSError as error:
        sys.exit("cannot write in %s: %s. Clone the project to a folder that you may write." % (ROOT, error.strerror))
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _say("Another process is setting up .venv; waiting for it …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(ready):
            return
        python = _find_python()
        _say("Setting up .venv with %s; this happens once and takes a minute or more …" % python)
        if not _works(PYTHON):
            shutil.rmtree(VENV, ignore_errors=True)
            _run(
                [python, "-m", "venv", VENV],
                "the environment could not be made. On Debian and Ubuntu: apt install python3-venv",
            )
        package = ROOT + ("[%s]" % extras if extras else "")
        constraints = os.path.join(ROOT, "scripts", "constraints.txt")
        _run(
            [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
            + ["--constraint", constraints, "--editable", package],
            "the packages could not be installed",
        )
        with open(ready, "w"):
            pass


def _find_python():
    for candidate in [os.environ.get("PYTHON"), sys.executable, "python3"] + [
        "python3.%d" % i for i in range(14, 9, -1)
    ]:
        path = candidate and shutil.which(candidate)
        if path and _works(path):
            return path
    sys.exit(
        "minilm needs Python %d.%d or newer; this is %d.%d and no newer one was found. "
        "Install one, or name it: PYTHON=/path/to/python %s" % (OLDEST + sys.version_info[:2] + (sys.argv[0],))
    )


def _works(python):
    try:
        check = "import sys; sys.exit(sys.version_info < %r)" % (OLDEST,)
        return subprocess.call([python, "-c", check], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def _run(command, what):
    """Runs a command; shows its output as it comes on a terminal, and otherwise only if it fails."""
    lines = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    for line in process.stdout:
        lines.append(line)
        if sys.stderr.isatty():
            sys.stderr.write(line)
    if process.wait() == 0:
        return
    output = "".join(lines).strip()
    reason = "see above"
    if "No space left" in output:
        reason = "the disk is full; about 2 GB are needed"
    elif "Errno 13" in output or "Permission denied" in output:
        reason = "a file may not be written"
    elif any(sign in output for sign in ("Connection", "resolve", "timed out", "No matching distribution", "Network")):
        reason = (
            "the package index cannot be reached, or does not have it; check the network, a proxy, or PIP_INDEX_URL"
        )
    if not sys.stderr.isatty():
        _say(output)
    sys.exit("\nFailed: %s\n%s: %s" % (" ".join(command), what, reason))


def _say(text):
    print(text, file=sys.stderr, flush=True)
