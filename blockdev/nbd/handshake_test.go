package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// exportInfo is a reply that tells of an export.
func exportInfo(size uint64, flags Flags) []byte {
	return replyTo(wire.OptGo, wire.RepInfo, uint16(wire.InfoExport), size, uint16(flags))
}

func blockInfo(least, preferred, most uint32) []byte {
	return replyTo(wire.OptGo, wire.RepInfo, uint16(wire.InfoBlockSize), least, preferred, most)
}

func TestHandshakes(t *testing.T) {
	hello := joined(uint64(wire.MagicHello), uint64(wire.MagicOption), uint16(wire.FlagFixed))
	structured, opened := replyTo(wire.OptStructured, wire.RepAck), replyTo(wire.OptGo, wire.RepAck)
	meta := joined(replyTo(wire.OptSetMeta, wire.RepMeta, uint32(1), Allocation), replyTo(wire.OptSetMeta, wire.RepAck))
	good := joined(hello, structured, meta)
	var refused *RefusedError
	var missing *MissingContextError
	for name, c := range map[string]struct {
		says []byte
		is   error // or
		as   any
		text string
	}{
		"old style":              {joined(uint64(wire.MagicHello), uint64(wire.MagicOld), make([]byte, 128)), ErrOldStyle, nil, ""},
		"newstyle without more":  {joined(uint64(wire.MagicHello), uint64(wire.MagicOption), uint16(wire.FlagNoZeroes)), ErrOldStyle, nil, ""},
		"something else":         {[]byte("SSH-2.0-OpenSSH_9.2p1 Debian\r\n"), ErrProtocol, nil, ""},
		"nothing":                {nil, nil, nil, "closed the connection"},
		"half of it":             {hello[:17], nil, nil, "closed the connection"},
		"closed after the hello": {hello, nil, nil, "closed the connection"},
		"no structured replies":  {joined(hello, replyTo(wire.OptStructured, wire.RefusedUnsupported)), nil, &refused, "structured replies"},
		"it wants TLS":           {joined(hello, replyTo(wire.OptStructured, wire.RefusedTLS, "first \x1b[31mTLS")), nil, &refused, `wants TLS: "first \x1b[31mTLS"`},
		"another option's reply": {joined(hello, replyTo(wire.OptGo, wire.RepAck)), ErrProtocol, nil, ""},
		"an endless reply":       {joined(hello, uint64(wire.MagicReply), uint32(wire.OptStructured), uint32(wire.RepAck), uint32(1<<31)), ErrProtocol, nil, ""},
		"information too early":  {joined(hello, replyTo(wire.OptStructured, wire.RepInfo)), ErrProtocol, nil, ""},
		"no contexts":            {joined(hello, structured, replyTo(wire.OptSetMeta, wire.RepAck)), ErrNoContext, &missing, Allocation},
		"unknown contexts":       {joined(hello, structured, replyTo(wire.OptSetMeta, wire.RefusedUnsupported)), ErrNoContext, &missing, Allocation},
		"contexts of nothing":    {joined(hello, structured, replyTo(wire.OptSetMeta, wire.RefusedUnknown)), nil, &refused, "no such export"},
		"one not asked for":      {joined(hello, structured, replyTo(wire.OptSetMeta, wire.RepMeta, uint32(1), "x")), ErrProtocol, nil, ""},
		"the same twice":         {joined(hello, structured, meta[:len(meta)-20], meta), ErrProtocol, nil, ""},
		"a context without id":   {joined(hello, structured, replyTo(wire.OptSetMeta, wire.RepMeta, "abc")), ErrProtocol, nil, ""},
		"no such export":         {joined(good, replyTo(wire.OptGo, wire.RefusedUnknown)), nil, &refused, "no such export"},
		"an unknown refusal":     {joined(good, replyTo(wire.OptGo, wire.RepErrorBit|4711)), nil, &refused, "0x80001267"},
		"no size":                {joined(good, opened), ErrProtocol, nil, "how large"},
		"a negative size":        {joined(good, exportInfo(1<<63, HasFlags), opened), ErrProtocol, nil, ""},
		"no flags":               {joined(good, exportInfo(1<<20, 0), opened), ErrProtocol, nil, ""},
		"two sizes":              {joined(good, exportInfo(1<<20, HasFlags), exportInfo(1<<21, HasFlags), opened), ErrProtocol, nil, ""},
		"information cut short":  {joined(good, replyTo(wire.OptGo, wire.RepInfo, uint16(wire.InfoExport), uint64(5)), opened), ErrProtocol, nil, ""},
		"no information":         {joined(good, replyTo(wire.OptGo, wire.RepInfo, uint8(1)), opened), ErrProtocol, nil, ""},
		"blocks of nothing":      {joined(good, blockInfo(0, 4096, 1<<20)), ErrProtocol, nil, ""},
		"blocks of 3":            {joined(good, blockInfo(3, 4096, 1<<20)), ErrProtocol, nil, ""},
		"blocks of a MiB":        {joined(good, blockInfo(1<<20, 1<<20, 1<<20)), ErrProtocol, nil, ""},
		"requests of nothing":    {joined(good, blockInfo(512, 4096, 511)), ErrProtocol, nil, ""},
		"endless replies":        {joined(good, bytes.Repeat(replyTo(wire.OptGo, wire.RepInfo, uint16(99)), maxReplies+1)), ErrProtocol, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Dial(t.Context(), serve(t, func(f fake) {
				f.send(c.says)
				_ = f.Conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, f)
			}), Options{Export: "the disk", Contexts: []string{Allocation}})
			if err == nil || c.is != nil && !errors.Is(err, c.is) || c.as != nil && !errors.As(err, c.as) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), `"the disk"`) {
				t.Error(err)
			}
		})
	}
}

