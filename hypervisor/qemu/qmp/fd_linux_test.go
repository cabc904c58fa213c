package qmp

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A command that is longer than what a socket takes at once comes whole, and its file with
// its first byte, once.
func TestLongCommandWithFile(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "q"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	their, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer their.Close()
	theirs := their.(*net.UnixConn)
	if err := errors.Join(ours.(*net.UnixConn).SetWriteBuffer(8<<10), theirs.SetReadDeadline(time.Now().Add(20*time.Second))); err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(t.TempDir(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("what is in it"); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("a long line ", 20_000) + "\n"
	sent := make(chan error, 1)
	go func() { sent <- write(ours, []byte(line), f) }()
	first, oob := make([]byte, 1), make([]byte, syscall.CmsgSpace(4*10))
	n, oobn, _, _, err := theirs.ReadMsgUnix(first, oob)
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	got := os.NewFile(uintptr(fds[0]), "got")
	defer got.Close()
	p := make([]byte, 20)
	if n, _ := got.ReadAt(p, 0); string(p[:n]) != "what is in it" {
		t.Errorf("the file holds %q", p[:n])
	}
	rest, err := bufio.NewReader(theirs).ReadString('\n')
	if err != nil || string(first)+rest != line {
		t.Errorf("%d bytes of %d, %v", 1+len(rest), len(line), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
