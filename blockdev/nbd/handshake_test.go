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
)

// exportInfo is a reply that tells of an export.
func exportInfo(size uint64, flags Flags) []byte {
	return replyTo(optGo, repInfo, uint16(infoExport), size, uint16(flags))
}

func blockInfo(least, preferred, most uint32) []byte {
	return replyTo(optGo, repInfo, uint16(infoBlockSize), least, preferred, most)
}

func TestHandshakes(t *testing.T) {
	hello := wire(uint64(magicHello), uint64(magicOption), uint16(flagFixed))
	structured, opened := replyTo(optStructured, repAck), replyTo(optGo, repAck)
	meta := wire(replyTo(optSetMeta, repMeta, uint32(1), Allocation), replyTo(optSetMeta, repAck))
	good := wire(hello, structured, meta)
	var refused *RefusedError
	var missing *MissingContextError
	for name, c := range map[string]struct {
		says []byte
		is   error // or
		as   any
		text string
	}{
		"old style":              {wire(uint64(magicHello), uint64(magicOld), make([]byte, 128)), ErrOldStyle, nil, ""},
		"newstyle without more":  {wire(uint64(magicHello), uint64(magicOption), uint16(flagNoZeroes)), ErrOldStyle, nil, ""},
		"something else":         {[]byte("SSH-2.0-OpenSSH_9.2p1 Debian\r\n"), ErrProtocol, nil, ""},
		"nothing":                {nil, nil, nil, "closed the connection"},
		"half of it":             {hello[:17], nil, nil, "closed the connection"},
		"closed after the hello": {hello, nil, nil, "closed the connection"},
		"no structured replies":  {wire(hello, replyTo(optStructured, refusedUnsupported)), nil, &refused, "structured replies"},
		"it wants TLS":           {wire(hello, replyTo(optStructured, refusedTLS, "first \x1b[31mTLS")), nil, &refused, `wants TLS: "first \x1b[31mTLS"`},
		"another option's reply": {wire(hello, replyTo(optGo, repAck)), ErrProtocol, nil, ""},
		"an endless reply":       {wire(hello, uint64(magicReply), uint32(optStructured), uint32(repAck), uint32(1<<31)), ErrProtocol, nil, ""},
		"information too early":  {wire(hello, replyTo(optStructured, repInfo)), ErrProtocol, nil, ""},
		"no contexts":            {wire(hello, structured, replyTo(optSetMeta, repAck)), ErrNoContext, &missing, Allocation},
		"unknown contexts":       {wire(hello, structured, replyTo(optSetMeta, refusedUnsupported)), ErrNoContext, &missing, Allocation},
		"contexts of nothing":    {wire(hello, structured, replyTo(optSetMeta, refusedUnknown)), nil, &refused, "no such export"},
		"one not asked for":      {wire(hello, structured, replyTo(optSetMeta, repMeta, uint32(1), "x")), ErrProtocol, nil, ""},
		"the same twice":         {wire(hello, structured, meta[:len(meta)-20], meta), ErrProtocol, nil, ""},
		"a context without id":   {wire(hello, structured, replyTo(optSetMeta, repMeta, "abc")), ErrProtocol, nil, ""},
		"no such export":         {wire(good, replyTo(optGo, refusedUnknown)), nil, &refused, "no such export"},
		"an unknown refusal":     {wire(good, replyTo(optGo, repErrorBit|4711)), nil, &refused, "0x80001267"},
		"no size":                {wire(good, opened), ErrProtocol, nil, "how large"},
		"a negative size":        {wire(good, exportInfo(1<<63, HasFlags), opened), ErrProtocol, nil, ""},
		"no flags":               {wire(good, exportInfo(1<<20, 0), opened), ErrProtocol, nil, ""},
		"two sizes":              {wire(good, exportInfo(1<<20, HasFlags), exportInfo(1<<21, HasFlags), opened), ErrProtocol, nil, ""},
		"information cut short":  {wire(good, replyTo(optGo, repInfo, uint16(infoExport), uint64(5)), opened), ErrProtocol, nil, ""},
		"no information":         {wire(good, replyTo(optGo, repInfo, uint8(1)), opened), ErrProtocol, nil, ""},
		"blocks of nothing":      {wire(good, blockInfo(0, 4096, 1<<20)), ErrProtocol, nil, ""},
		"blocks of 3":            {wire(good, blockInfo(3, 4096, 1<<20)), ErrProtocol, nil, ""},
		"blocks of a MiB":        {wire(good, blockInfo(1<<20, 1<<20, 1<<20)), ErrProtocol, nil, ""},
		"requests of nothing":    {wire(good, blockInfo(512, 4096, 511)), ErrProtocol, nil, ""},
		"endless replies":        {wire(good, bytes.Repeat(replyTo(optGo, repInfo, uint16(99)), maxReplies+1)), ErrProtocol, nil, ""},
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
			err = e.info(infoBlockSize, c.says[22:])
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
		f.send(uint64(magicHello))
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
			if n != optStartTLS {
				t.Errorf("option %d in the clear", n)
			}
			f.send(replyTo(n, repAck), early)
			f.Conn = tls.Server(f.Conn, &tls.Config{Certificates: []tls.Certificate{mine}})
			for {
				switch n, _ := f.option(); n {
				case optGo:
					f.send(exportInfo(fakeSize, HasFlags), replyTo(n, repAck))
					a := f.request()
					f.send(chunkOf(a.cookie, chunkData, chunkDone, a.off, "sealed"))
					f.request()
					return
				default:
					f.send(replyTo(n, repAck))
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
	if _, err := Dial(t.Context(), sealed(string(replyTo(optStructured, repAck))), Options{TLS: trusting}); err == nil {
		t.Error("what was sent in the clear passes for sealed")
	}
	var refused *RefusedError
	clear := serve(t, func(f fake) {
		f.greet()
		n, _ := f.option()
		f.send(replyTo(n, refusedUnsupported))
		f.read(1)
	})
	if _, err := Dial(t.Context(), clear, Options{TLS: trusting}); !errors.As(err, &refused) || refused.Option != optStartTLS {
		t.Errorf("a server without TLS: %v", err)
	}
}
