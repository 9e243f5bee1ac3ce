#!/bin/sh
# Starts three nodes of one PostgreSQL database on this machine, to try it: packaging/three-nodes.sh postgres://… [directory]
# One of them leads; the others pass requests on to it, make attempts for it, and take its place when it goes. Ctrl-C ends
# all. POSTRIDER names the binary where it is not on the PATH.
set -eu
url=${1:?a database is needed: $0 postgres://user@host/database [directory]}
directory=${2:-./postrider-nodes}
binary=${POSTRIDER:-postrider}
umask 077
mkdir -p "$directory"
# The same one for all: without it no node opens what the others have sealed.
key=$directory/master.key
[ -e "$key" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$key"
nodes=
trap 'kill $nodes 2>/dev/null; wait' EXIT
trap 'exit 0' INT TERM
for port in ${PORTS:-8081 8082 8083}; do
    mkdir -p "$directory/$port"
    POSTRIDER__STORE__URL=$url POSTRIDER__NODES__URL=http://127.0.0.1:$port POSTRIDER__SECRETS__MASTER_KEY_FILE=$key \
        "$binary" serve --listen "127.0.0.1:$port" --data "$directory/$port" &
    nodes="$nodes $!"
    # The first makes the tables and the root key before the others come.
    tries=0
    until "$binary" health --server "http://127.0.0.1:$port" > /dev/null 2>&1; do
        tries=$((tries + 1))
        kill -0 $! 2>/dev/null && [ "$tries" -lt 300 ] || { echo "the node at port $port does not answer" >&2; exit 1; }
        sleep 0.1
    done
done
echo "Three nodes answer. Try: kill -9 one of$nodes, and publish to another."
wait