func TestBlockSizes(t *testing.T) {
	for _, c := range []struct {
		says []byte
		want BlockSize
	}{
		{nil, BlockSize{1, 4096, maxRequest}},
		{blockInfo(1, 4096, 1<<32-1), BlockSize{1, 4096, maxRequest}},
		{blockInfo(64<<10, 64<<10, 1<<32-1), BlockSize{64 << 10, 64 << 10, maxRequest}},
		{blockInfo(512, 65536, 100_000), BlockSize{512, 65536, 99_840}},
	} {
		e := export{block: BlockSize{1, 4096, maxRequest}}
		var err error
		if c.says != nil {
			err = e.info(wire.InfoBlockSize, c.says[22:])
		}
		if err != nil || e.block != c.want {
			t.Errorf("%v, %v; want %v", e.block, err, c.want)
		}
	}
}

// Nobody waits for ever for a server that says nothing, or longer than he wants to.
func TestSilentHandshake(t *testing.T) {
	t.Parallel()
	silent := serve(t, func(f fake) {
		f.send(uint64(wire.MagicHello))
		f.read(1)
	})
	if _, err := Dial(t.Context(), silent, Options{Timeout: 50 * time.Millisecond}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Dial(ctx, silent, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	away := errors.New("nobody there")
	if _, err := Dial(t.Context(), func(context.Context) (net.Conn, error) { return nil, away }, Options{Export: "x"}); !errors.Is(err, away) {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), silent, Options{Export: strings.Repeat("x", maxName+1), Timeout: 50 * time.Millisecond}); err == nil {
		t.Error("a name without end is asked for")
	}
}

// certificate makes one for localhost, which is its own authority.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// With TLS all but the greeting is sealed, and there is no way back to the clear.
func TestTLS(t *testing.T) {
	mine, pool := certificate(t)
	sealed := func(early string) func(context.Context) (net.Conn, error) {
		return serve(t, func(f fake) {
			f.greet()
			n, _ := f.option()
			if n != wire.OptStartTLS {
				t.Errorf("option %d in the clear", n)
			}
			f.send(replyTo(n, wire.RepAck), early)
			f.Conn = tls.Server(f.Conn, &tls.Config{Certificates: []tls.Certificate{mine}})
			for {
				switch n, _ := f.option(); n {
				case wire.OptGo:
					f.send(exportInfo(fakeSize, HasFlags), replyTo(n, wire.RepAck))
					a := f.request()
					f.send(chunkOf(a.cookie, wire.ChunkData, wire.ChunkDone, a.off, "sealed"))
					f.request()
					return
				default:
					f.send(replyTo(n, wire.RepAck))
				}
			}
		})
	}
	trusting := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	c, err := Dial(t.Context(), sealed(""), Options{TLS: trusting})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 6)
	if _, err := c.ReadAt(p, 0); err != nil || string(p) != "sealed" {
		t.Errorf("%q, %v", p, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), sealed(""), Options{TLS: &tls.Config{ServerName: "localhost"}}); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("a stranger's certificate: %v", err)
	}
	if _, err := Dial(t.Context(), sealed(string(replyTo(wire.OptStructured, wire.RepAck))), Options{TLS: trusting}); err == nil {
		t.Error("what was sent in the clear passes for sealed")
	}
	var refused *RefusedError
	clear := serve(t, func(f fake) {
		f.greet()
		n, _ := f.option()
		f.send(replyTo(n, wire.RefusedUnsupported))
		f.read(1)
	})
	if _, err := Dial(t.Context(), clear, Options{TLS: trusting}); !errors.As(err, &refused) || refused.Option != wire.OptStartTLS {
		t.Errorf("a server without TLS: %v", err)
	}
}
