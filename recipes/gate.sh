#!/bin/sh
# Trains the Selectors of a bundle on traces and chooses its operating points.
# $1: folder of the commands, $2: the bundle, $3: folder of calibration_traces.npz; the rest: traces to train on.
# In the environment, EXPORT: options of `edge-vqa-selector export`.
set -eu
bin=$1 bundle=$2 work=$3
shift 3
for early in "" --early; do
    "$bin"/edge-vqa-selector train "$@" -o "$work/selector$early.npz" $early
    "$bin"/edge-vqa-selector export "$work/selector$early.npz" "$bundle" ${EXPORT:-}
done
for method in selector selector-early; do
    "$bin"/edge-vqa-selector threshold "$bundle" "$work/calibration_traces.npz" --confidence $method \
        --risk 0.01 --risk 0.05 --risk 0.1 --risk 0.2 --default 0.05 --delta 0.05
done
