#!/bin/bash
# Runs every fuzz target of the module for the given time each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
targets=$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | grep -v /testdata/ | sort)
[ -n "$targets" ] || { echo "no fuzz targets found" >&2; exit 1; }
while IFS=: read -r file func; do
  name=${func#func }
  echo "--- $(dirname "$file") $name $time"
  go test "$(dirname "$file")" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x
done <<<"$targets"
