# shellcheck shell=bash disable=SC2034
# What ./try and ./test ask of the machine they run on. Sourced, never run.

# The oldest compiler that Cargo.toml accepts.
RUST_NEEDED=1.95

tell() { printf '\033[1m%s: %s\033[0m\n' "${0##*/}" "$*" >&2; }
fail() {
    tell "error: $*"
    exit 1
}

# require_debian PACKAGE ...: stops on other systems, with what would be needed there.
require_debian() {
    local ID='' ID_LIKE='' VERSION_ID='' PRETTY_NAME=''
    [ ! -r /etc/os-release ] || . /etc/os-release
    case " $ID $ID_LIKE " in
    *" debian "*) ;;
    *) fail "this script installs Debian packages and this is ${PRETTY_NAME:-another system}.
Run it on Debian 12 or newer. Elsewhere, install what these packages hold and build with cargo:
$*" ;;
    esac
    if [ "$ID" = debian ] && [ "${VERSION_ID:-99}" -lt 12 ]; then
        fail "this is ${PRETTY_NAME}; Debian 12 or newer is needed"
    fi
    [ "$(uname -m)" = x86_64 ] || fail "this is $(uname -m); Oxbox runs on x86_64 only"
}

# install PACKAGE ...: installs those that are missing, as root or through sudo.
install() {
    local missing=() package root=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "run as root: apt-get install --no-install-recommends ${missing[*]}"
        root=(sudo)
    fi
    tell "installing Debian packages: ${missing[*]}"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update >&2 || tell "apt-get update failed; going on"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${missing[@]}" >&2 ||
        fail "apt-get could not install: ${missing[*]}"
}

# Checks for a Rust compiler, which no Debian 12 package is new enough for.
require_rust() {
    local have
    [ -n "$(command -v cargo)" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null && command -v rustc >/dev/null ||
        fail "Rust $RUST_NEEDED or newer is needed (cargo is not installed).
Get it from https://rustup.rs (or, on Debian 13: apt-get install rustup && rustup default stable), then run this again."
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' $RUST_NEEDED "$have" | sort -V | head -1)" = $RUST_NEEDED ] ||
        fail "Rust $RUST_NEEDED or newer is needed, this is $have; run: rustup update stable"
}

# What building and the guests' images need.
BUILD_PACKAGES=(gcc libc6-dev ca-certificates seabios)
GUEST_PACKAGES=(mmdebstrap arch-test fakeroot e2fsprogs fdisk debian-archive-keyring python3)
# A plain user's mmdebstrap works in a user namespace.
[ "$(id -u)" = 0 ] || GUEST_PACKAGES+=(uidmap)
