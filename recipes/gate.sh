#!/bin/sh
# Trains the Selectors of a bundle on traces, familiarity on its pictures, and chooses its operating points.
# $1: folder of the commands, $2: the bundle, $3: mini or base, $4: folder of calibration_traces.npz; the rest: traces to train on.
# In the environment, EXPORT: options of `edge-vqa-selector export`.
set -eu
bin=$1 bundle=$2 name=$3 work=$4
shift 4
for early in "" --early; do
    "$bin"/edge-vqa-selector train "$@" -o "$work/selector$early.npz" $early
    "$bin"/edge-vqa-selector export "$work/selector$early.npz" "$bundle" ${EXPORT:-}
done
sh recipes/trust/gate.sh "$bin" "$bundle" "$name" "$work/calibration_traces.npz"
