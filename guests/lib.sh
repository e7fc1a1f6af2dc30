# shellcheck shell=bash
# Shared by the scripts of this folder: where artefacts go, how Debian packages are fetched,
# how an artefact is made once and only once. Sourced, never run.
#
# Guests are always made of Debian 12 packages, whatever Debian the host runs: a package
# manager state of our own, in the cache, points at the host's mirror.

set -euo pipefail

SUITE=bookworm
GUESTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${OXBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/oxbox}
mkdir -p "$CACHE/locks"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# need PROGRAM PACKAGE ...: fails with the packages to install when programs are missing.
need() {
    local missing=()
    while [ $# -gt 0 ]; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} = 0 ] || die "missing programs; run: apt-get install ${missing[*]}"
}

# artefact NAME FUNCTION [ARGUMENT ...]: prints the path of the cached file NAME. When it is not
# there, or was made by another version of the scripts, runs FUNCTION OUTPUT ARGUMENT... in a
# scratch folder ($WORK) and moves its output into place when it is complete. Files in the array
# INPUTS count as part of the scripts.
INPUTS=()
artefact() {
    local name=$1 maker=$2
    shift 2
    local file=$CACHE/$name recipe
    recipe=$(cat "$GUESTS/lib.sh" "$0" "${INPUTS[@]}" | sha256sum | cut -d' ' -f1)
    exec 9>"$CACHE/locks/$name"
    flock -n 9 || {
        say "waiting for another process that makes $name"
        flock 9
    }
    if [ -f "$file" ] && [ "$(cat "$file.recipe" 2>/dev/null)" = "$recipe" ]; then
        say "$name: already there"
    else
        say "$name: making it (once)"
        WORK=$(mktemp -d "$CACHE/.work.XXXXXX")
        trap 'rm -rf "$WORK"' EXIT
        local start=$SECONDS
        "$maker" "$WORK/output" "$@" >&2
        rm -f "$file.recipe"
        mv "$WORK/output" "$file"
        echo "$recipe" >"$file.recipe"
        rm -rf "$WORK"
        say "$name: made in $((SECONDS - start)) s, $(du -h "$file" | cut -f1)"
    fi
    exec 9>&-
    echo "$file"
}

# The mirror that the host takes Debian itself from.
host_mirror() {
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n 's/^Debian|//p' | grep -E '^(https?|file|copy):' | head -1
}

# Writes the private package manager configuration. Only the stable release itself is used,
# without security updates: these guests meet nobody, and one index has fewer ways to fail.
apt_setup() {
    APT_DIR=$CACHE/apt
    mkdir -p "$APT_DIR"/etc/preferences.d "$APT_DIR"/etc/apt.conf.d "$APT_DIR"/state/lists/partial "$APT_DIR"/cache/archives/partial
    : >"$APT_DIR/state/status"
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -f $keyring ] || die "missing $keyring; run: apt-get install debian-archive-keyring"
    mirror=${OXBOX_MIRROR:-$(host_mirror || true)}
    echo "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} $SUITE main" >"$APT_DIR/sources.list"
    {
        # The host's way to reach its mirror: proxies, time-outs, checks it has switched off.
        apt-config dump Acquire | grep -v '^Acquire::IndexTargets' || true
        cat <<END
Dir::Etc "$APT_DIR/etc/";
Dir::Etc::sourcelist "$APT_DIR/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "$APT_DIR/state/";
Dir::State::status "$APT_DIR/state/status";
Dir::Cache "$APT_DIR/cache/";
APT::Architecture "amd64";
APT::Architectures { "amd64"; "i386"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
END
    } >"$APT_DIR/apt.conf"
    export APT_CONFIG=$APT_DIR/apt.conf
}

# Reads the package index when there is none younger than a day: an older one may name files
# that the mirror no longer has. Call with the apt lock held.
apt_index() {
    [ -n "$(find "$APT_DIR/state/lists" -maxdepth 1 -name '*Packages*' -mtime -1 2>/dev/null)" ] && return
    say "reading the package index of Debian $SUITE"
    apt-get -q update >&2
    touch "$APT_DIR"/state/lists/*Packages*
}

# depends_of PACKAGE: the first package it depends on (what a kernel's metapackage stands for).
depends_of() {
    (
        apt_setup
        exec 8>"$CACHE/locks/apt"
        flock 8
        apt_index
        apt-cache depends "$1" | sed -n 's/^ *Depends: //p' | head -1
    )
}

# unpack DIRECTORY PACKAGE ...: extracts packages of the guests' Debian into DIRECTORY.
unpack() {
    local dir=$1 debs=$CACHE/debs package
    shift
    mkdir -p "$dir" "$debs"
    (
        apt_setup
        exec 8>"$CACHE/locks/apt"
        flock 8
        apt_index
        cd "$debs"
        say "fetching $*"
        apt-get -q download "$@" >&2
    )
    # The newest of each name: older ones may lie there from earlier runs.
    for package in "$@"; do
        dpkg-deb -x "$(printf '%s\n' "$debs/${package}"_*.deb | sort -V | tail -1)" "$dir"
    done
}

# grub_iso OUTPUT DIRECTORY: a CD image that boots DIRECTORY/boot/grub/grub.cfg through the BIOS.
grub_iso() {
    need grub-mkimage grub-common xorriso xorriso
    local lib=/usr/lib/grub/i386-pc
    [ -f $lib/cdboot.img ] || die "missing $lib; run: apt-get install grub-pc-bin"
    grub-mkimage -O i386-pc -d $lib -p /boot/grub -o "$WORK/core.img" \
        biosdisk iso9660 normal configfile linux linux16 serial terminal echo test \
        video vbe vga video_bochs video_cirrus halt reboot sleep
    cat $lib/cdboot.img "$WORK/core.img" >"$2/boot/grub/eltorito.img"
    xorriso -report_about WARNING -as mkisofs -quiet -R -V OXBOX -o "$1" \
        -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info "$2"
}
