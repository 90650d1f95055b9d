#!/bin/sh
# Runs a command with Swift 6: `mobile/swift/toolchain.sh swift --version`.
#
# Where the machine has Swift 6 (macOS with Xcode 16, or swift.org's toolchain), that one is used. Elsewhere Debian 13's
# packages are unpacked into target/swift-toolchain (1.5 GB, once), and the command runs in that folder by chroot, with the
# repository and its target folder at the paths that they have outside. Nothing is installed into the machine, and the mounts
# vanish with the process. That needs apt, dpkg and root (or user namespaces) on Debian or a derivative, x86-64 or arm64.
# DEBIAN_MIRROR names an archive of Debian where apt's own sources have none.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
# shellcheck source=mobile/debian.sh
. "$root/mobile/debian.sh"

mkdir -p "$root/target"
target=$(cd "$root/target" && pwd -P)
folder=$target/swift-toolchain
suite=trixie
# The two of C are what swiftc links with, though its package does not say so.
packages='swiftlang libc6-dev libstdc++-14-dev bash coreutils'
stamp="$suite: $packages"

swift_of_machine() {
    have swift || return 1
    version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 6 ]
}

# What unshare needs to be root for, a user namespace gives to others, where the kernel lets them.
in_namespace() {
    if [ "$(id -u)" -eq 0 ]; then unshare --mount "$@"; else unshare --map-root-user --mount "$@"; fi
}

check_machine() {
    for tool in apt-get dpkg-deb unshare chroot; do
        have "$tool" || die "no Swift 6 on this machine, and without $tool none can be fetched" "install Swift from https://swift.org/install"
    done
    in_namespace true 2>/dev/null || die "this user may not mount file systems, which running Debian's Swift in a folder needs" \
        "run as root, in a container that allows it (docker run --privileged), or install Swift from https://swift.org/install"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
        die "Debian's keys are not on this machine" "run: apt-get install debian-archive-keyring"
    mirror=$(debian_uri /debian)
    [ -n "$mirror" ] || die "apt's sources name no archive of Debian" "set DEBIAN_MIRROR to the address of one"
}

# The packages are unpacked, not installed: none of their scripts runs.
install_into() {
    new=$1
    mkdir -p "$new/root/usr"
    say "fetching Swift from $suite into $folder (530 MB, a minute or two)"
    sources="deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
    debian_fetch "$new/apt" "$sources" update
    # shellcheck disable=SC2086 # a list of package names
    debian_fetch "$new/apt" "$sources" install --download-only $packages >/dev/null
    for directory in bin lib lib64 sbin; do
        mkdir "$new/root/usr/$directory"
        ln -s "usr/$directory" "$new/root/$directory"
    done
    say "unpacking"
    for package in "$new"/apt/archives/*.deb; do
        # Left out: documentation, and tools that neither build nor test.
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$new/root" --keep-directory-symlink --no-same-owner \
            --exclude=./usr/share/doc --exclude=./usr/share/man --exclude='*lldb*' --exclude='*/swift/lib/swift/embedded' \
            --exclude='*sourcekit*' --exclude='*/bin/clangd' --exclude='*/libLTO.so*'
    done
    # Else made by the package's script.
    ln -sf /usr/libexec/swift/bin/swift "$new/root/usr/bin/swift"
    (cd "$new/root" && mkdir -p tmp proc dev root etc var/tmp && chmod 1777 tmp var/tmp)
    echo 'root:x:0:0:root:/root:/bin/sh' >"$new/root/etc/passwd"
    rm -rf "$new/apt"
    printf '%s\n' "$stamp" >"$new/stamp"
}

install() {
    [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ] && return
    check_machine
    new=$folder.$$
    trap 'rm -rf "$new"' EXIT
    trap 'exit 130' INT TERM
    install_into "$new"
    # Whoever comes first: two of these may run at once.
    if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ]; then
        rm -rf "$folder"
        mv "$new" "$folder"
    fi
    rm -rf "$new"
    trap - EXIT INT TERM
}

if [ "${1:-}" = --in-namespace ]; then
    # As the first process of a mount namespace.
    tree=$folder/root
    shift
    mount --make-rprivate /
    for directory in /proc /dev; do mount --rbind "$directory" "$tree$directory"; done
    for directory in "$root" "$target"; do
        mkdir -p "$tree$directory"
        mount --bind "$directory" "$tree$directory"
    done
    exec chroot "$tree" /usr/bin/env --chdir="$root" -i PATH=/usr/bin:/usr/sbin HOME=/root LANG=C.UTF-8 "$@"
fi

[ $# -gt 0 ] || die "no command given" "for example: mobile/swift/toolchain.sh swift --version"
cd "$root"
if swift_of_machine; then exec "$@"; fi
install
in_namespace "$here/toolchain.sh" --in-namespace "$@"
