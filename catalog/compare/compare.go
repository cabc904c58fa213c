// Package compare finds out in which rows two states of a catalog differ.
//
// [States] yields every row, and in it every field, on which two states do not agree:
// rows that one of them lacks, and values that are not the same. [Values] does the same
// for two facts of one type. A copy of the catalog that somebody edited is found out by
// comparing it with what the ledger adds up to.
//
// Guarantees: states folded from the same facts have no difference, whether they were
// folded, or written as an image and read back; the order is fixed, by kind of row and
// then by id, so that the first difference is the same each time. Nothing is judged:
// neither of the two is said to be the right one.
package compare

import (
	"bytes"
	"encoding"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// Difference is a value on which two sides do not agree.
type Difference struct {
	Row   string // what is described: "point 1f03… of web"
	Field string // of it: "Disks[0].Size"; empty: one side lacks the row
	A, B  string // what each side says; empty: it lacks the row
}

func (d Difference) String() string {
	switch {
	case d.Field != "":
		return fmt.Sprintf("%s: %s is %s, not %s", d.Row, d.Field, d.B, d.A)
	case d.B == "":
		return d.Row + ": it is missing"
	}
	return d.Row + ": it should not be there"
}

// States yields where b differs from a.
func States(a, b *catalog.State) iter.Seq[Difference] {
	return func(yield func(Difference) bool) {
		c := comparison{yield: yield}
		c.row("the vault", a.Vault, b.Vault)
		c.row("the end of the ledger", a.Next, b.Next)
		table(&c, a.Keys, b.Keys, func(k id.Key) string { return "key " + k.String() })
		table(&c, a.Sets, b.Sets, func(name string) string { return "set " + name })
		table(&c, a.Guests, b.Guests, func(g id.Guest) string { return "guest " + g.String() + named(a.Guests[g], b.Guests[g]) })
		table(&c, a.Jobs, b.Jobs, func(j id.Job) string { return "job " + j.String() })
		table(&c, a.Packs, b.Packs, func(k catalog.PackKey) string { return vault.PackName(k.Job, k.Pack) })
		table(&c, a.Points, b.Points, func(p id.Point) string { return "point " + p.String() + of(a.Points[p], b.Points[p]) })
		table(&c, a.Runs, b.Runs, func(j id.Job) string { return "run " + j.String() })
		table(&c, a.Pins, b.Pins, func(j id.Job) string { return "pin of " + j.String() })
		table(&c, a.Withdrawn, b.Withdrawn, func(w catalog.WithdrawnChunk) string {
			return fmt.Sprintf("withdrawn chunk %s in %s", w.Chunk, vault.PackName(w.Job, w.Pack))
		})
		table(&c, a.Tables, b.Tables, func(t id.Object) string { return "retired table " + t.String() })
		table(&c, a.Retired, b.Retired, func(position uint64) string { return fmt.Sprintf("what position %d retired", position) })
	}
}

// Values yields where b differs from a; both are of one type.
func Values(row string, a, b any) iter.Seq[Difference] {
	return func(yield func(Difference) bool) {
		c := comparison{yield: yield}
		c.row(row, a, b)
	}
}

func named(guests ...*catalog.Guest) string {
	for _, g := range guests {
		if g != nil && g.Name != "" {
			return " (" + g.Name + ")"
		}
	}
	return ""
}

func of(points ...*catalog.Point) string {
	for _, p := range points {
		if p != nil && p.GuestName != "" {
			return " of " + p.GuestName
		}
	}
	return ""
}

// comparison is where a comparison stands.
type comparison struct {
	yield func(Difference) bool
	over  bool
	name  string
}

func (c *comparison) tell(d Difference) { c.over = c.over || !c.yield(d) }

func (c *comparison) row(name string, a, b any) {
	c.name = name
	c.values("", reflect.ValueOf(a), reflect.ValueOf(b))
}

// table compares two maps, in the order of the names of their rows.
func table[K comparable, V any](c *comparison, a, b map[K]V, name func(K) string) {
	all := map[string]K{}
	for k := range a {
		all[name(k)] = k
	}
	for k := range b {
		all[name(k)] = k
	}
	for _, text := range slices.Sorted(maps.Keys(all)) {
		if c.over {
			return
		}
		va, ina := a[all[text]]
		vb, inb := b[all[text]]
		switch {
		case !ina:
			c.tell(Difference{Row: text, B: "there"})
		case !inb:
			c.tell(Difference{Row: text, A: "there"})
		default:
			c.row(text, va, vb)
		}
	}
}

// values compares two values of one type. Empty and absent are the same, for that is how
// they are written down.
func (c *comparison) values(path string, a, b reflect.Value) {
	if c.over {
		return
	}
	differ := func() { c.tell(Difference{c.name, strings.TrimPrefix(path, "."), show(a), show(b)}) }
	switch a.Kind() {
	case reflect.Pointer:
		switch {
		case a.IsNil() && b.IsNil():
		case a.IsNil() || b.IsNil():
			differ()
		default:
			c.values(path, a.Elem(), b.Elem())
		}
	case reflect.Struct:
		if t, ok := a.Interface().(time.Time); ok {
			if !t.Equal(b.Interface().(time.Time)) {
				differ()
			}
			return
		}
		for n := range a.NumField() {
			if f := a.Type().Field(n); f.IsExported() {
				step := "." + f.Name
				if f.Anonymous {
					step = ""
				}
				c.values(path+step, a.Field(n), b.Field(n))
			}
		}
	case reflect.Slice, reflect.Array:
		c.list(path, a, b, differ)
	case reflect.Map:
		if !sameMap(a, b) {
			differ()
		}
	default:
		if !a.Equal(b) {
			differ()
		}
	}
}

func (c *comparison) list(path string, a, b reflect.Value, differ func()) {
	switch {
	case a.Type().Elem().Kind() == reflect.Uint8:
		if show(a) != show(b) || a.Kind() == reflect.Slice && !bytes.Equal(a.Bytes(), b.Bytes()) {
			differ()
		}
	case a.Len() != b.Len():
		c.tell(Difference{c.name, strings.TrimPrefix(path, ".") + " (count)", fmt.Sprint(a.Len()), fmt.Sprint(b.Len())})
	default:
		for n := range a.Len() {
			x, y := a.Index(n), b.Index(n)
			if p, ok := x.Interface().(*catalog.Point); ok { // a row of its own: here its id is enough
				x, y = reflect.ValueOf(p.Point), reflect.ValueOf(y.Interface().(*catalog.Point).Point)
			}
			c.values(fmt.Sprintf("%s[%d]", path, n), x, y)
		}
	}
}

func sameMap(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for _, k := range a.MapKeys() {
		v := b.MapIndex(k)
		if !v.IsValid() || !a.MapIndex(k).Equal(v) {
			return false
		}
	}
	return true
}

// show writes a value as one reads it.
func show(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		return "not there"
	case v.Kind() == reflect.Pointer:
		return "there"
	case v.Kind() == reflect.String:
		return fmt.Sprintf("%q", v.String())
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		return fmt.Sprintf("%d bytes %.16x", v.Len(), id.Sum(v.Bytes()))
	}
	if t, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := t.MarshalText(); err == nil {
			return string(b)
		}
	}
	return fmt.Sprint(v.Interface())
}
