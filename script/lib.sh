# Shared by the commands in this directory; source it, do not run it.
# Installs what is missing and says what it is doing; a second run finds everything in place and is quick.
# shellcheck shell=bash

set -euo pipefail
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
    die "apt-get could not install: $wanted(the whole log: $log)"
  fi
  rm -f "$log"
}

# python_command: prints a Python of at least 3.11 that can make a venv.
python_command() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  die "Python 3.11 or newer is needed; this machine's python3 is $(python3 --version 2>&1). Debian 12, Ubuntu 24.04 and later have it"
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
LIBVIRT_PACKAGES=(libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 iproute2 cpio busybox-static)
