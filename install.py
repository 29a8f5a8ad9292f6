"""Install what the extension needs and the WebUI does not have; nothing that it has is changed.

The WebUI runs this with its own Python, in a process of its own, each time before it starts.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

NEEDED = ("platformdirs", "tqdm")
"""What a WebUI may lack. The others it always has, though maybe under other names: those are not to be touched."""

SECONDS = 300
"""The most that pip may take."""


def missing() -> list[str]:
    """List the needed packages that are not installed."""
    found = []
    for name in NEEDED:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return found


def install(names: list[str]) -> None:
    """Install packages without anything that they ask for, so that no version of another one changes.

    Raises:
        OSError: pip could not be started, failed, or took too long.
    """
    index = os.environ.get("INDEX_URL")  # as the WebUI's own installer has it
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", "--retries", "1"]
    command += ["--timeout", "15", *(["--index-url", index] if index else []), *names]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.CalledProcessError as exc:
        lines = (exc.stderr or exc.stdout or "").strip().splitlines()
        raise OSError(lines[-1] if lines else f"pip ended with {exc.returncode}") from exc
    except subprocess.TimeoutExpired as exc:
        raise OSError(f"pip took more than {SECONDS} seconds") from exc


def main() -> None:
    """Install what is missing; the WebUI starts whatever becomes of it."""
    names = missing()
    if not names:
        return
    try:
        install(names)
    except OSError as exc:
        say(f"could not install {', '.join(names)} ({exc}); the tab will say what is missing.")
    else:
        say(f"installed {', '.join(names)}.")


def say(text: str) -> None:
    """Show a line in the WebUI's console."""
    sys.stdout.write(f"Elemental: {text}\n")


if __name__ == "__main__":
    main()
