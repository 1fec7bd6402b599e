#!/bin/sh
# score-shard.sh COMMAND…: runs COMMAND FILE for each file of this shard and keeps its output as
# RESULTS/FILE.json. The files below TEXTS are sorted by name, and every SHARDS-th one, beginning with
# number JOB_COMPLETION_INDEX, belongs to the shard. A file with a result is left out. After a failure
# the other files are still scored, and the exit code is 1; wrong usage (2) ends the shard at once.
set -eu
: "${TEXTS:?}" "${RESULTS:?}" "${SHARDS:?}" "${JOB_COMPLETION_INDEX:?}"

cd "$TEXTS"
find . -type f | LC_ALL=C sort |
  awk -v shards="$SHARDS" -v shard="$JOB_COMPLETION_INDEX" '(NR - 1) % shards == shard' | {
  failed=0
  while IFS= read -r file; do
    file=${file#./}
    result=$RESULTS/$file.json
    [ ! -e "$result" ] || continue
    mkdir -p "$(dirname "$result")"
    code=0
    "$@" "./$file" </dev/null >"$result.part" || code=$?
    if [ "$code" = 0 ]; then
      mv "$result.part" "$result"
      echo "scored $file"
      continue
    fi
    rm -f "$result.part"
    echo "failed with exit code $code: $file" >&2
    [ "$code" != 2 ] || exit 2
    failed=1
  done
  exit "$failed"
}
