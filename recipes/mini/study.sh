#!/bin/sh
# The study of docs/study.md: the checkpoint in seven precisions, then `edge-vqa-selector study`. $1: folder of the commands.
# Needs build/mini/questions (python -m recipes.mini.reliability, then recipes.mini.ood). An hour on two cores, the first time.
set -eu
bin=$1 out=build/mini/study
one() { # name, --quant, --vision-type, more
    name=$1 quant=$2 vision=$3
    shift 3
    [ -f $out/"$name"/bundle.json ] || "$bin"/edge-vqa-convert recipes/mini/checkpoint --single -o $out/"$name" --quant "$quant" \
        --vision-type "$vision" --name "$name" --licence Apache-2.0 --source recipes/mini --max-tokens 12 "$@"
}
one bf16 rtn:bf16 f16
one int8-rtn rtn:q8_0 q8_0
one int4-hqq hqq:q4_1 q8_0
one int4-mbq mbq+rtn:q4_k_m q8_0 --calibration build/mini/questions/mbq_calibration.jsonl
one int3-rtn rtn:q3_k_s q8_0
one int3-mbq mbq+rtn:q3_k_s q8_0 --calibration build/mini/questions/mbq_calibration.jsonl
"$bin"/edge-vqa-selector study recipes/mini/study.toml -o $out/results
cp $out/results/study.md recipes/mini/study.md
cp $out/results/study.png docs/study.png
