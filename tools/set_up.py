"""Make `.venv` ready: create it, install the dependencies, build and install Tenantry.

Run by `make setup`. Each step is skipped when its inputs have not changed, so that a second run
takes no time and needs no network. Written so that an old Python can still read this file and say
that it is too old.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "set-up.json"
LOG = VENV / "set-up.log"
OLDEST = (3, 11)
VERSION = "{}.{}".format(*sys.version_info)


class Lacking(Exception):
    """Set-up cannot go on; the text is one sentence about what is missing."""


def say(text):
    """A line of progress."""
    print("  " + text, flush=True)


def check_python():
    """This Python must be new enough and able to make virtual environments."""
    if sys.version_info < OLDEST:
        raise Lacking(
            f"Tenantry needs Python 3.11 or newer and this is {VERSION}: name a newer one with "
            "`make setup PYTHON=python3.12`."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Lacking(
            "This Python cannot make virtual environments: install its venv module "
            "(Debian and Ubuntu: python3-venv)."
        ) from None


def run(command, failed, progress=None):
    """Run a command with its output in the log; on failure raise what `failed` makes of it."""
    environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PYTHONPATH", None)  # `PYTHONPATH=. make test` must not disturb the build
    heard = []
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout:
            heard.append(line)
            if progress is not None:
                progress(line.strip())
    if LOG.parent.exists():
        with LOG.open("a") as log:
            log.writelines(["$ ", " ".join(str(part) for part in command), "\n", *heard, "\n"])
    if process.returncode != 0:
        raise failed("".join(heard))
    return "".join(heard)


def digest(*paths, extra=""):
    """One hash over file names and contents."""
    total = hashlib.sha256(extra.encode())
    for path in sorted(paths):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def make_environment():
    """Create the virtual environment unless a usable one of this Python version is there."""
    ask = "import sys, pip; print(*sys.version_info[:2], sys.prefix, sep='\\n')"
    if PYTHON.exists():
        seen = subprocess.run([str(PYTHON), "-c", ask], capture_output=True, text=True)
        if seen.stdout.splitlines() == [*VERSION.split("."), str(VENV)]:
            return
        say("the environment in .venv is broken, moved or of another Python; making it anew")
        shutil.rmtree(VENV)
    say(f"making a virtual environment in .venv (Python {VERSION})")
    run(
        [sys.executable, "-m", "venv", VENV],
        lambda _: Lacking(
            "The virtual environment cannot be made: install Python's venv module "
            f"(Debian and Ubuntu: python3-venv) and check that {ROOT} can be written."
        ),
    )


def requirements(dev):
    """What to install, as pyproject.toml lists it."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = project["build-system"]["requires"] + project["project"]["dependencies"]
    return found + (project["project"]["optional-dependencies"]["dev"] if dev else [])


def install_dependencies(stamp, dev):
    """Install the pinned dependencies; the only step that needs a network."""
    key = digest(ROOT / "constraints.txt", extra=json.dumps(requirements(dev)))
    if key in (stamp.get("dependencies"), stamp.get("dependencies with dev")):
        return
    wanted = requirements(dev)
    say("installing dependencies (the first time: a minute or two, and it needs the network)")
    count = 0

    def progress(line):
        nonlocal count
        if line.startswith(("Collecting", "Processing")):
            count += 1
            if sys.stdout.isatty():
                print(f"\r    {count:3d}  {line.split()[1]:60.60s}", end="", flush=True)
        if line.startswith("Installing collected packages") and count:
            if sys.stdout.isatty():
                print("\r" + " " * 72 + "\r", end="")
            say(f"unpacking {line.count(',') + 1} packages")

    def failed(output):
        errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
        return Lacking(
            "The dependencies cannot be installed; the first set-up needs the network to reach the "
            f"package index. pip says: {(errors or ['nothing'])[0]} (more in {LOG})"
        )

    command = [PYTHON, "-m", "pip", "install", "--progress-bar=off"]
    run([*command, "--constraint", ROOT / "constraints.txt", *wanted], failed, progress)
    stamp["dependencies"] = (
        key if not dev else digest(ROOT / "constraints.txt", extra=json.dumps(requirements(False)))
    )
    if dev:
        stamp["dependencies with dev"] = key


def sources():
    """All files that make up the installed Tenantry."""
    folders = ("actors", "admin", "events", "wire")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kept = [path for path in found if path.suffix in (".py", ".sql", ".toml")]
    return [*kept, ROOT / "pyproject.toml", ROOT / "setup.py"]


def install_tenantry(stamp):
    """Build and install Tenantry itself: not editable, so that the compiled build is what runs."""
    import tomllib

    choice = os.environ.get("TENANTRY_COMPILE", "auto")
    compiler = shutil.which(os.environ.get("CC", "cc")) or ""
    key = digest(*sources(), extra=choice + compiler + sys.version)
    if stamp.get("tenantry") == key:
        return
    hot = json.dumps(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["tenantry"])
    present = hot + str([path.name for path in sources()])
    if stamp.get("layout") != present:
        shutil.rmtree(ROOT / "build", ignore_errors=True)  # leftovers would end up in the wheel
    say("building Tenantry" + (" (compiling takes a minute or two)" if choice != "0" else ""))

    def progress(line):
        if line.startswith("tenantry: "):
            say("  " + line.partition(": ")[2])
        elif ": error: " in line:
            say("  " + line)

    command = [PYTHON, "-m", "pip", "install", "--verbose", "--no-index", "--no-deps"]
    run(
        [*command, "--no-build-isolation", "--force-reinstall", ROOT],
        lambda _: Lacking(f"Building Tenantry failed: see the end of {LOG}."),
        progress,
    )
    stamp["tenantry"] = key
    stamp["layout"] = present


def main():
    """Do what is not done yet."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dev", action="store_true", help="also what tests and lint need")
    dev = options.parse_args().dev
    started = time.monotonic()
    try:
        check_python()
        make_environment()
        with (VENV / "set-up.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # `make test` beside `make demo`: one at a time
            stamp = json.loads(STAMP.read_text()) if STAMP.exists() else {}
            before = dict(stamp)
            for step in (lambda: install_dependencies(stamp, dev), lambda: install_tenantry(stamp)):
                step()
                STAMP.write_text(json.dumps(stamp, indent=1))
    except Lacking as lacking:
        print("tenantry: " + str(lacking), file=sys.stderr)
        sys.exit(1)
    except PermissionError as error:
        print(f"tenantry: {error.filename} cannot be written by this user.", file=sys.stderr)
        sys.exit(1)
    if stamp != before:
        say(f"ready after {time.monotonic() - started:.0f} s: .venv/bin/tenantry")


if __name__ == "__main__":
    main()
