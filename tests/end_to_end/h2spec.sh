#!/usr/bin/env bash
# Compares the HTTP/2 conformance of kascade-server with that of a plain server of the same gRPC.
# Usage: h2spec.sh KASCADE_SERVER
#
# Fails if h2spec fails the server in a case in which it passes the plain one. Takes two minutes.
# Without h2spec it is skipped (exit code 77):
#   go install github.com/summerwind/h2spec/cmd/h2spec@latest
set -euo pipefail

server=$(realpath "${1:?usage: h2spec.sh KASCADE_SERVER}")
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
if ! command -v h2spec >/dev/null; then
  echo "h2spec.sh: SKIPPED, h2spec not found (go install github.com/summerwind/h2spec/cmd/h2spec@latest)" >&2
  exit 77
fi

folder=$(mktemp -d)
pids=()
cleanup() {
  ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT

read -ra libraries <<<"$(pkg-config --libs grpc++)"
g++ -std=c++20 -O1 "$root/tests/end_to_end/h2spec/plain_server.cc" -o "$folder/plain_server" "${libraries[@]}"
"$folder/plain_server" >"$folder/plain_port" &
pids+=($!)
"$server" --model "$root/models/demo" --kv-memory 16MiB --threads 1 --listen 127.0.0.1:0 \
  --metrics-listen "" --log-level error --port-file "$folder/ports" &
pids+=($!)
until [[ -s $folder/plain_port && -e $folder/ports ]]; do
  kill -0 "${pids[@]}" || exit 1
  sleep 0.1
done

# Writes the names of the failed cases, with their numbers, and prints the totals.
failures() {
  h2spec -h 127.0.0.1 -p "$1" -o 1 -P /grpc.health.v1.Health/Check >"$2.report" || true
  grep -q '^145 tests' "$2.report" || {
    tail -n 5 "$2.report" >&2
    exit 1
  }
  grep -oE '× .*' "$2.report" | sort -u >"$2"
  printf '%-16s %s\n' "$(basename "$2")" "$(grep '^145 tests' "$2.report")"
}

failures "$(<"$folder/plain_port")" "$folder/plain-gRPC"
failures "$(head -n 1 "$folder/ports")" "$folder/kascade-server"
new=$(comm -13 "$folder/plain-gRPC" "$folder/kascade-server")
if [[ -n $new ]]; then
  printf 'Failures that the plain server does not have:\n%s\n' "$new" >&2
  exit 1
fi
echo "No failures beside gRPC's own."
