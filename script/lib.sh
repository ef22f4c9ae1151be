# Shared by the commands in this directory; source it, do not run it.
# Installs what is missing and says what it is doing; a second run finds everything in place and is quick.
# shellcheck shell=bash

set -euo pipefail
OS_RELEASE=${OS_RELEASE:-/etc/os-release}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
cd "$ROOT"

step() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo -- "$@"
  else die "installing system packages needs root: install sudo, or run as root: $*"
  fi
}

# missing PACKAGE...: prints those that dpkg does not list as installed.
missing() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || printf '%s ' "$package"
  done
}

# system_family: prints "ubuntu" or "debian", by ID or ID_LIKE of os-release(5); nothing for others.
system_family() {
  local id
  for id in $(sed -n 's/^ID=//p; s/^ID_LIKE=//p' "$OS_RELEASE" 2>/dev/null | tr -d '"' | tr '\n' ' '); do
    case $id in ubuntu | debian) echo "$id"; return ;; esac
  done
}

# offered PACKAGE...: prints those that the apt archive can install.
offered() {
  local package
  for package in "$@"; do
    case $(apt-cache policy "$package" 2>/dev/null | sed -n 's/^ *Candidate: //p') in "" | "(none)") ;; *) printf '%s ' "$package" ;; esac
  done
}

apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

# need PACKAGE...: installs the missing ones. CloudOps starts its own private services, so those that the packages
# would start or keep enabled are not started (policy-rc.d is Debian's own switch for that).
need() {
  local wanted log policy=/usr/sbin/policy-rc.d ours="" failed=""
  wanted=$(missing "$@")
  [ -n "$wanted" ] || return 0
  command -v apt-get >/dev/null || die "this needs Debian or Ubuntu (no apt-get here). Install by other means: $wanted"
  step "installing system packages: $wanted"
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    ours=yes
  fi
  log=$(mktemp)
  # shellcheck disable=SC2086
  apt_get install -y --no-install-recommends $wanted >"$log" 2>&1 </dev/null ||
    { apt_get update >"$log" 2>&1 </dev/null && apt_get install -y --no-install-recommends $wanted >>"$log" 2>&1 </dev/null; } ||
    failed=yes
  [ -z "$ours" ] || as_root rm -f "$policy"
  if [ -n "$failed" ]; then
    tail -n 25 "$log" >&2
    [ "$(system_family)" != ubuntu ] || echo "On Ubuntu some of these are in “universe”: sudo add-apt-repository universe" >&2
    die "apt-get could not install: $wanted(the whole log: $log)"
  fi
  rm -f "$log"
}

# python_command: prints a Python of at least 3.11 that can make a venv; nothing when there is none.
python_command() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

# newer_python: the packages of a Python of at least 3.11 that apt offers beside an older python3 (Ubuntu 22.04 does).
newer_python() {
  local version
  for version in 3.14 3.13 3.12 3.11; do
    if [ -n "$(offered "python$version-venv")" ]; then
      echo "python$version python$version-venv python$version-dev"
      return
    fi
  done
}

# need_python: sees to it that python_command has an answer.
need_python() {
  local packages
  [ -z "$(python_command)" ] || return 0
  packages=$(newer_python)
  [ -n "$packages" ] || die "Python 3.11 or newer with venv is needed; this machine's python3 is $(python3 --version 2>&1), and apt offers no newer one. Debian 12, Ubuntu 24.04 and later have it"
  # shellcheck disable=SC2086
  need $packages
  [ -n "$(python_command)" ] || die "$packages are installed, and still no Python of at least 3.11 makes a venv. Look at: python3.11 -m ensurepip --version"
}

# need_node: Node.js of at least 18 with npm; older distributions' own is too old to build the pages.
need_node() {
  local major
  command -v node >/dev/null || need nodejs
  command -v npm >/dev/null || need npm
  major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p')
  [ "${major:-0}" -ge 18 ] ||
    die "Node.js 18 or newer is needed for the frontend part; this machine's is $(node --version 2>&1). Remedy: install a newer one (nodejs.org), or leave the part out"
}

