#!/bin/sh
# Asks the base model about five photographs: one name is not given; $1 is the edge-vqa command.
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
ask 0 coffee.jpg "what do you see?"
ask 0 carton.jpg "what is this?"
ask 0 apples.jpg "can you eat it?"
ask 0 skirt.jpg "can I wear it?"
ask 3 lemon.jpg "what is this?"
exit $failed
