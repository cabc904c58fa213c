package rundirect

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// workload is what the guest does, from outside.
type workload struct {
	conn net.Conn

	mu    sync.Mutex // guards the rest
	safe  map[string]string
	seen  string // all that the guest has said since it was connected to
	marks int
	gone  error // why no more is heard
}

// connect begins to listen.
func (w *workload) connect(ctx context.Context, socket string) error {
	if w.conn != nil {
		_ = w.conn.Close()
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			w.conn = conn
			break
		}
		if time.Now().After(end) {
			return err
		}
	}
	w.mu.Lock()
	w.seen, w.gone = "", nil
	w.mu.Unlock()
	go w.listen(w.conn)
	return nil
}

func (w *workload) listen(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		w.mu.Lock()
		if w.conn == conn {
			w.seen += line + "\n"
			if f := strings.Fields(line); len(f) == 3 && f[0] == "SAFE" && len(f[2]) == 64 {
				w.safe[f[1]] = f[2]
			} else if len(f) == 2 && f[0] == "REMOVES" {
				delete(w.safe, f[1])
			}
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn == conn {
		w.gone = fmt.Errorf("the serial port is closed: %w", lines.Err())
	}
}

// await waits until something is so.
func (w *workload) await(what string, most time.Duration, so func() bool) error {
	for end := time.Now().Add(most); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		yes, gone, seen := so(), w.gone, w.seen
		w.mu.Unlock()
		if yes {
			return nil
		}
		if gone != nil || time.Now().After(end) {
			return fmt.Errorf("waited for %s (%v); the guest said last: %q", what, gone, seen[max(0, len(seen)-300):])
		}
	}
}

// until waits for words.
func (w *workload) until(words string, most time.Duration) error {
	return w.await(words, most, func() bool { return strings.Contains(w.seen, words) })
}

// work makes files and says what is safe. Names count on over restarts.
const work = `mkdir -p /srv/w; i=$(ls /srv/w | sort -n | tail -n 1); i=${i:-0}; (while [ ! -e /run/rest ]; do i=$((i+1)); ` +
	`dd if=/dev/urandom of=/srv/w/$i bs=700 count=$((i*7919%97+1)) conv=fsync 2>/dev/null; s=$(sha256sum < /srv/w/$i); sync; echo; echo "SAFE $i ${s%% *}"; ` +
	`o=$((i-40)); if [ -e /srv/w/$o ]; then echo "REMOVES $o"; rm /srv/w/$o; fi; done; echo "RESTS") &`

func (w *workload) say(text string) error {
	_ = w.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, err := fmt.Fprintln(w.conn, text)
	return err
}

func (w *workload) begin() error { return w.say(work) }

// more waits until so many more files are safe.
func (w *workload) more(n int, most time.Duration) error {
	w.mu.Lock()
	want := strings.Count(w.seen, "SAFE ") + n
	w.mu.Unlock()
	return w.await(fmt.Sprintf("%d more files", n), most, func() bool { return strings.Count(w.seen, "SAFE ") >= want })
}

// rest ends the work.
func (w *workload) rest() error {
	if err := w.say("touch /run/rest"); err != nil {
		return err
	}
	return w.until("\nRESTS", patience)
}

// shell runs a command and returns what it prints.
func (w *workload) shell(command string) (string, error) {
	w.mu.Lock()
	w.marks++
	from, mark := len(w.seen), fmt.Sprintf("END-%d-%d", os.Getpid(), w.marks)
	w.mu.Unlock()
	if err := w.say(command + "; echo; echo END''" + strings.TrimPrefix(mark, "END")); err != nil {
		return "", err
	}
	err := w.until("\n"+mark+"\n", patience)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[from:], err
}

// check reads all files that are safe from the disk, and holds them to their sums.
func (w *workload) check() error {
	said, err := w.shell("echo 3 > /proc/sys/vm/drop_caches; cd /srv/w && for f in *; do set -- $(sha256sum $f); echo \"HAS $f $1\"; done; cd /")
	if err != nil {
		return err
	}
	has := map[string]string{}
	for line := range strings.Lines(said) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "HAS" {
			has[f[1]] = f[2]
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, sum := range w.safe {
		if has[name] != sum {
			return fmt.Errorf("LOST: file %s was safe with %s, and is %q", name, sum, has[name])
		}
	}
	if len(w.safe) == 0 {
		return fmt.Errorf("nothing was checked: %q", said)
	}
	return nil
}

// flush has the guest write all it has.
func (w *workload) flush() error {
	_, err := w.shell("sync")
	return err
}
