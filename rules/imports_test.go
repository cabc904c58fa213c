package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tiers is the import order, highest first. A package belongs to the tier of
// its first path element and imports its own tier and lower ones.
var tiers = []string{
	"cmd", "bench", "conductor", "stages", "audit", "prune", "heal", "domain", "retention", "restore", "catalog", "flow", "ledger", "selection", "events",
	"guestfs", "hypervisor", "blockdev", "vault", "chunk", "vdisk", "id",
}

const whyDown = "imports go one way (ARCHITECTURE.md, folder map), so that a library can be used, tested and " +
	"understood without what stands on it; two packages that need each other meet in events, or are one"

func tier(importPath string) (string, bool) {
	rest, ours := strings.CutPrefix(importPath, module+"/")
	first, _, _ := strings.Cut(rest, "/")
	return first, ours
}

func importsGoDown(t *tree) (out []problem) {
	for _, s := range t.sources {
		from, _ := tier(module + "/" + s.path)
		level := slices.Index(tiers, from)
		if level < 0 {
			if from != "rules" {
				out = append(out, problem{s.path, "folder " + from + " is in no tier", "every package has a place in the import order: " + whyDown})
			}
			continue
		}
		for _, i := range s.syntax.Imports {
			name, _ := strconv.Unquote(i.Path.Value)
			to, ours := tier(name)
			switch {
			case !ours:
			case s.test && to != "cmd":
				// A test may reach up: it proves the package on real input.
			case slices.Index(tiers, to) < level:
				out = append(out, problem{t.at(i), fmt.Sprintf("%s imports %s, which stands above it", from, to), whyDown})
			case from == "stages" && to == "stages" && name != module+"/"+s.folder:
				out = append(out, problem{t.at(i), "a stage imports a stage", "stages run as separate processes, on separate machines too: what one must tell another is in a message"})
			}
		}
	}
	return out
}

// owner says who alone may import an outside module.
type owner struct {
	prefix string   // of the import path
	by     []string // folders, with everything below them
	tests  bool     // tests may import it anywhere
	why    string
}

var owners = []owner{
	{"github.com/nats-io/nats.go", []string{"flow", "ledger", "bench/campaign/queues"}, true, "messages are the business of flow (parcels) and ledger (live copy); everyone else sees parcels and facts, but for who spoils them on purpose"},
	{"github.com/nats-io/nats-server", []string{"conductor"}, true, "one process owns the server: the conductor of the job"},
	{"github.com/nats-io/jwt", []string{"conductor"}, true, "credentials of workers are made where the server is"},
	{"github.com/nats-io/nkeys", []string{"conductor"}, true, "credentials of workers are made where the server is"},
	{"github.com/tink-crypto", []string{"vault"}, false, "one package seals and opens: what is bound to what can then be reviewed in one place"},
	{"github.com/google/tink", nil, false, "archived, and its registration panics next to tink-go/v2; only the nested module vault/compat may use it"},
	{"github.com/vmihailenco/msgpack", []string{"events"}, true, "13 foreign bytes can make it allocate without limit: every decode goes through the bounded decoder of events"},
	{"github.com/PlakarKorp/go-cdc-chunkers", []string{"chunk"}, true, "cutters are behind chunk.Cutter"},
	{"github.com/pierrec/lz4", []string{"vault"}, true, "codecs are behind vault.Codec"},
	{"github.com/klauspost/compress", []string{"vault", "vdisk/qcow2"}, true, "codecs are behind vault.Codec; a disk format has its own"},
	{"github.com/minio/minio-go", []string{"vault/store/s3"}, false, "an SDK is known to its own store alone"},
	{"github.com/Azure/azure-sdk-for-go", []string{"vault/store/azure"}, false, "an SDK is known to its own store alone"},
	{"cloud.google.com/go/storage", []string{"vault/store/gcs"}, false, "an SDK is known to its own store alone"},
	{"github.com/pkg/sftp", []string{"vault/store/sftp"}, false, "an SDK is known to its own store alone"},
	{"github.com/jlaffaye/ftp", []string{"vault/store/ftp"}, false, "an SDK is known to its own store alone"},
	{"github.com/studio-b12/gowebdav", []string{"vault/store/webdav"}, false, "an SDK is known to its own store alone"},
	{"github.com/spf13/cobra", []string{"cmd"}, false, "flags are read in cmd and passed down as values"},
	{"github.com/knadh/koanf", []string{"cmd"}, false, "settings are read in cmd and passed down as values"},
	{"github.com/goccy/go-yaml", []string{"cmd"}, false, "settings are read in cmd and passed down as values"},
	{"github.com/vbauerster/mpb", []string{"cmd"}, false, "only the command line draws"},
	{"github.com/prometheus", []string{"conductor/metrics"}, true, "what is measured is known to everyone as plain numbers; one package gives them their names for Prometheus"},
	{"go.uber.org/zap", []string{"cmd", "conductor", "flow", "stages"}, true, "libraries return errors and facts; processes log"},
}

func ownedImports(t *tree) (out []problem) {
	for _, s := range t.sources {
		for _, i := range s.syntax.Imports {
			name, _ := strconv.Unquote(i.Path.Value)
			for _, o := range owners {
				if !strings.HasPrefix(name, o.prefix) || s.test && o.tests || under(s.folder, o.by) {
					continue
				}
				out = append(out, problem{t.at(i), fmt.Sprintf("%s is imported outside %v", name, o.by), o.why})
			}
		}
	}
	return out
}

// under reports whether folder is one of the given or below one.
func under(folder string, any []string) bool {
	return slices.ContainsFunc(any, func(o string) bool { return folder == o || strings.HasPrefix(folder, o+"/") })
}
