"""How often does a kill -9 of the graph server lose something or leave something half-done? (Wanted: never.)

    python -m benchmarks.chaos.graph --server embedded|neo4j [--rounds 50] [--seed 1] [--again]

Each round loads random circuits through `Atlas`, kills the server at a random moment (every third time the loading process
too), starts it again and compares: every acknowledged write is there, what is `ready` is complete before anything is healed,
and after healing the whole projection equals a recompute. Rounds are stored one by one in
benchmarks/results/chaos-graph-SERVER.json; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.chaos import rounds, servers

SERVERS = {"embedded": servers.embedded_server, "neo4j": servers.neo4j_server}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", choices=SERVERS, required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="forget the rounds that are stored")
    asked = parser.parse_args()

    def play(number, seed, folder, told) -> None:
        with SERVERS[asked.server](folder) as (settings, kill):
            rounds.run(settings, kill, number, seed, folder, told)

    about = {"server": asked.server, "catalog": "sqlite", "load_seconds_at_most": rounds.SECONDS}
    return rounds.report(f"chaos-graph-{asked.server}", about, asked.rounds, asked.seed, asked.again, play)


if __name__ == "__main__":
    sys.exit(main())
