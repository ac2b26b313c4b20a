#!/bin/sh
# The embedded bundle from the shipped checkpoint: convert, train the Selectors, choose thresholds, fill in what was measured.
# $1: folder of the commands, $2: the bundle. Needs build/mini/questions (python -m recipes.mini.reliability, then recipes.mini.ood).
set -eu
bin=$1 bundle=$2 questions=build/mini/questions traces=build/mini
"$bin"/edge-vqa-convert recipes/mini/checkpoint --single -o "$bundle" --force --quant rtn:q4_k_m --vision-type q8_0 \
    --name mini --bundle-version 4 --licence Apache-2.0 --source recipes/mini --max-tokens 12 \
    --description "the embedded model: everyday things, shapes, writing, ten kinds of photos"
for name in selector exposure; do
    "$bin"/edge-vqa-selector collect "$bundle" $questions/$name.jsonl -o $traces/${name}_traces.npz
done
"$bin"/edge-vqa-selector collect "$bundle" $questions/calibration.jsonl -o $traces/calibration_traces.npz \
    --name "recipes/mini calibration mix"
sh recipes/gate.sh "$bin" "$bundle" mini $traces $traces/selector_traces.npz $traces/exposure_traces.npz
