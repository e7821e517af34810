#!/bin/sh
# Run a command and tell somebody how it ended, with its last lines, as at the end of a CI job or from cron:
#
#     VESSAGES_PASSWORD=… sh tell.sh 192.168.1.5 5000 alice,bob make test
#
# It needs copies of client.py and protocol.py beside it, and an account named ci: made with /register ci in client.py.
# To everybody: '*' instead of names. What the command writes is written as ever, and the exit status is that of the
# command, whoever could be told.

if [ $# -lt 4 ]; then
    echo "Start it like this: VESSAGES_PASSWORD=… sh tell.sh 192.168.1.5 5000 alice,bob make test" >&2
    exit 2
fi
host=$1 port=$2 to=$3
shift 3
folder=$(dirname "$0")
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

"$@" >"$log" 2>&1
status=$?
cat "$log"
if [ -z "$VESSAGES_PASSWORD" ]; then
    echo "tell.sh: nobody is told: VESSAGES_PASSWORD is to be the password of ci" >&2
    exit $status
fi
{
    echo "$*: exit status $status"
    tail -n 5 "$log"
} | "${PYTHON:-python3}" "$folder/client.py" "$host" "$port" --user ci --to "$to" >&2
exit $status
