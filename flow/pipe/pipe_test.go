package pipe

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/id"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const password, grant = "hunter2-hunter2-hunter2", "the vault's own keys"

func settings() flow.Config {
	return flow.Config{
		Job: id.Job{1, 2, 3}, Stage: flow.Seal, Worker: 7, Restart: 2, Dial: courier.Dial{
			URL: "nats://127.0.0.1:4222", User: "seal-7", Password: courier.Secret(password), Credentials: courier.Secret(password), Key: courier.Secret(grant)},
		Arena: 5, Folder: "/state/job", Grant: courier.Secret(grant),
		Work: flow.Work{
			Vault: "file:///vault", Domain: id.Domain{4}, Cutter: chunk.Params{Name: "aligned", Min: 16384}, Codec: "auto", ParcelSize: 4 << 20,
			Guests: []flow.WorkGuest{{Name: "web", Config: []byte("<xml/>"), Unprotected: []events.Unprotected{{Key: "iso", Reason: "media"}}}},
			Disks:  []flow.WorkDisk{{Guest: 0, Info: events.DiskInfo{Key: "disk.vhdx", VirtualSize: 1 << 40}, Parent: &events.PointDisk{Size: 5}}},
		},
	}
}

func TestConfigGoesThroughThePipe(t *testing.T) {
	var pipe bytes.Buffer
	in := settings()
	if err := Write(&pipe, in); err != nil {
		t.Fatal(err)
	}
	pipe.WriteString(flow.Drain + "\n")
	r := bufio.NewReader(&pipe)
	out, err := Read(r)
	if err != nil || !reflect.DeepEqual(in, out) {
		t.Fatalf("%+v became %+v (%v)", in, out, err)
	}
	if string(out.Dial.Password) != password || string(out.Grant) != grant {
		t.Fatal("the secrets did not arrive")
	}
	if rest, err := r.ReadString('\n'); rest != flow.Drain+"\n" {
		t.Errorf("what follows is %q, %v", rest, err)
	}
}

// A secret may be printed in any way anyone thinks of, and is not shown.
func TestSecretsNeverPrint(t *testing.T) {
	cfg := settings()
	var shown strings.Builder
	for _, v := range []any{cfg, &cfg, []flow.Config{cfg}, map[string]flow.Config{"a": cfg}, cfg.Dial.Password, &cfg.Dial.Password, []courier.Secret{cfg.Dial.Password}, map[string]any{"s": cfg.Grant}} {
		for _, verb := range []string{"v", "+v", "#v", "s", "q", "d", "x", "X", "c", "U", "b", "o", "t", "e", " x", "#x", "T"} {
			fmt.Fprintf(&shown, "%"+verb+"\n", v)
		}
		fmt.Fprintln(&shown, v)
		for _, encode := range []func(any) ([]byte, error){json.Marshal, events.Marshal, xml.Marshal, asGob, slogText, slogJSON, zapJSON} {
			if b, err := encode(v); err == nil {
				shown.Write(b)
				shown.WriteByte('\n')
			}
		}
	}
	fmt.Fprintln(&shown, errors.Join(fmt.Errorf("%v", cfg), fmt.Errorf("%s", cfg.Dial.Password)))
	text := shown.String()
	for _, secret := range []string{password, grant} {
		numbers := strings.Trim(fmt.Sprint([]byte(secret)), "[]")
		for _, form := range []string{
			secret, base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret)),
			strings.ToUpper(hex.EncodeToString([]byte(secret))), numbers, strings.ReplaceAll(numbers, " ", ","), fmt.Sprintf("% x", secret),
			strings.Trim(fmt.Sprintf("%#v", []byte(secret)), "[]byte{}"),
		} {
			if strings.Contains(text, form) {
				at := strings.Index(text, form)
				t.Errorf("%q shows: ...%q", form, text[max(0, at-60):min(len(text), at+80)])
			}
		}
	}
	if !strings.Contains(text, "***") || !strings.Contains(text, "seal-7") {
		t.Error("the test shows nothing at all")
	}
}

func asGob(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func slogText(v any) ([]byte, error) {
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
	return b.Bytes(), nil
}

func slogJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
	return b.Bytes(), nil
}

func zapJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&b), zap.DebugLevel)
	zap.New(core).Info("x", zap.Any("v", v))
	return b.Bytes(), nil
}

func TestConfigTooLarge(t *testing.T) {
	c := settings()
	c.Work.Guests[0].Config = make([]byte, maxConfig)
	var pipe bytes.Buffer
	if err := Write(&pipe, c); err == nil || pipe.Len() != 0 {
		t.Errorf("%d bytes were sent that no worker takes: %v", pipe.Len(), err)
	}
	if err := Write(brokenPipe{}, settings()); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func FuzzRead(f *testing.F) {
	var pipe bytes.Buffer
	if err := Write(&pipe, settings()); err != nil {
		f.Fatal(err)
	}
	f.Add(pipe.Bytes())
	f.Add(pipe.Bytes()[:100])
	f.Add([]byte("\x02\x00\x00\x00{}rest"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add(binary.LittleEndian.AppendUint32(nil, maxConfig))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		c, err := Read(r)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		if n := 4 + int(binary.LittleEndian.Uint32(b)); len(rest) != len(b)-n {
			t.Fatalf("%d bytes are left of %d after settings of %d", len(rest), len(b), n)
		}
		var pipe bytes.Buffer
		if err := Write(&pipe, c); err != nil {
			t.Fatal(err)
		}
		sent := pipe.String()
		again, err := Read(bufio.NewReader(&pipe))
		if err != nil {
			t.Fatal(err)
		}
		var second bytes.Buffer
		if err := Write(&second, again); err != nil || second.String() != sent {
			t.Fatalf("%q became %q, %v", sent, second.String(), err)
		}
	})
}
