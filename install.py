"""Install the packages that the extension needs and the WebUI lacks, without changing any other package.

The WebUI runs this file with its Python, in a separate process, each time before it starts.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

NEEDED = ("platformdirs", "tqdm", "cmaes")
"""The packages that a WebUI may lack. It always has the others, some of them under other names."""

TIMEOUT = 300
"""Seconds that pip may take."""


def missing_packages() -> list[str]:
    """List the needed packages that are not installed."""
    missing = []
    for name in NEEDED:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def install(names: list[str]) -> None:
    """Install packages without their dependencies, so that no version of another package changes.

    Raises:
        OSError: pip could not be started, failed, or took too long.
    """
    index = os.environ.get("INDEX_URL")  # the same variable as the WebUI's own installer
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", "--retries", "1"]
    command += ["--timeout", "15", *(["--index-url", index] if index else []), *names]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.CalledProcessError as exc:
        lines = (exc.stderr or exc.stdout or "").strip().splitlines()
        raise OSError(lines[-1] if lines else f"pip ended with exit code {exc.returncode}") from exc
    except subprocess.TimeoutExpired as exc:
        raise OSError(f"pip took more than {TIMEOUT} seconds") from exc


def main() -> None:
    """Install what is missing; the WebUI starts in any case."""
    names = missing_packages()
    if not names:
        return
    try:
        install(names)
    except OSError as exc:
        show(f"could not install {', '.join(names)} ({exc}); the tab will say what is missing.")
    else:
        show(f"installed {', '.join(names)}.")


def show(text: str) -> None:
    """Write a line to the WebUI's console."""
    sys.stdout.write(f"Elemental: {text}\n")


if __name__ == "__main__":
    main()
