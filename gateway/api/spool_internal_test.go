package api

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func TestSpool(t *testing.T) {
	left := func(dir string) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	t.Run("kept until it is closed", func(t *testing.T) {
		dir := t.TempDir()
		u, err := spool(dir, strings.NewReader("12345"), 5)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(u.file); err != nil || string(text) != "12345" || left(dir) != 1 {
			t.Errorf("%q, %v", text, err)
		}
		if err := u.Close(); err != nil || left(dir) != 0 {
			t.Errorf("close: %v, %d left", err, left(dir))
		}
	})
	t.Run("too large", func(t *testing.T) {
		dir := t.TempDir()
		_, err := spool(dir, strings.NewReader("123456"), 5)
		var p *Problem
		if !errors.As(err, &p) || p.Status != 413 || len(p.Errors) != 1 || left(dir) != 0 {
			t.Errorf("%+v, %d left", err, left(dir))
		}
	})
	t.Run("broken", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := spool(dir, iotest.ErrReader(io.ErrUnexpectedEOF), 5); err == nil || left(dir) != 0 {
			t.Errorf("%v, %d left", err, left(dir))
		}
	})
}

func FuzzLineWriter(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"), 2)
	f.Add(bytes.Repeat([]byte("x"), 3*maxLine), maxLine-1)
	f.Fuzz(func(t *testing.T, text []byte, chunk int) {
		if chunk < 1 {
			chunk = 1
		}
		var got []string
		w := &lineWriter{line: func(s string) { got = append(got, s) }}
		for rest := text; len(rest) > 0; {
			n := min(chunk, len(rest))
			if m, err := w.Write(rest[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		w.flush()
		for _, line := range got {
			if strings.Contains(line, "\n") {
				t.Fatalf("a line with a line feed: %q", line)
			}
		}
		if want := bytes.Count(text, []byte("\n")); len(got) < want {
			t.Fatalf("%d lines of %d", len(got), want)
		}
	})
}
