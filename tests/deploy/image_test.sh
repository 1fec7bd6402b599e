#!/usr/bin/env bash
# ./run image-test [IMAGE]: checks the Dockerfile with hadolint, builds the image with buildah (half an hour on two
# cores, where ccache has not compiled it before) and runs it as a cluster would: as another user than root, with a
# read-only root, without capabilities, with limits. IMAGE, in buildah's store, is run without building.
#
# Where the base image cannot be pulled, debootstrap makes one of the same release. Running needs a Docker
# daemon; the test starts one of its own in a temporary folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/deploy/tools/with_tools.sh
. tests/deploy/tools/with_tools.sh
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=chroot

((EUID == 0)) || skip "it needs root, for buildah's chroot and a Docker daemon"
command -v buildah >/dev/null || skip "no buildah"

lint() {
  say "hadolint"
  need_tools images debian
  hadolint Dockerfile
}

# The name of a base image in buildah's store.
base_image() {
  local base=localhost/kascade-base:bookworm container
  if buildah pull --quiet debian:bookworm-slim >/dev/null 2>&1; then
    echo debian:bookworm-slim
    return
  fi
  if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    say "no debian:bookworm-slim to be had, making a base with debootstrap"
    mkdir "$work/base"
    copy-debian "$work/base"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base" / >/dev/null
    buildah commit --quiet "$container" "$base" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf "$work/base"
  fi
  echo "$base"
}

build() {
  local base cache shared=()
  base=$(base_image)
  # The compiler in the image is the same as that of a Debian 12 outside, and so is what it compiles.
  cache=$(ccache --get-config cache_dir 2>/dev/null || true)
  [[ ! -d $cache ]] || shared=(--volume "$cache:/ccache")
  say "building $image on $base"
  nice buildah bud --layers --pull-never --format docker "${shared[@]}" --build-arg BASE="$base" --build-arg JOBS="${KASCADE_JOBS:-}" \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" --tag "$image" .
}

stop() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  [[ -z $daemon ]] || wait "$daemon" 2>/dev/null || true
  ! mountpoint -q "$work/exec/netns/default" || umount "$work/exec/netns/default"
  rm -rf "$work"
}

start_docker() {
  command -v dockerd >/dev/null || skip_running "no dockerd"
  export DOCKER_HOST=unix://$work/docker.sock
  dockerd --data-root "$work/docker" --exec-root "$work/exec" -H "$DOCKER_HOST" --pidfile "$work/docker.pid" \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false --storage-driver=vfs \
    >"$work/docker.log" 2>&1 </dev/null &
  daemon=$!
  local try
  for ((try = 0; try < 60; ++try)); do
    ! docker version >/dev/null 2>&1 || break
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.5
  done
  docker version >/dev/null 2>&1 || {
    tail -n 3 "$work/docker.log" >&2
    skip_running "the Docker daemon did not start"
  }
  buildah push --quiet "$image" "docker-archive:$work/image.tar:kascade-serve:test" >/dev/null
  docker load --quiet --input "$work/image.tar"
  rm "$work/image.tar"
}

skip_running() {
  printf '%s: SKIPPED running the image: %s\n' "$0" "$1" >&2
  [[ ${KASCADE_REQUIRE_DEPLOY_TOOLS:-} != 1 ]] || exit 1
  exit 0
}

image=${1:-localhost/kascade-serve:test}
daemon=
work=$(mktemp -d)
trap stop EXIT
lint
(($#)) || build
say "size: $(buildah images --format '{{.Size}}' "$image")"
start_docker
say "running it as a cluster would"
/usr/bin/python3 tests/deploy/image_under_docker.py kascade-serve:test
