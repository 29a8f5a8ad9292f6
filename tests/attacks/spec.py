"""The parser of specs under random texts: each gives rules that read back as the same, or a ``SpecError``.

Half of the inputs come from atheris, guided by the lines of the parser that they reach, half from hypothesis; without
atheris (``pip install atheris``; it has no packages for every Python) all come from hypothesis. Texts of 100 KB are
timed besides.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elemental.architectures import blocks
from elemental.errors import SpecError
from elemental.recipe import block_hints, ratio_targets, rule_hints, spec_diagnosis, spec_reader
from elemental.recipe import spec_errors as problems
from elemental.recipe import spec_parser as parser
from elemental.recipe.rules import format_rules
from elemental.recipe.spec_errors import split_lines
from elemental.recipe.spec_parser import parse_rules, parse_targets

ROOT = Path(__file__).parents[2]
LARGE = 100_000
MODULES = (parser, spec_reader, spec_diagnosis, problems, rule_hints, block_hints, ratio_targets, blocks)
TOKENS = (
    "IN00", "in07", "OUT05", "OUT11", "OUT12", "M00", "mid", "BASE", "TE", "VAE", "IN03-OUT02", "OUT02-IN03", "TE-IN00",
    "-", "lora.detail", "LORA.X", "lora.",
    "NOT", "not", "ALL", "attn", "attn2.to_k", "model.diffusion_model.", "0.5", "-1", ".5", "1e-1", "1e999", "nan",
    "+", ":", ":", ":", ",", "\n", "\r\n", "\r", " ", "\t", "#", "\uff1a", "\u00a0", "\u2028", "\x00", "\ud800", "x",
)  # fmt: skip


def check(text: str) -> None:
    """Parse a text both ways."""
    for parse in (parse_rules, parse_targets):
        try:
            found = parse(text)
        except SpecError as error:
            _check_error(error, text)
        else:
            if parse is parse_rules:
                assert parse_rules(format_rules(found)) == found  # type: ignore[arg-type]


def _check_error(error: SpecError, text: str) -> None:
    lines = split_lines(text)
    assert error.problems
    for problem in error.problems:
        span = problem.span
        assert problem.message
        assert span.length >= 1
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1
    assert len(str(error)) < 100 * 1000


def text_of(data: bytes) -> str:
    """Make a text of a fuzzer's bytes: of words of the language, or as they are."""
    if data[:1] < b"\xc0":
        return "".join(TOKENS[byte % len(TOKENS)] for byte in data[1:])
    return data[1:].decode("utf-8", "replace")


texts = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=40).map("".join),
    st.lists(st.sampled_from(TOKENS), max_size=12).map(" ".join),
    st.text(alphabet=st.sampled_from(" ,:\n\r\t#-NOTINUMBASEV0123456789.eattn_\uff1a\u00a0"), max_size=80),
    st.text(max_size=40),
)


def run_hypothesis(rounds: int, seed: int) -> int:
    """Try so many texts; give how many were tried."""
    count = 0

    def counted(text: str) -> None:
        nonlocal count
        count += 1
        check(text)

    settled = settings(max_examples=rounds, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    attack = settled(given(texts)(counted))
    attack._hypothesis_internal_use_seed = seed  # type: ignore[attr-defined]  # what hypothesis.seed sets
    attack()
    return count


def run_atheris(rounds: int, seed: int) -> None:
    """Try so many texts, in this process, which atheris ends."""
    import atheris

    for function in {function for module in MODULES for function in _functions(module)}:
        atheris.instrument_func(function)
    options = [f"-runs={rounds}", f"-seed={seed}", "-max_len=200", "-timeout=1", "-verbosity=0", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options], lambda data: check(text_of(data)))
    atheris.Fuzz()


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """List the functions of a module and of its classes."""
    for value in vars(module).values():
        own = isinstance(value, (type, FunctionType)) and value.__module__ == module.__name__
        for member in (value, *vars(value).values()) if own else ():
            if isinstance(member, FunctionType):
                yield member


def large_texts(seed: int) -> dict[str, str]:
    """Make texts of 100 KB that are slow to read."""
    dice = random.Random(seed)

    def fill(piece: Callable[[], str], separator: str = ",") -> str:
        pieces: list[str] = []
        size = 0
        while size < LARGE:
            pieces.append(piece())
            size += len(pieces[-1]) + len(separator)
        return separator.join(pieces)[:LARGE]

    def number() -> int:
        return dice.randrange(10**6)

    return {
        "one rule again and again": fill(lambda: "OUT05:attn2:0.5"),
        "the shortest rule": fill(lambda: "::1"),
        "short rules, all different": fill(lambda: f":{number():x}:{number() % 999}"),
        "long rules, all different": fill(lambda: f"OUT0{number() % 9}:p{number()}:{dice.random()}"),
        "ranges": fill(lambda: f"IN{number() % 12:02}-OUT{number() % 12:02}", " ") + "::1",
        "unknown blocks": fill(lambda: f"q{number()}::1"),
        "unknown blocks of one rule": fill(lambda: f"q{number()}", " ") + "::1",
        "no colons": fill(lambda: "x"),
        "only colons": ":" * LARGE,
        "empty rules": fill(lambda: "::"),
        "full-width colons": fill(lambda: "\uff1a\uff1a1"),
        "NOT": "NOT " * (LARGE // 4) + "::1",
        "NOT in every place": fill(lambda: "NOT IN00 NOT:NOT a NOT:1"),
        "dashes": "- " * (LARGE // 2) + "::1",
        "a word": "x" * LARGE + "::1",
        "a number": f"::{'1' * LARGE}",
        "commas": "," * LARGE,
        "empty lines": "\r\n" * (LARGE // 2),
        "comments": "#\n" * (LARGE // 2),
        "white space": " " * LARGE,
        "anything": "".join(dice.choices(TOKENS, k=LARGE // 3))[:LARGE],
        "any characters": "".join(map(chr, dice.choices(range(1, 0x3000), k=LARGE))),
    }


def time_large(seed: int) -> list[tuple[float, str]]:
    """Give the seconds of processor time that each large text takes, the best of three, and its name."""
    found = []
    for name, text in large_texts(seed).items():
        seconds = []
        for _ in range(3):
            began = time.process_time()
            for parse in (parse_rules, parse_targets):
                try:
                    parse(text)
                except SpecError as error:
                    str(error)
                seconds.append(time.process_time() - began)
                began = time.process_time()
        found.append((max(min(seconds[::2]), min(seconds[1::2])), name))
    return sorted(found, reverse=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--guided", action="store_true", help="all of them by atheris, in this process")
    args = options.parse_args()
    if args.guided:
        run_atheris(args.rounds, args.seed)
    failures = 0
    rest = args.rounds
    began = time.monotonic()
    if find_spec("atheris") is not None:
        command = [sys.executable, "-m", "tests.attacks.spec", "--guided", "--rounds", str(args.rounds // 2)]
        done = subprocess.run(
            [*command, "--seed", str(args.seed)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        failures += done.returncode != 0
        print(f"atheris: {args.rounds // 2:,} texts in {time.monotonic() - began:.0f} s, exit code {done.returncode}")
        print(done.stderr[-3000:] if done.returncode else "")
        rest -= args.rounds // 2
        began = time.monotonic()
    count = run_hypothesis(rest, args.seed)
    print(f"hypothesis: {count:,} texts in {time.monotonic() - began:.0f} s")
    slowest = time_large(args.seed)
    print("100 KB, ms:", ", ".join(f"{name} {seconds * 1000:.0f}" for seconds, name in slowest[:5]))
    failures += slowest[0][0] > 0.05
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
