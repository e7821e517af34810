"""Plays the same on an older commit and on the present one, and compares all that is seen.

    python tests/tools/differential.py HEAD~1 --seeds 100                    worlds of the simulation
    python tests/tools/differential.py HEAD~1 --seeds 500 --part terminal    the terminal's keys, editor and screen

It is the net under a change that is to change nothing: the first difference is printed with its seed, and the exit code
is 1. Each commit plays in a process of its own. Its worlds are played by its own tests/tools/simulate.py, which knows
the inside of its server: what clients hear and show and what the log says is to be the same, at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
PLAYED = ("vessages.py", "protocol.py", "storage.py", "client.py", "tests/support", "tests/tools/simulate.py")
STEPS = 300  # of a trace of the terminal


def play_world(seed: int) -> Iterator[str]:
    """The story of a world, with the lines of the server's log."""
    import simulate

    def log(server: simulate.Server, *lines: str, told: Callable[..., None] = simulate.Server._log) -> None:
        server.world.trace.extend(lines)
        told(server, *lines)

    with mock.patch.object(simulate.Server, "_log", log):
        try:
            yield from simulate.simulate(**simulate.choose(seed), tracing=True).trace
        except simulate.Violation as violation:
            yield str(violation)


def play_terminal(seed: int) -> Iterator[str]:
    """What a terminal does in a trace."""
    import differential_client

    import client

    limits: dict[str, Any] = differential_client.LIMITS
    with mock.patch.multiple(client, **limits):
        player = differential_client.TerminalPlayer(seed)
        for _ in range(STEPS):
            player.step()
            yield from player.log
            player.log = []


PARTS: dict[str, Callable[[int], Iterator[str]]] = {"world": play_world, "terminal": play_terminal}


@contextlib.contextmanager
def playing(part: str, root: Path, first: int, seeds: int) -> Iterator[Iterator[str]]:
    """A process that plays what is in the folder `root`; the lines that it prints."""
    path = [str(root), str(root / "tests" / "support"), str(root / "tests" / "tools"), str(ROOT / "tests" / "tools")]
    program = f"""if True:
        import sys
        sys.path[:0] = {path!r}
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogatepass")
        import differential
        for seed in range({first}, {first + seeds}):
            print("seed", seed)
            for line in differential.PARTS[{part!r}](seed):
                print(repr(line))
    """
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", errors="surrogatepass") as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def compare(before: Iterator[str], after: Iterator[str]) -> str | int:
    """The first lines that differ, and in which trace; how many lines there were, if none do."""
    seed, count = "", 0
    for was, now in itertools.zip_longest(before, after, fillvalue="(the end)"):
        if was != now:
            return f"{seed.strip()}, line {count}:\n  was {was.strip()[:300]}\n  is  {now.strip()[:300]}"
        seed, count = (was, count) if was.startswith("seed ") else (seed, count + 1)
    return count


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commit", help="the older version, such as HEAD~1")
    parser.add_argument("--part", choices=tuple(PARTS), default="world", help="what is played")
    parser.add_argument("--seeds", type=int, default=100, help="traces that are played")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        archive = ["git", "-C", str(ROOT), "archive", options.commit, *PLAYED]
        files = subprocess.run(archive, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=files, check=True)
        played = options.first, options.seeds
        with playing(options.part, Path(folder), *played) as old, playing(options.part, ROOT, *played) as new:
            outcome = compare(old, new)
    if isinstance(outcome, str):
        print(outcome)
        return 1
    print(f"{options.seeds} traces, {outcome:,} lines: no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
