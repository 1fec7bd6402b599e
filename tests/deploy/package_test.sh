#!/usr/bin/env bash
# ./run package-test: the Debian package. lintian reads it; it is installed in a bare Debian of debootstrap, used
# there, and removed without a trace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/deploy/tools/with_tools.sh
. tests/deploy/tools/with_tools.sh

((EUID == 0)) || skip "it needs root, for chroot"
command -v debootstrap >/dev/null || skip "no debootstrap"
need_tools debian
package=$(find build/packages -maxdepth 1 -name 'kascade-serve_*.deb')
tree=$(mktemp -d)
trap 'rm -rf --one-file-system "$tree"' EXIT

in_tree() {
  chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive \
    LC_ALL=C.UTF-8 "$@"
}

# Files and users of the tree, without what apt itself keeps.
state() {
  (cd "$tree" && find . -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune -o \
    -path ./var/lib/dpkg -prune -o -path ./var/lib/apt -prune -o -path ./var/cache -prune -o \
    -path ./var/log -prune -o -name 'ld.so.cache' -prune -o -path './tmp/*' -prune -o -path './etc/*-' -prune -o \
    -type f -print -o -type l -print -o -type d -print | sort)
  cat "$tree/etc/passwd" "$tree/etc/group"
}

say "lintian"
lintian --fail-on error "$package"

say "in a bare Debian"
copy-debian "$tree"
cp "$package" "$tree/tmp/package.deb"
# What the package needs stays when the package goes, and so comes first.
in_tree apt-get -qq update
in_tree apt-get -qq install -y --no-install-recommends /tmp/package.deb man-db bash-completion >"$tree/tmp/log" 2>&1 ||
  { tail -n 20 "$tree/tmp/log" && exit 1; }
in_tree dpkg --purge kascade-serve >/dev/null
state >"$tree/tmp/before"
in_tree dpkg --install /tmp/package.deb >/dev/null
/usr/bin/python3 tests/deploy/package_installed.py "$tree"

say "removed"
in_tree dpkg --remove kascade-serve
[[ -e $tree/etc/kascade/server.toml ]] || { echo "the configuration must stay until the package is purged" >&2; exit 1; }
in_tree dpkg --purge kascade-serve
state >"$tree/tmp/after"
diff "$tree/tmp/before" "$tree/tmp/after"
[[ ! -e $tree/var/cache/kascade ]]
echo "nothing is left of $(basename "$package")"
