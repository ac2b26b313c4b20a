#!/bin/sh
# Familiarity and operating points of a bundle that has its Selectors.
# $1: folder of the commands, $2: the bundle, $3: mini or base, $4: calibration traces.
# Traces in build/trust/builds/$3 (recipes.trust.processors) say how much confidence differs on other processors.
set -eu
bin=$1 bundle=$2 name=$3 calibration=$4 traces=build/trust/traces/$3
sh recipes/trust/collect.sh "$bin" "$bundle" "$name"
sorts="--foreign $traces/nothing.npz --foreign $traces/drawn.npz --foreign $traces/spoiled.npz"
# photos are what the mini is asked about most that it was not made for: they count twice
[ "$name" = mini ] && sorts="$sorts --foreign $traces/photos.npz --foreign $traces/photos.npz"
# there are 120 kB left of base's 110 MB
[ "$name" = base ] && sorts="$sorts --weights 40000"
"$bin"/edge-vqa-selector familiarity "$bundle" "$traces/familiar.npz" $sorts --int8
foreign=
for set in "$traces"/*.npz; do
    case ${set##*/} in
    familiar.npz | nothing.npz | drawn.npz | spoiled.npz | photos.npz) ;;
    photos_everyday.npz) [ "$name" = base ] || foreign="$foreign --foreign $set" ;; # which base is made for
    *) foreign="$foreign --foreign $set" ;;
    esac
done
builds=
for build in "$traces"/../../builds/"$name"/zen4_repacked.npz "$traces"/../../builds/"$name"/*.npz; do
    [ -f "$build" ] && builds="$builds --build $build"
done
for method in selector selector-early; do
    "$bin"/edge-vqa-selector threshold "$bundle" "$calibration" --confidence $method $builds \
        --risk 0.01 --risk 0.05 --risk 0.1 --risk 0.2 --default 0.05 --delta 0.05 $foreign --share 0.05
done
