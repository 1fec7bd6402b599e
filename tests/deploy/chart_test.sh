#!/usr/bin/env bash
# ./run chart-test: the chart under real Helm, against the schemas of two Kubernetes versions, and in a real
# Kubernetes API with simulated nodes. --no-cluster leaves out the last, for which Kubernetes is compiled once
# (ten minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/deploy/tools/with_tools.sh
. tests/deploy/tools/with_tools.sh
export PYTHONDONTWRITEBYTECODE=1

command -v go >/dev/null || skip "it needs Go, to compile Helm"
need_tools helm schemas
schemas=$(dirname "$(command -v kubernetes-validate)")/../schemas
say "the chart under Helm"
/usr/bin/python3 tests/deploy/chart_with_helm.py . "$schemas"
[[ ${1:-} != --no-cluster ]] || exit 0

need_tools cluster gateways
KWOK_STAGES=$(dirname "$(command -v kwok)")/../stages
export KWOK_STAGES
folder=$(mktemp -d)
trap 'tests/deploy/tools/cluster.sh "$folder" stop; rm -rf "$folder"' EXIT
say "the chart in a Kubernetes API"
tests/deploy/tools/cluster.sh "$folder" start
/usr/bin/python3 tests/deploy/chart_in_cluster.py . "$folder/kubeconfig"
