"""How often does a kill -9 of Postgres lose something or leave something half-done? (Wanted: never.)

    python -m benchmarks.chaos.postgres [--rounds 10] [--seed 1] [--again]

As benchmarks.chaos.graph, but what is killed is Postgres with all its processes; the projection is in the embedded graph
server, which goes on. Rounds are stored one by one in benchmarks/results/chaos-postgres.json.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.chaos import rounds, servers


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="forget the rounds that are stored")
    asked = parser.parse_args()

    def play(number, seed, folder, told) -> None:
        with servers.postgres_server(folder) as (settings, kill):
            rounds.run(settings, kill, number, seed, folder, told)

    about = {"server": "postgres", "graph": "embedded", "load_seconds_at_most": rounds.SECONDS}
    return rounds.report("chaos-postgres", about, asked.rounds, asked.seed, asked.again, play)


if __name__ == "__main__":
    sys.exit(main())
