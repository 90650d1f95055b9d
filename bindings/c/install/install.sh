#!/bin/sh
# Installs the C library: install.sh BUILD PREFIX, where BUILD has libowlet_c.so (.dylib) and libowlet_c.a of a build of the
# package owlet-c. DESTDIR is put before PREFIX, as packagers expect; STRIP is the tool that strips, by default none.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 BUILD PREFIX" >&2; exit 2; }
build=$1
prefix=${DESTDIR:-}$2
here=$(cd "$(dirname "$0")" && pwd)
header=$here/../../include/owlet.h

version=$(sed -n 's/^#define OWLET_VERSION "\(.*\)"$/\1/p' "$header")
abi=${version%.*}
[ -n "$version" ] || { echo "install: no version in $header" >&2; exit 1; }

case $(uname -s) in
Darwin)
    built=libowlet_c.dylib real=libowlet.$version.dylib soname=libowlet.$abi.dylib link=libowlet.dylib
    private='-lc++ -framework Accelerate -framework Foundation'
    ;;
*)
    built=libowlet_c.so real=libowlet.so.$version soname=libowlet.so.$abi link=libowlet.so
    private='-lstdc++ -lm -ldl -lpthread'
    ;;
esac

mkdir -p "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/owlet"
cp "$header" "$prefix/include/owlet.h"

# Beside their places and renamed: a program that runs keeps the library that it has.
put() {
    cp "$build/$1" "$prefix/lib/.$2.new"
    [ -z "${STRIP:-}" ] || "$STRIP" "$3" "$prefix/lib/.$2.new"
    mv -f "$prefix/lib/.$2.new" "$prefix/lib/$2"
}
put "$built" "$real" -x
put libowlet_c.a libowlet.a -S
ln -sf "$real" "$prefix/lib/$soname"
ln -sf "$soname" "$prefix/lib/$link"

fill() {
    sed -e "s/@VERSION@/$version/g" -e "s/@ABI@/$abi/g" -e "s/@LIBRARY@/$link/g" -e "s/@PRIVATE@/$private/g" "$here/$1.in" >"$2/$1"
}
fill owlet.pc "$prefix/lib/pkgconfig"
fill owlet-config.cmake "$prefix/lib/cmake/owlet"
fill owlet-config-version.cmake "$prefix/lib/cmake/owlet"
