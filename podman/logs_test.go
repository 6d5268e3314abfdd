package podman

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// texts are an app's log lines now.
func texts(t *testing.T, p *Pool, o LogOptions, instances ...router.Instance) []string {
	t.Helper()
	var out []string
	must(t, p.Logs(t.Context(), "hello", instances, o, func(l router.LogLine) error {
		out = append(out, l.Text)
		return nil
	}))
	return out
}

func TestLogs(t *testing.T) {
	n := connect(t)
	p := NewPool(n)
	rel := release(appImage(t, n))
	a, aAddr := running(t, n, rel)
	b, _ := running(t, n, rel)
	get(aAddr, "/say/one")
	get(aAddr, "/long/20000")
	get(aAddr, "/say/two")

	var lines []router.LogLine
	eventually(t, "all is in the log", func() bool {
		lines = nil
		must(t, p.Logs(t.Context(), "hello", []router.Instance{a, b}, LogOptions{}, func(l router.LogLine) error {
			lines = append(lines, l)
			return nil
		}))
		return len(lines) == 7
	})
	var ofA []string
	for i, l := range lines {
		if i > 0 && l.At.Before(lines[i-1].At) {
			t.Errorf("line %d is older than the one before", i)
		}
		if l.At.IsZero() || time.Since(l.At) > time.Hour {
			t.Errorf("line %q has the time %s", l.Text, l.At)
		}
		if l.Instance == a.ID {
			ofA = append(ofA, l.Stream+" "+l.Text)
		}
	}
	want := []string{"stderr app complains", "stdout app started", "stdout one", "stdout two", "stdout " + strings.Repeat("x", 20000)}
	slices.Sort(ofA) // the two streams are two pipes: their order is by chance
	if !slices.Equal(ofA, want) {
		t.Errorf("a wrote %.100q", ofA)
	}
	if got := texts(t, p, LogOptions{Lines: 1}, a); !slices.Equal(got, []string{"two"}) {
		t.Errorf("the last line is %q", got)
	}
	if got := texts(t, p, LogOptions{Since: time.Now().Add(time.Hour)}, a, b); len(got) != 0 {
		t.Errorf("from the future come %q", got)
	}

	// Gone containers, killed and died, stay in the log, once.
	must(t, n.Remove(t.Context(), b))
	get(aAddr, "/exit/1")
	eventually(t, "a ends", func() bool {
		c, err := n.Inspect(t.Context(), a)
		return err == nil && c.State == router.ContainerExited
	})
	if got := texts(t, p, LogOptions{Lines: 1}, a, b); !slices.Equal(got, []string{"two"}) {
		t.Errorf("the last line is %q", got)
	}
	must(t, n.archiveLog(t.Context(), "hello", a.ID)) // as if the gateway had been killed before the removal
	must(t, n.Remove(t.Context(), a))
	if got := texts(t, p, LogOptions{}, a); len(got) != 7 || got[6] != "two" && got[6] != "app complains" {
		t.Errorf("after removal the log is %.50q", got)
	}
	if got := texts(t, p, LogOptions{}); len(got) != 7 {
		t.Errorf("without instances the log is %.50q", got)
	}
	must(t, p.DropLogs("hello"))
	if got := texts(t, p, LogOptions{}); len(got) != 0 {
		t.Errorf("the log of a removed app is %.50q", got)
	}
}

func TestFollowLogs(t *testing.T) {
	n := connect(t)
	p := NewPool(n)
	rel := release(appImage(t, n))
	a, aAddr := running(t, n, rel)
	get(aAddr, "/say/before")

	var mu sync.Mutex
	var got []string
	now := []router.Instance{a}
	has := func(text string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Contains(got, text)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		instances := func() []router.Instance {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(now)
		}
		ended <- p.Logs(ctx, "hello", []router.Instance{a}, LogOptions{Follow: true, Instances: instances}, func(l router.LogLine) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, strings.TrimPrefix(l.Instance, "hello-3-")+" "+l.Text)
			return nil
		})
	}()
	aa := strings.TrimPrefix(a.ID, "hello-3-") + " "
	eventually(t, "the past is shown", has(aa+"before"))
	get(aAddr, "/say/after")
	eventually(t, "the present is shown", has(aa+"after"))

	must(t, n.Freeze(t.Context(), a))
	must(t, n.Thaw(t.Context(), a))
	get(aAddr, "/say/thawed")
	eventually(t, "it goes on after the freezer", has(aa+"thawed"))

	must(t, n.Stop(t.Context(), a, 5*time.Second))
	eventually(t, "the end is shown", has(aa+"app was asked to stop"))
	aAddr, err := n.Start(t.Context(), a)
	must(t, err)
	eventually(t, "the app answers", func() bool { return get(aAddr, "/") != "" })
	get(aAddr, "/say/restarted")
	eventually(t, "it goes on after another start", has(aa+"restarted"))

	b, bAddr := running(t, n, rel)
	mu.Lock()
	now = append(now, b)
	mu.Unlock()
	get(bAddr, "/say/new")
	eventually(t, "a new instance is shown", has(strings.TrimPrefix(b.ID, "hello-3-")+" new"))
	must(t, n.Remove(t.Context(), a))

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("following ended with %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, text := range []string{"before", "after", "thawed", "app was asked to stop", "restarted"} {
		if count := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != aa+text })); count != 1 {
			t.Errorf("%q was shown %d times", text, count)
		}
	}
}

