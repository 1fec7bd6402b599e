#!/usr/bin/env bash
# Sourced by the scripts of this folder's parent.

# Puts the tools of these groups (install.sh) on the PATH. Where they cannot be had, the check ends here:
# loudly, and as a failure where KASCADE_REQUIRE_DEPLOY_TOOLS=1 says that everything must be here.
need_tools() {
  local folders
  if ! folders=$(tests/deploy/tools/install.sh "$@"); then
    skip "the tools for it could not be installed ($*)"
  fi
  PATH=$folders$PATH
}

skip() {
  printf '%s: SKIPPED, NOTHING WAS CHECKED: %s\n' "$0" "$1" >&2
  [[ ${KASCADE_REQUIRE_DEPLOY_TOOLS:-} != 1 ]] || exit 1
  exit 0
}

say() { printf '\n== %s\n' "$*" >&2; }
