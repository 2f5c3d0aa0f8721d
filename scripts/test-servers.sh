#!/usr/bin/env bash
# Gets what the server and browser suites need: Java, Maven, Neo4j, Postgres, Chromium, Node. Through apt where this runs as root on
# Debian, Neo4j through Docker where there is no Java; else one line per suite says what is missing. In CI a missing part fails.
set -u
jars=${NEO4J_JARS:-.cache/neo4j/lib}
missing=0

have() { command -v "$1" >/dev/null 2>&1; }

lacks() {
  echo "not tested here: $1 ($2)" >&2
  missing=1
}

wanted=()
have java || wanted+=(openjdk-17-jre-headless)
have mvn || wanted+=(maven)
have chromium || have chromium-browser || have google-chrome || [ -n "${CHROMIUM:-}" ] || wanted+=(chromium)
have node || wanted+=(nodejs)
have_postgres() { have initdb || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; }
have_postgres || wanted+=(postgresql)
if [ ${#wanted[@]} -gt 0 ] && have apt-get && [ "$(id -u)" = 0 ]; then
  echo "installing for the tests: ${wanted[*]}"
  apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "${wanted[@]}" >/dev/null ||
    echo "apt-get could not install ${wanted[*]}" >&2
fi

if [ ! -e "$jars/.complete" ]; then
  if have java && have mvn; then
    echo "getting Neo4j 5.26 (123 MB) ..."
    mkdir -p "$jars"
    if mvn -q -B -f tests/servers/neo4j/pom.xml dependency:copy-dependencies -DoutputDirectory="$PWD/$jars"; then
      touch "$jars/.complete"
    else
      lacks "Neo4j" "Maven could not get org.neo4j:neo4j"
    fi
  elif have docker && docker info >/dev/null 2>&1; then
    # not run on a real Docker engine yet
    compose="docker compose -p atlas-tests -f docker-compose.yml -f docker-compose.tests.yml"
    echo "starting Neo4j in Docker; stop it with: NEO4J_AUTH= $compose down -v"
    mkdir -p .cache/neo4j
    NEO4J_PASSWORD=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
    export NEO4J_AUTH="neo4j/$NEO4J_PASSWORD" NEO4J_PORT=7697
    if $compose up -d --wait neo4j; then
      (umask 077 && echo "bolt://127.0.0.1:$NEO4J_PORT $NEO4J_PASSWORD" >.cache/neo4j/docker)
    else
      lacks "Neo4j" "docker compose could not start it"
    fi
  else
    lacks "Neo4j" "needs Java 17 and Maven, or Docker; on Debian as root they are installed for you"
  fi
fi
have chromium || have chromium-browser || have google-chrome || [ -n "${CHROMIUM:-}" ] ||
  lacks "the pages in a browser" "needs Chromium; set CHROMIUM to its path"
have_postgres || lacks "the catalog on Postgres" "needs Postgres: install the package postgresql"
have node || lacks "the canvas layout" "needs Node.js"

[ "$missing" = 0 ] || [ -z "${CI:-}" ]