func TestLogsEndWithTheirReader(t *testing.T) {
	n := connect(t)
	in, _ := running(t, n, release(appImage(t, n)))
	gone := errors.New("the reader is gone")
	err := NewPool(n).Logs(t.Context(), "hello", []router.Instance{in}, LogOptions{Follow: true}, func(router.LogLine) error { return gone })
	if !errors.Is(err, gone) {
		t.Errorf("error is %v", err)
	}
}

func TestArchiveKeepsTheNewest(t *testing.T) {
	a := newArchive(t.TempDir())
	big := strings.Repeat("y", 1<<20)
	for i := range 25 {
		must(t, a.add("hello", fmt.Sprintf("hello-1-%d", i), []router.LogLine{{At: time.Now(), Instance: fmt.Sprintf("hello-1-%d", i), Stream: "stdout", Text: fmt.Sprintf("%d %s", i, big)}}))
	}
	lines, err := a.read("hello")
	must(t, err)
	if len(lines) < 5 || !strings.HasPrefix(lines[len(lines)-1].Text, "24 ") {
		t.Errorf("%d lines are left, the last of them %.10q", len(lines), lines[len(lines)-1].Text)
	}
	info, err := os.Stat(filepath.Join(a.dir, "hello.log"))
	must(t, err)
	if info.Size() > archiveSize || info.Size() < archiveSize/2 {
		t.Errorf("the archive has %d bytes", info.Size())
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the archive's mode is %v", info.Mode())
	}
}

func TestArchiveTakesALineOnce(t *testing.T) {
	a := newArchive(t.TempDir())
	lines := []router.LogLine{
		{Instance: "hello-1-a", Stream: "stdout", Text: `","instance":"hello-1-b","stream":"`},
		{Instance: "hello-1-a", Stream: "stderr", Text: "<two>"},
	}
	must(t, a.add("hello", "hello-1-b", []router.LogLine{{Instance: "hello-1-b", Stream: "stdout", Text: "b"}}))
	must(t, a.add("hello", "hello-1-a", lines[:1]))
	must(t, a.add("hello", "hello-1-a", lines))
	must(t, a.add("hello", "hello-1-a", lines))
	must(t, os.WriteFile(filepath.Join(a.dir, "hello.log"), append(readFile(t, filepath.Join(a.dir, "hello.log")), `{"cut off`...), 0o600))
	got, err := a.read("hello")
	must(t, err)
	if len(got) != 3 || got[1] != lines[0] || got[2] != lines[1] {
		t.Errorf("the archive holds %+v", got)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

func TestArchiveStaysInItsFolder(t *testing.T) {
	a := newArchive(t.TempDir())
	for _, app := range []string{"../x", "a/b", "", ".", "A", "x\x00"} {
		wantCode(t, a.add(app, "i", []router.LogLine{{}}), router.CodeInvalid)
		_, err := a.read(app)
		wantCode(t, err, router.CodeInvalid)
		wantCode(t, a.drop(app), router.CodeInvalid)
	}
}

func frame(stream byte, text string) []byte {
	b := make([]byte, 8, 8+len(text))
	b[0] = stream
	binary.BigEndian.PutUint32(b[4:], uint32(len(text)))
	return append(b, text...)
}

func TestReadFrames(t *testing.T) {
	const at = "2026-11-22T15:21:08Z "
	tests := map[string]struct {
		frames [][]byte
		want   []string
	}{
		"two streams":           {[][]byte{frame(1, at+"out\n"), frame(2, at+"err\r\n")}, []string{"stdout out", "stderr err"}},
		"a line in parts":       {[][]byte{frame(1, at+"a"), frame(2, at+"err\n"), frame(1, at+"b"), frame(1, at+"c\n")}, []string{"stderr err", "stdout abc"}},
		"the end has no end":    {[][]byte{frame(1, at+"a\n"), frame(1, at+"b")}, []string{"stdout a", "stdout b"}},
		"cut off within a line": {[][]byte{frame(1, at+"a\n"), frame(1, at+"bbb\n")[:20]}, []string{"stdout a"}},
		"empty lines":           {[][]byte{frame(1, at+"\n")}, []string{"stdout "}},
		"without a time":        {[][]byte{frame(1, "hello you\n")}, []string{"stdout hello you"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			must(t, readFrames(bytes.NewReader(bytes.Join(tt.frames, nil)), "i", func(l router.LogLine) error {
				got = append(got, l.Stream+" "+l.Text)
				return nil
			}))
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
