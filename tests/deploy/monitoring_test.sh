#!/usr/bin/env bash
# ./run monitoring-test: rules and alerts under promtool, the dashboard as Grafana's SDK decodes it, its
# queries against a real Prometheus that scrapes a real server, Envoy's configuration under Envoy, and the
# systemd unit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/deploy/tools/with_tools.sh
. tests/deploy/tools/with_tools.sh
export PYTHONDONTWRITEBYTECODE=1

command -v go >/dev/null || skip "it needs Go, to compile what decodes the dashboard"
need_tools monitoring
say "rules and alerts"
promtool check rules deploy/prometheus-rules.yaml
promtool check config --syntax-only deploy/prometheus.yaml
promtool test rules tests/deploy/prometheus-rules.test.yaml
say "dashboard"
dashboard-check deploy/grafana-dashboard.json
/usr/bin/python3 tests/deploy/live_queries.py . build/release/server/kascade-server \
  build/release/client/kascade
say "Envoy"
envoy --mode validate --log-level error --config-path deploy/envoy/envoy.yaml
/usr/bin/python3 tests/deploy/servers_behind_envoy.py . build/release/server/kascade-server
say "nginx"
/usr/bin/python3 tests/deploy/servers_behind_nginx.py . build/release/server/kascade-server
say "systemd"
if ! command -v systemd-analyze >/dev/null; then
  echo "monitoring_test.sh: SKIPPED the unit: no systemd-analyze" >&2
  [[ ${KASCADE_REQUIRE_DEPLOY_TOOLS:-} != 1 ]] || exit 1
  exit 0
fi
unit=$(mktemp -d)/kascade-server.service
sed "s,/usr/bin/kascade-server,$PWD/build/release/server/kascade-server," \
  deploy/systemd/kascade-server.service >"$unit"
systemd-analyze verify "$unit"
# 2.0 of 10; what remains is the network, and code that is compiled at the start.
systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" | tail -n 1
rm -r "$(dirname "$unit")"
