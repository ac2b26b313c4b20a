#!/bin/sh
# Fetches what the recipe draws with, and photos to measure on, into the folder $1: emoji in three styles (npm), fonts, a word
# list and photos (Debian), photos (scikit-image). Licences: THIRD_PARTY.md. About 280 MB; needs npm, apt-get, dpkg, pip, unzip.
set -eu
mkdir -p "$1" && cd "$1"
for style in google twitter; do
    [ -d $style ] && continue
    npm pack --silent emoji-datasource-$style@16.0.0 >/dev/null
    mkdir -p $style.part
    tar xzf emoji-datasource-$style-16.0.0.tgz -C $style.part --strip-components 1 package/emoji.json package/img/$style/64
    mv $style.part $style && rm emoji-datasource-$style-16.0.0.tgz
done
if [ ! -d fluent ]; then
    npm pack --silent @lobehub/fluent-emoji-3d@1.1.0 >/dev/null
    mkdir -p fluent.part && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz -C fluent.part --strip-components 1
    mv fluent.part fluent && rm lobehub-fluent-emoji-3d-1.1.0.tgz
fi
if [ ! -d debian ]; then
    apt-get download fonts-cabin fonts-cantarell fonts-comfortaa fonts-courier-prime fonts-crosextra-carlito fonts-dejavu-core \
        fonts-ebgaramond fonts-hack fonts-inconsolata fonts-lato fonts-liberation fonts-linuxlibertine fonts-lobster \
        fonts-open-sans fonts-play fonts-quicksand fonts-roboto-unhinted wamerican-small \
        mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    for package in *.deb; do dpkg -x "$package" debian.part && rm "$package"; done
    mv debian.part debian
fi
if [ ! -d skimage ]; then
    pip download --quiet --no-deps --only-binary :all: scikit-image==0.26.0
    unzip -q scikit_image-*.whl 'skimage/data/*' && rm scikit_image-*.whl
fi
