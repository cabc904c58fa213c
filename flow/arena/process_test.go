//go:build linux

package arena

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// reopen maps the arena a second time, as another process would.
func reopen(t testing.TB, a *Arena) *Arena {
	t.Helper()
	fd, err := unix.Dup(int(a.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(os.NewFile(uintptr(fd), "arena"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// The arena's memory can be written, and can change its size for nobody.
func TestMemoryKeepsItsSize(t *testing.T) {
	a := newArena(t, small)
	for _, size := range []int64{0, 1, int64(len(a.mem)) + 1} {
		if err := a.file.Truncate(size); err == nil {
			t.Errorf("the arena was made %d bytes long: workers that look at it die", size)
		}
	}
	seals, err := unix.FcntlInt(a.file.Fd(), unix.F_GET_SEALS, 0)
	if want := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL; err != nil || seals != want {
		t.Errorf("seals %#x, %v; want %#x", seals, err, want)
	}
	flags, err := unix.FcntlInt(a.file.Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("every process started gets the arena: %#x, %v", flags, err)
	}
}

func FuzzOpen(f *testing.F) {
	a := newArena(f, small)
	f.Add(append([]byte(nil), a.mem[:64]...), uint32(len(a.mem)))
	f.Add([]byte(arenaMagic), uint32(headerBytes))
	f.Add([]byte{}, uint32(0))
	huge := append([]byte(nil), a.mem[:64]...)
	binary.LittleEndian.PutUint64(huge[8:], math.MaxUint64)
	f.Add(huge, uint32(1<<20))
	path := f.TempDir() + "/arena"
	f.Fuzz(func(t *testing.T, head []byte, size uint32) {
		size %= 1 << 21
		if err := os.WriteFile(path, head[:min(len(head), headerBytes)], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(size)); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Open(file)
		if err != nil {
			if !errors.Is(err, ErrArena) {
				t.Fatalf("refused, but not as %v: %v", ErrArena, err)
			}
			_ = file.Close()
			return
		}
		defer a.Close()
		// It is an arena of some shape: all of it can be touched.
		s := a.Shape()
		for _, p := range []Pool{Raw, Sealed} {
			if sl, ok := a.TryAcquire(p, 1); ok {
				c := sl.Claim(len(a.Bytes(sl.Number)))
				a.Bytes(sl.Number)[c.Length-1] = 1
				if !a.Release(c) {
					t.Fatalf("%+v cannot be released", c)
				}
			}
			a.Usage(p)
		}
		a.Bytes(uint32(s.RawSlots + s.SealedSlots - 1))[0] = 1
		a.Reap(1)
		a.Recent().Add(chunkID(1, 1))
		a.Recent().Has(chunkID(2, 2))
	})
}

// When the test binary is started as a worker it works on the arena until killed.
func TestMain(m *testing.M) {
	if owner := os.Getenv("ARENA_TEST_OWNER"); owner != "" {
		work(owner)
	}
	os.Exit(m.Run())
}

// work takes slots, fills them, says so to the parent (as a message would), and
// promotes them; the parent is the consumer. It ends when it is killed or its
// standard input is closed.
func work(owner string) {
	number, _ := strconv.Atoi(owner)
	handle, _ := strconv.Atoi(os.Getenv("ARENA_TEST_HANDLE"))
	a, err := Open(os.NewFile(uintptr(handle), "arena"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for n := 0; ; n++ {
		s, ok := a.TryAcquire(Raw+Pool(n%2), uint32(number))
		if !ok {
			continue
		}
		c := s.Claim(pageBytes)
		fill(a, c)
		if n%5 == 0 { // nothing came of it
			if !a.Release(c) {
				fmt.Fprintf(os.Stderr, "could not give up %+v\n", c)
				os.Exit(1)
			}
			continue
		}
		fmt.Printf("%d %d\n", c.Slot, c.Generation)
		a.Promote(c)
	}
}

func fill(a *Arena, c Claim) {
	b := a.Bytes(c.Slot)
	for i := 0; i < pageBytes; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(c.Slot)<<32|uint64(c.Generation))
	}
}

func filled(a *Arena, c Claim) error {
	b := a.Bytes(c.Slot)
	for i := 0; i < pageBytes; i += 8 {
		if got := binary.LittleEndian.Uint64(b[i:]); got != uint64(c.Slot)<<32|uint64(c.Generation) {
			return fmt.Errorf("slot %d in generation %d holds at byte %d what slot %d wrote in generation %d", c.Slot, c.Generation, i, got>>32, uint32(got))
		}
	}
	return nil
}

// Several processes work on one arena and are killed wherever they happen to be.
// Afterwards every slot is free, none was handed out twice, and no claim that
// was live ever held another's bytes.
func TestKilledProcesses(t *testing.T) {
	shape := Shape{RawSlots: 4, SealedSlots: 3, RawSize: pageBytes, SealedSize: pageBytes}
	a := newArena(t, shape)
	const lanes, kills = 3, 12
	var mu sync.Mutex
	seen := map[[2]uint32]string{}
	reaped, claims := 0, 0
	live := func(owner string, c Claim) {
		mu.Lock()
		defer mu.Unlock()
		claims++
		k := [2]uint32{c.Slot, c.Generation}
		if before, twice := seen[k]; twice {
			t.Errorf("slot %d generation %d was handed out by %s and %s", c.Slot, c.Generation, before, owner)
		}
		seen[k] = owner
	}
	var g sync.WaitGroup
	for lane := range lanes {
		g.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(lane), 42))
			for n := range kills {
				owner := strconv.Itoa(1 + lane*kills + n)
				freed, err := oneLife(a, owner, 50+rng.IntN(300), live)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				reaped += freed
				mu.Unlock()
			}
		})
	}
	g.Wait()
	t.Logf("%d processes killed, %d claims, %d slots reaped", lanes*kills, claims, reaped)
	wantUsage(t, a, Raw, shape.RawSlots, 0, 0)
	wantUsage(t, a, Sealed, shape.SealedSlots, 0, 0)
}

// oneLife starts a worker, consumes what it says for a number of claims, kills
// it, waits for it, consumes what is still in the pipe, and reaps.
func oneLife(a *Arena, owner string, claims int, live func(string, Claim)) (freed int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "ARENA_TEST_OWNER="+owner, fmt.Sprintf("ARENA_TEST_HANDLE=%d", a.Inherit(cmd)))
	var complaints strings.Builder
	cmd.Stderr = &complaints
	control, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	defer control.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		w.Close()
		return 0, err
	}
	w.Close()
	in := bufio.NewReader(r)
	var late []Claim
	for n := 0; ; n++ {
		line, err := in.ReadString('\n')
		if err != nil {
			break // a torn line is a message that was never stored
		}
		var c Claim
		if _, err := fmt.Sscan(line, &c.Slot, &c.Generation); err != nil {
			return 0, fmt.Errorf("%q: %w", line, err)
		}
		c.Length = pageBytes
		if n < claims {
			if err := consume(a, owner, c, true, live); err != nil {
				return 0, err
			}
		} else {
			late = append(late, c)
		}
		if n == claims {
			if err := cmd.Process.Kill(); err != nil {
				return 0, err
			}
		}
	}
	_ = cmd.Wait() // killed
	if complaints.Len() > 0 {
		return 0, fmt.Errorf("worker %s: %s", owner, complaints.String())
	}
	// Half of the late ones are received before the reaping, half after.
	for i, c := range late {
		if i == len(late)/2 {
			freed = a.Reap(mustAtoi(owner))
		}
		if err := consume(a, owner, c, i < len(late)/2, live); err != nil {
			return 0, err
		}
	}
	freed += a.Reap(mustAtoi(owner))
	return freed, nil
}

// consume does what a consumer does with a claim. must: it has to be live.
func consume(a *Arena, owner string, c Claim, must bool, live func(string, Claim)) error {
	if !a.Promote(c) || !a.Live(c) {
		if must {
			return fmt.Errorf("%+v of worker %s was lost, and nobody reaped it", c, owner)
		}
		return nil
	}
	live(owner, c)
	if err := filled(a, c); err != nil {
		return err
	}
	if !a.Live(c) || !a.Release(c) {
		return fmt.Errorf("%+v of worker %s was taken from its consumer", c, owner)
	}
	return nil
}

func mustAtoi(s string) uint32 {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}
