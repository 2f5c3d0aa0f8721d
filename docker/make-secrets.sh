#!/bin/sh
# Makes the secrets that docker-compose.yml hands to its services, once: what is there already stays as it is.
# The folder is yours alone; the files in it are readable so that the containers' own users can read them.
set -eu
folder=${ATLAS_SECRETS:-"$(dirname "$0")/../secrets"}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

put() { # name, value
  [ -s "$folder/$1" ] || printf '%s' "$2" >"$folder/$1"
  chmod 444 "$folder/$1"
}

put postgres_password "$(random)"
put neo4j_password "$(random)"
put neo4j_auth "neo4j/$(cat "$folder/neo4j_password")"
put metrics_token "$(random)"
echo "secrets are in $folder"
