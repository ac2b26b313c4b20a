#!/bin/sh
# The embedded bundle from the shipped checkpoint: convert, train the Selector, choose thresholds, fill in what was measured.
# $1: folder of the commands, $2: the bundle. Needs build/mini/questions (python -m recipes.mini.reliability).
set -eu
bin=$1 bundle=$2 questions=build/mini/questions traces=build/mini
"$bin"/edge-vqa-convert recipes/mini/checkpoint -o "$bundle" --force --quant rtn:q4_k_m --vision-type q8_0 \
    --name mini --bundle-version 3 --licence Apache-2.0 --source recipes/mini --max-tokens 12 \
    --description "the embedded model: everyday things, shapes, writing, ten kinds of photos"
"$bin"/edge-vqa-selector collect "$bundle" $questions/selector.jsonl -o $traces/selector_traces.npz
"$bin"/edge-vqa-selector train $traces/selector_traces.npz -o $traces/selector.npz
"$bin"/edge-vqa-selector export $traces/selector.npz "$bundle"
"$bin"/edge-vqa-selector collect "$bundle" $questions/calibration.jsonl -o $traces/calibration_traces.npz \
    --name "recipes/mini calibration mix"
"$bin"/edge-vqa-selector threshold "$bundle" $traces/calibration_traces.npz \
    --risk 0.01 --risk 0.05 --risk 0.1 --risk 0.2 --default 0.05 --delta 0.05
