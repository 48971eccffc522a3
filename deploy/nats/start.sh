#!/bin/sh
# start.sh CONFIGURATION: nats-server with what its configuration takes from the environment. The
# password comes from a file, and is not in the arguments, which everybody on the machine can read.
#
# NATS_PASSWORD_FILE  the password of clients and of routes: letters and digits
# NATS_NODES          host:port of the three servers' routes
set -eu

password=$(cat "$NATS_PASSWORD_FILE")
# In quotes, because the configuration would take digits for a number.
export NATS_PASSWORD="\"$password\""

number=1
for node in $NATS_NODES; do
  # A route does not log in with the password of `authorization` by itself.
  export "NATS_ROUTE_$number=\"nats://route:$password@$node\""
  number=$((number + 1))
done

exec nats-server --config "$1"
