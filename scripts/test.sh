#!/bin/bash
# Everything that must hold before a change lands; CI runs just this. On Debian,
# as root, it installs the programs that tests use as oracles (QEMU, e2fsprogs)
# and peers; elsewhere tests that need one skip, and the skips are listed at the
# end. About a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

packages="git gcc libc6-dev qemu-utils nbdkit libnbd-bin qemu-system-x86 syslinux syslinux-common mtools xz-utils
  busybox-static cpio e2fsprogs restic borgbackup strace"
if command -v dpkg-query >/dev/null; then
  missing=
  for p in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
  done
  # The guest of the tests fetches its kernel with apt-get, which needs lists too.
  if [ "$(id -u)" = 0 ] && { [ -n "$missing" ] || ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; }; then
    say "installing:$missing"
    apt-get -q update >/dev/null
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing >/dev/null
  elif [ -n "$missing" ]; then
    echo "not installed, and this is not root:$missing"
  fi
fi
race=-race
[ "$(go env CGO_ENABLED)" = 1 ] && command -v gcc >/dev/null || { race=; echo "no C compiler: the race detector is left out"; }

say "format"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted"; exit 1; }

say "vet"
go vet ./...

say "vet and build for Windows"
GOOS=windows go vet ./...
GOOS=windows go build ./...

status=0
# What starts whole programs, dozens of processes each, is judged without the race
# detector, which would make this three times as long, and so is the simulated disk,
# which one goroutine tries in thousands of states, formats of disks, which are held
# against QEMU byte for byte, what opens vaults by the dozen, of which the password's
# hardening takes most, and what one goroutine works through alone, chunk by chunk or row
# by row: `make race` runs all with it.
whole='/(audit/proof|bench.*|rules|cmd/millrace(/keys)?|domain|conductor|conductor/outpost|chunk|restore|hypervisor/folder|ledger/table|stages/(chunker|indexer)|vault/store/crashfs|vdisk/(qcow2|vhd|vhdx|vhdx/(create|inplace)))$'
say "tests${race:+ under the race detector}"
# shellcheck disable=SC2046 # a list of words
go test $race -count=1 -timeout 14m -json $(go list ./... | grep -vE "$whole") | go run ./bench/testreport || status=1

# What takes a minute and more and looks at what others look at too: `make long` has it.
# Of the guests that boot, the one that is backed up while it runs stays (some 45 s).
long='/bench/history$'
later='^Test(KilledInlineWorkers|GuestBoots|RestoredGuestBoots|GuestsInTrouble)$'
say "tests of whole programs, and shares of the campaigns"
# shellcheck disable=SC2046
go test -count=1 -timeout 14m -skip "$later" -json $(go list ./... | grep -E "$whole" | grep -vE "$long") | go run ./bench/testreport || status=1

for mod in $(git ls-files '*/go.mod'); do
  folder=${mod%/go.mod}
  say "nested module $folder"
  (cd "$folder" && go vet ./...) || status=1
  # Some are only programs that another module's tests run.
  [ -n "$(git ls-files "$folder/*_test.go")" ] || continue
  (cd "$folder" && go test -count=1 -json ./...) | go run ./bench/testreport || status=1
done

say "finished: $([ $status = 0 ] && echo 'all well' || echo 'SOMETHING FAILED, see above')"
exit $status
