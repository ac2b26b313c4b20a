#!/bin/sh
# The Selectors and operating points of the base bundle. $1: folder of the commands, $2: the bundle.
# Needs build/base/questions (python -m recipes.base.questions). About 25 minutes on two cores.
set -eu
bin=$1 bundle=$2 work=build/base
"$bin"/edge-vqa-selector collect "$bundle" $work/questions/calibration.jsonl -o $work/calibration_traces.npz \
    --name "recipes/base calibration mix"
"$bin"/edge-vqa-selector collect "$bundle" $work/questions/selector.jsonl -o $work/selector_traces.npz
for early in "" --early; do
    "$bin"/edge-vqa-selector train $work/selector_traces.npz -o $work/selector$early.npz $early
    "$bin"/edge-vqa-selector export $work/selector$early.npz "$bundle"
done
for method in selector selector-early; do
    "$bin"/edge-vqa-selector threshold "$bundle" $work/calibration_traces.npz --confidence $method \
        --risk 0.01 --risk 0.05 --risk 0.1 --risk 0.2 --default 0.05 --delta 0.05
done
