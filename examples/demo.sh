#!/bin/sh
# Asks the base model about five photographs; $1 is the edge-vqa command.
set -u
edge_vqa=$1
cd "$(dirname "$0")" || exit 1
failed=0
ask() { # expected status, picture, question
    printf '\n$ edge-vqa ask %s "%s"\n' "$2" "$3"
    "$edge_vqa" ask "$2" "$3"
    status=$?
    [ "$status" -eq "$1" ] || { echo "exit status $status, expected $1"; failed=1; }
}
case $edge_vqa in
    /*) ;;
    *) edge_vqa=../$edge_vqa ;;
esac
ask 0 fruit.png "what is left of the banana?"
ask 0 price.png "how much is it?"
ask 0 cat.jpg "is it an animal?"
ask 3 coffee.jpg "what is this?"
exit $failed
