# The verbs of this repository. Two of them are enough to begin with:
#
#   make demo    the whole story on this machine, without root
#   make test    installs what is missing (as root on Debian) and runs everything

GO ?= go
FUZZTIME ?= 30s
RUNS ?= 5
RESULTS ?= bench-results
CAMPAIGN ?= all

.PHONY: build demo test check race long guest fuzz update bench bench-peers bench-increments bench-running campaign

build:            ## the one binary, ./millrace
	$(GO) build -trimpath -o millrace ./cmd/millrace

demo: build       ## back up, change, back up again, restore, compare, show the timeline
	./millrace demo

test:             ## everything CI runs
	bash scripts/test.sh

check:            ## seconds: format, vet for both systems, the rules of the tree
	@test -z "$$(gofmt -l .)" || { gofmt -l . ; echo "run gofmt -w on the files above"; exit 1; }
	$(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) test ./rules

race:             ## all tests of the module under the race detector
	$(GO) test -race ./...

guest:            ## Linux guests in QEMU: backed up while they run, in all kinds of trouble, and what is restored boots
	$(GO) test -count=1 -v ./bench/guest

long:             ## what make test leaves out for time: guests that boot, long ledgers, kills of an inline job
	$(GO) test -count=1 ./bench/guest ./bench/history
	$(GO) test -count=1 -run '^TestKilledInlineWorkers$$' ./conductor

fuzz:             ## every fuzz target for FUZZTIME each
	bash scripts/fuzz.sh $(FUZZTIME)

update:           ## write golden files anew; read the diff before committing it
	@for p in $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -r -n 1 dirname | sort -u); do \
		$(GO) test "$$p" -update || exit 1; done
	git diff --stat

bench-increments: build  ## thirty small changes: what they store and what they cost to restore
	$(GO) run ./bench/increments -millrace ./millrace

bench-running: build  ## running guests in QEMU: increments, huge disks, what the guest feels; ten minutes
	$(GO) run ./bench/running -millrace ./millrace

bench: build      ## the standard set of measurements, about an hour: tables, JSON and pictures in RESULTS
	./millrace bench all --runs $(RUNS) --out $(RESULTS)

bench-peers: build  ## millrace beside restic and borg on an image of real files
	./millrace bench peers --runs $(RUNS)

campaign: build   ## the long runs: kills, flips, crashes; stopped, it goes on with the same command; see docs/campaigns
	$(GO) run ./bench/campaign -run $(CAMPAIGN) -millrace ./millrace
