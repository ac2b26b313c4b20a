#!/bin/sh
# Traces of the foreign sets of a bundle, and of the pictures that its familiarity is fitted to.
# $1: folder of the commands, $2: the bundle, $3: mini or base. Needs build/trust/questions (python -m recipes.trust.questions).
# Writes build/trust/traces/$3; sets that are there are not collected again, so remove them for another bundle.
set -eu
bin=$1 bundle=$2 name=$3 questions=build/trust/questions traces=build/trust/traces/$3
mkdir -p "$traces"
collect() { # questions, name of the set
    [ -f "$traces/$2.npz" ] || "$bin"/edge-vqa-selector collect "$bundle" "$1" -o "$traces/$2.npz" --name "$2" --threads 1
}
fitting="familiar nothing drawn spoiled"
[ "$name" = mini ] && fitting="$fitting photos"
for set in $fitting; do
    collect "$questions/${name}_$set.jsonl" "$set"
done
for set in noise_normal noise_specks noise_clouds colour_plain colour_rings colour_stripes documents_table documents_receipt \
    drawings_scribble drawings_map screens_window screens_chart radiographs; do
    collect "$questions/$set.jsonl" "$set"
done
for set in grey one_bit transparent tiny wide turned; do
    collect "$questions/${name}_$set.jsonl" "copy_$set"
done
collect build/base/questions/everyday_test.jsonl photos_everyday
