package events

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/millrace-backup/millrace/events/wire"
)

// ErrMalformed marks bytes that are not a message of ours, or are one that
// asks for more than it may. It never means "newer": newer messages decode.
var ErrMalformed = wire.ErrMalformed

// MaxMessage bounds what Unmarshal looks at. Parcels that travel inline
// carry 4 MiB of disk; everything else is far smaller.
const MaxMessage = wire.MaxMessage

// Walk measures the first msgpack value in b without decoding it; see [wire.Walk].
func Walk(b []byte) (int, error) { return wire.Walk(b) }

// Marshal gives v's wire form: msgpack, structs as maps under the names in
// their json (or msgpack) tags, maps sorted by key, integers as short as they
// can be. Equal values have equal bytes.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := msgpack.NewEncoder(&buf)
	e.SetSortMapKeys(true)
	e.UseCompactInts(true)
	e.SetCustomStructTag("json")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return buf.Bytes(), nil
}

// Unmarshal decodes one message into v, a pointer. It refuses, with
// ErrMalformed and before anything is allocated, a message that is longer than
// MaxMessage, that has a length field larger than the bytes left, more than
// 32 levels, more than 262,144 values, or bytes behind its end.
//
// A number that does not fit the field it is meant for is cut off as Go
// converts it: who depends on a number's size checks its range.
func Unmarshal(b []byte, v any) error {
	n, err := Walk(b)
	if err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	if n != len(b) {
		return fmt.Errorf("decode %T: %d bytes behind its end: %w", v, len(b)-n, ErrMalformed)
	}
	d := msgpack.NewDecoder(bytes.NewReader(b))
	d.SetCustomStructTag("json")
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode %T: %w: %w", v, ErrMalformed, err)
	}
	return nil
}

// EncodeRecords gives the body of a ledger segment: an array of records. A
// record that was decoded goes out as the bytes it came from.
func EncodeRecords(records []Record) ([]byte, error) {
	var buf bytes.Buffer
	e := msgpack.NewEncoder(&buf)
	if err := e.EncodeArrayLen(len(records)); err != nil {
		return nil, err
	}
	for _, r := range records {
		b, err := EncodeRecord(r)
		if err != nil {
			return nil, err
		}
		buf.Write(b)
	}
	return buf.Bytes(), nil
}

// EncodeRecord gives a record's wire form, [kind, time, job, fact], or Raw if
// the record was decoded.
func EncodeRecord(r Record) ([]byte, error) {
	if r.Raw != nil {
		return r.Raw, nil
	}
	if r.Fact == nil {
		return nil, fmt.Errorf("encode record %q: %w: no fact", r.Kind, ErrMalformed)
	}
	body, err := factBytes(r.Fact)
	if err != nil {
		return nil, err
	}
	return Marshal([]any{r.Fact.Kind(), int64(At(r.Time)), r.Job, msgpack.RawMessage(body)})
}

func factBytes(f Fact) ([]byte, error) {
	if u, ok := f.(Unknown); ok {
		return u.Body, nil
	}
	return Marshal(f)
}

// DecodeRecords reads a segment's body. It fails on the first record that is
// malformed: a body is authentic or it is not, there is no half.
func DecodeRecords(b []byte) ([]Record, error) {
	n, off, err := wire.ArrayHeader(b)
	if err != nil {
		return nil, fmt.Errorf("decode records: %w", err)
	}
	var records []Record
	for i := range n {
		size, err := Walk(b[off:])
		if err != nil {
			return nil, fmt.Errorf("decode record %d: %w", i, err)
		}
		r, err := DecodeRecord(b[off : off+size : off+size])
		if err != nil {
			return nil, fmt.Errorf("decode record %d: %w", i, err)
		}
		records = append(records, r)
		off += size
	}
	if off != len(b) {
		return nil, fmt.Errorf("decode records: %d bytes behind the last: %w", len(b)-off, ErrMalformed)
	}
	return records, nil
}

// DecodeRecord reads one record and keeps b as its Raw.
func DecodeRecord(b []byte) (Record, error) {
	n, off, err := wire.ArrayHeader(b)
	if err != nil {
		return Record{}, err
	}
	if n < 4 {
		return Record{}, fmt.Errorf("a record of %d parts: %w", n, ErrMalformed)
	}
	var parts [4][]byte
	end := off
	for i := range n { // parts after the fourth are a later program's
		size, err := Walk(b[end:])
		if err != nil {
			return Record{}, err
		}
		if i < len(parts) {
			parts[i] = b[end : end+size : end+size]
		}
		end += size
	}
	if end != len(b) {
		return Record{}, fmt.Errorf("%d bytes behind a record: %w", len(b)-end, ErrMalformed)
	}
	var micros int64
	r := Record{Raw: b}
	if err := errors.Join(Unmarshal(parts[0], &r.Kind), Unmarshal(parts[1], &micros), Unmarshal(parts[2], &r.Job)); err != nil {
		return Record{}, err
	}
	r.Time = time.UnixMicro(micros).UTC()
	if r.Fact, err = decodeFact(r.Kind, parts[3]); err != nil {
		return Record{}, err
	}
	return r, nil
}

// Fields gives every field of the record's fact under its wire name, those
// included that this program has no struct field for. Ids and sums are byte
// slices. It is what `audit show` prints of a fact it does not know.
func (r Record) Fields() (map[string]any, error) {
	raw, err := EncodeRecord(r)
	if err != nil {
		return nil, err
	}
	var parts []msgpack.RawMessage
	if err := Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	if len(parts) < 4 {
		return nil, fmt.Errorf("a record of %d parts: %w", len(parts), ErrMalformed)
	}
	fields := map[string]any{}
	return fields, Unmarshal(parts[3], &fields)
}

// decodeAs decodes a fact of type T and gives it back as a value.
func decodeAs[T Fact](body []byte) (Fact, error) {
	var f T
	if err := Unmarshal(body, &f); err != nil {
		return nil, err
	}
	return f, nil
}
