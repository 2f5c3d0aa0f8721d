"""`make bench`: every benchmark in turn. Each prints its table and stores JSON under benchmarks/results/."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("load", "trace", "search", "analyses")


def main() -> int:
    """Run each in a process of its own, so that one's memory and caches do not colour the next."""
    chosen = sys.argv[1:] or BENCHMARKS
    failed = [name for name in chosen if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