# chromium_command: prints a browser that starts; nothing when there is none. Ubuntu's package chromium-browser may be
# only a script that asks for the snap.
chromium_command() {
  local candidate
  for candidate in ${CLOUDOPS_TEST_CHROMIUM:+"$CLOUDOPS_TEST_CHROMIUM"} chromium chromium-browser google-chrome-stable google-chrome /snap/bin/chromium; do
    if timeout 30 "$candidate" --version 2>/dev/null | grep '^\(Chromium\|Google Chrome\)' >/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

# need_chromium: Debian's package; on Ubuntu the snap, where snapd runs.
need_chromium() {
  [ -z "$(chromium_command)" ] || return 0
  if [ "$(system_family)" != ubuntu ]; then
    need "${CHROMIUM_PACKAGES[@]}"
  elif command -v snap >/dev/null && snap version 2>/dev/null | grep '^snapd  *[0-9]' >/dev/null; then
    step "installing the Chromium snap (Ubuntu has no package of it)"
    as_root snap install chromium
    need fonts-dejavu-core
  else
    die "the e2e part needs Chromium. Ubuntu has it as a snap only, and snapd does not run here. Remedy: install Google Chrome's .deb, or name another Chromium in CLOUDOPS_TEST_CHROMIUM, or leave the part out: script/test lint types migrations frontend unit postgres real"
  fi
  [ -n "$(chromium_command)" ] || die "Chromium is installed but does not start. Remedy: look at what chromium --version says, or name another one in CLOUDOPS_TEST_CHROMIUM"
}

# need_libvirt: its daemon and QEMU. Newer releases (libvirt 10 and later) keep parts of the daemon in packages of their own.
need_libvirt() {
  local parts
  parts=$(offered libvirt-daemon-common libvirt-daemon-log libvirt-daemon-lock)
  # shellcheck disable=SC2086
  need "${LIBVIRT_PACKAGES[@]}" $parts
}

# guests_need_root WAY_OUT: asks sudo for the password now, as libvirt hosts of our own run as root.
guests_need_root() {
  [ "$(id -u)" -ne 0 ] || return 0
  command -v sudo >/dev/null || die "libvirt hosts for the guests need root: install sudo, run as root$1"
  step "the guests' libvirt hosts run as root, through sudo; everything else runs as you"
  sudo -v
}

# current_stamps: the lines of the stamp that still describe the lock files as they are.
current_stamps() {
  local file
  for file in requirements.txt requirements-dev.txt; do grep -sxF "$(sha256sum "$file")" "$VENV/.installed" || true; done
}

# python_packages FILE: a venv holding exactly what the lock file FILE names; the stamp holds the installed files' hashes.
# requirements-dev.txt pins all that requirements.txt does (a test holds them together), so it stamps both.
python_packages() {
  local file=$1 stamps python
  if ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    need_python
    python=$(python_command)
    step "creating the Python environment ($("$python" --version))"
    "$python" -m venv --clear "$VENV"
  fi
  stamps=$(current_stamps)
  if grep -qF " $file" <<<"$stamps"; then return; fi
  step "installing the Python packages of $file (a few minutes the first time)"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$file" </dev/null ||
    die "pip could not install $file; its messages are above. It needs the network (PyPI) once"
  stamps+=$'\n'$(sha256sum "$file")
  [ "$file" != requirements-dev.txt ] || stamps+=$'\n'$(sha256sum requirements.txt)
  echo "$stamps" >"$VENV/.installed"
}

BUILD_PACKAGES=(python3 python3-venv python3-dev gcc libc6-dev pkg-config libvirt-dev ca-certificates)
REDIS_PACKAGES=(redis-server)
LIBVIRT_PACKAGES=(libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 iproute2 cpio busybox-static zstd)
VCSIM_PACKAGES=(golang-go golang-github-vmware-govmomi-dev)
CHROMIUM_PACKAGES=(chromium fonts-dejavu-core)
