package router

import (
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	at := time.Unix(1e9, 0)
	first := Usage{At: at, CPUTime: 5 * time.Second, Memory: 90 << 20}
	if got := first.Since(Usage{}); got.CPU != 0 || got.MemoryPeak != 90<<20 {
		t.Errorf("the first look: %+v", got)
	}
	next := Usage{At: at.Add(10 * time.Second), CPUTime: 7 * time.Second, Memory: 40 << 20}.Since(first.Since(Usage{}))
	if next.CPU != 0.2 || next.MemoryPeak != 90<<20 {
		t.Errorf("the next look: %+v", next)
	}
	if again := (Usage{At: at.Add(20 * time.Second), CPUTime: time.Second, Memory: 10 << 20}).Since(next); again.CPU != 0 || again.MemoryPeak != 10<<20 {
		t.Errorf("after another start: %+v", again)
	}
}

func TestAdvice(t *testing.T) {
	for name, c := range map[string]struct {
		u    Usage
		want string
	}{
		"at ease":        {Usage{CPU: 0.5, CPULimit: 1, Memory: 100 << 20, MemoryLimit: 256 << 20}, ""},
		"no limits":      {Usage{CPU: 8, Memory: 8 << 30}, ""},
		"held back":      {Usage{CPU: 0.99, CPULimit: 1, Memory: 1, MemoryLimit: 256 << 20}, "raise resources.cpu above 1: it uses 0.99"},
		"nearly full":    {Usage{CPULimit: 1, Memory: 250<<20 + 7, MemoryLimit: 256 << 20}, "raise resources.memory above 256MB: it uses 250MB"},
		"memory matters": {Usage{CPU: 1, CPULimit: 1, Memory: 256 << 20, MemoryLimit: 256 << 20}, "resources.memory"},
	} {
		if got := c.u.Advice(); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	for want, got := range map[string]string{
		"above 256MB: it used 200MB when": Usage{MemoryPeak: 200 << 20}.AdviceOnKill(256 << 20),
		"above 256MB":                     Usage{}.AdviceOnKill(256 << 20),
		"its node ran out":                Usage{}.AdviceOnKill(0),
		"rollback a":                      Crash{Count: CrashLoop}.AdviceOnLoop("a"),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (Crash{Count: CrashLoop - 1}).AdviceOnLoop("a"); got != "" {
		t.Errorf("two deaths: %q", got)
	}
}
