"""The reader of checkpoints under mutated files: each is refused in words, or what it gives is what lies in the file.

A worker opens one file after the other and reads every tensor. It must not crash, hang, or raise anything but
``CheckpointError``; an audit hook sees if it opens another file, imports, compiles or starts anything; and the system
gives it no more memory than it has, but for some room, so that a file that asks for much fails.
"""

from __future__ import annotations

import argparse
import codecs
import json
import multiprocessing
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from elemental.errors import CheckpointError
from elemental.merge.files.checkpoint import Checkpoint, VaeFile

from .mutations import mutate, whole_files

ROOM = 48 << 20
"""Bytes; the least that a mutated length asks for, if believed, is some GB."""
SECONDS_EACH = 20
_HARM = ("exec", "compile", "import", "pickle.", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "marshal.")
_ALLOWED = ("os.fspath", "os.listdir", "os.scandir")


@dataclass
class Figures:
    """What came of an attack.

    Attributes:
        outcomes: How often each.
        failures: What must not happen, with the seed by which it happens again.
        slowest: Seconds.
        most: The largest growth of memory in use, in bytes.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    most: int = 0


def attack(rounds: int, seed: int) -> Figures:
    """Read so many mutated files in a process of their own; if it dies, the next goes on behind that file."""
    figures = Figures()
    start = 0
    context = multiprocessing.get_context("fork")
    while start < rounds:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(sender, seed, start, rounds))
        worker.start()
        sender.close()
        with suppress(EOFError):
            while start < rounds and receiver.poll(SECONDS_EACH):
                outcome, problem, seconds, growth = receiver.recv()
                figures.outcomes[outcome] += 1
                figures.failures += [f"round {start} of seed {seed}: {problem}"] if problem else []
                figures.slowest, figures.most = max(figures.slowest, seconds), max(figures.most, growth)
                start += 1
        worker.kill()
        worker.join()
        if start < rounds:
            figures.failures.append(f"round {start} of seed {seed}: the process died or hung ({worker.exitcode})")
            start += 1
    return figures


def _work(sender: multiprocessing.connection.Connection, seed: int, start: int, rounds: int) -> None:
    torch.set_num_threads(1)
    files = whole_files()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        watch = _Watch()
        for name in ("cp437", "raw_unicode_escape"):  # of names in zip archives, of texts in old pickles
            codecs.lookup(name)
        for name, data in files.items():  # imports what is imported once
            assert _read(Path(folder) / name, data) == "read"
        sys.addaudithook(watch.hear)
        used = _memory()
        resource.setrlimit(resource.RLIMIT_AS, (_memory("size") + ROOM, resource.RLIM_INFINITY))
        for index in range(start, rounds):
            name, data = mutate(files, random.Random(f"{seed} {index}"))
            path = Path(folder) / name
            problem, began = "", time.perf_counter()
            with path.open("wb") as file:
                file.write(data)
            watch.allowed = str(path)
            try:
                outcome = _read(path, data)
            except CheckpointError as exc:
                outcome = "refused"
                if isinstance(exc.__cause__, MemoryError) or name not in str(exc):
                    problem = f"{name}: {exc}"
            except BaseException as exc:
                outcome, problem = "failed", f"{name}: {type(exc).__name__}: {exc}"
            problem = problem or ", ".join(watch.heard)
            watch.allowed, watch.heard = "", []
            sender.send((outcome, problem, time.perf_counter() - began, _memory() - used))


def _read(path: Path, data: bytes) -> str:
    """Open a file, and compare each tensor with the bytes that the file has for it."""
    if not path.exists():
        path.write_bytes(data)
    with Checkpoint(path) as checkpoint:
        places = _places(data) if path.suffix == ".safetensors" else None
        for key, info in checkpoint.tensors.items():
            tensor = checkpoint.tensor(key)
            if tuple(tensor.shape) != info.shape or tensor.numel() != info.numel or info.nbytes > len(data):
                raise AssertionError(f"{key} is not as its header says")
            content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            inside = data[slice(*places[key])] == content if places else info.nbytes < 8 or content[:8] in data
            if not inside:
                raise AssertionError(f"{key} is not what lies in the file")
        with suppress(CheckpointError):
            _ = checkpoint.architecture
    with suppress(CheckpointError):
        VaeFile(path).close()
    return "read"


def _places(data: bytes) -> dict[str, tuple[int, int]]:
    """Read a safetensors header in the plainest way."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    return {
        key: (8 + size + entry["data_offsets"][0], 8 + size + entry["data_offsets"][1])
        for key, entry in header.items()
        if key != "__metadata__"
    }


class _Watch:
    """Hears what Python tells of a process: files that are opened, code that is run."""

    def __init__(self) -> None:
        self.allowed = ""
        self.heard: list[str] = []

    def hear(self, event: str, arguments: Sequence[object]) -> None:
        if not self.allowed:
            return
        if event == "open":
            path = arguments[0]
            if isinstance(path, int) or os.fspath(str(path)) == self.allowed:
                return
            self.heard.append(f"it opened {path!r}")
        elif event.startswith(_HARM) and event not in _ALLOWED:
            self.heard.append(f"{event} {arguments!r:.80}")


def _memory(what: str = "resident") -> int:
    size, resident = Path("/proc/self/statm").read_text().split()[:2]
    return int(size if what == "size" else resident) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    figures = attack(args.rounds, args.seed)
    print(f"{args.rounds:,} files in {time.monotonic() - began:.0f} s: {dict(figures.outcomes)}")
    print(f"slowest {figures.slowest * 1000:.0f} ms; memory grew by {figures.most / 1e6:.1f} MB at most")
    print(f"{len(figures.failures)} failures", *figures.failures[:20], sep="\n")
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
