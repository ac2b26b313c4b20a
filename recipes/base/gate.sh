#!/bin/sh
# The Selectors and operating points of the base bundle. $1: folder of the commands, $2: the bundle.
# Needs build/base/questions (python -m recipes.base.questions). About 20 minutes on two cores, each with a share of the questions.
set -eu
bin=$1 bundle=$2 work=build/base questions=build/base/questions
collect() { # questions, traces, name
    "$bin"/edge-vqa-selector collect "$bundle" $questions/$1.jsonl -o $work/$2_traces.npz --threads 1 --name "$3"
}
sed -n '1,3200p' $questions/selector.jsonl >$questions/selector_1.jsonl
sed -n '3201,$p' $questions/selector.jsonl >$questions/selector_2.jsonl
collect selector_1 selector_1 "recipes/base selector" &
first=$!
collect calibration calibration "recipes/base calibration mix"
collect selector_2 selector_2 "recipes/base selector"
wait $first
EXPORT=--int8 sh recipes/gate.sh "$bin" "$bundle" base $work $work/selector_1_traces.npz $work/selector_2_traces.npz
