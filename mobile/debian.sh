# Fetches packages of Debian into a folder, beside what this machine has installed: apt keeps its whole state in that folder.
# Sourced by the scripts that need a compiler which the machine does not have.
# shellcheck shell=sh

say() { printf '%s\n' "${0##*/}: $*" >&2; }
die() {
    say "error: $1"
    shift
    for hint in "$@"; do say "hint: $hint"; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# debian_uri PATH: the archive that this machine's apt reads whose address ends in PATH ("/debian").
# DEBIAN_MIRROR goes before it, for machines that are no Debian.
debian_uri() {
    [ -n "${DEBIAN_MIRROR:-}" ] && [ "$1" = /debian ] && printf '%s\n' "$DEBIAN_MIRROR" && return
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        awk -v want="$1" '
            /^URIs:/ { for (i = 2; i <= NF; i++) print_if($i) }
            /^deb /  { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) print_if($i) }
            function print_if(uri) { sub(/\/$/, "", uri); if (uri ~ want "$") { print uri; exit } }'
}

# debian_fetch FOLDER SOURCES COMMAND..: `apt-get COMMAND` with the lines SOURCES as its only sources and FOLDER as its state.
# Packages that are installed by `install --download-only` come with all they depend on, to FOLDER/archives.
debian_fetch() {
    state=$1
    sources=$2
    shift 2
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    [ -e "$state/status" ] || : >"$state/status"
    printf '%s\n' "$sources" >"$state/sources.list"
    cat >"$state/apt.conf" <<CONF
Dir::State "$state";
Dir::State::status "$state/status";
Dir::State::lists "$state/lists";
Dir::Cache::archives "$state/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Debug::NoLocking "true";
APT::Sandbox::User "";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
Acquire::Languages "none";
CONF
    APT_CONFIG=$state/apt.conf apt-get -qq "$@"
}
