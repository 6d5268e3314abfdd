package router

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for in, want := range map[string]string{
		"30s": "30s", "90s": "1m30s", "10m": "10m", "60m": "1h", "24h0m0s": "24h", "1h30m": "1h30m", "1h0m5s": "1h0m5s", "7d": "168h", "0s": "0s",
		"100ms": "100ms", "never": "never", "20s": "20s", "1h10s": "1h0m10s", "-5s": "-5s",
	} {
		d, err := ParseDuration(in)
		if err != nil || d.String() != want {
			t.Errorf("%q is %q, %v; want %q", in, d, err, want)
		}
		if again, err := ParseDuration(d.String()); err != nil || again != d {
			t.Errorf("%q does not come back: %v, %v", d, again, err)
		}
	}
	for _, in := range []string{"", "5", "s", "1x", "d", "-1d", "1.5d", "99999d", "forever", " 5s"} {
		if d, err := ParseDuration(in); err == nil {
			t.Errorf("%q is %v", in, d)
		}
	}
	var v struct{ D Duration }
	if err := json.Unmarshal([]byte(`{"D":"10m"}`), &v); err != nil || v.D.D() != 10*time.Minute {
		t.Errorf("%+v, %v", v, err)
	}
	if text, err := json.Marshal(v); err != nil || string(text) != `{"D":"10m"}` {
		t.Errorf("%s, %v", text, err)
	}
	if err := json.Unmarshal([]byte(`{"D":"x"}`), &v); err == nil || v.D.D() != 10*time.Minute {
		t.Errorf("%+v, %v", v, err)
	}
}

func FuzzDuration(f *testing.F) {
	f.Add(int64(30e9))
	f.Add(int64(math.MaxInt64))
	f.Add(int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, n int64) {
		d := Duration(n)
		if back, err := ParseDuration(d.String()); err != nil || back != d {
			t.Fatalf("%d is %q is %d, %v", n, d, back, err)
		}
	})
}

func TestBytes(t *testing.T) {
	for in, want := range map[string]Bytes{
		"0": 0, "512": 512, "256MB": 256 << 20, "256MiB": 256 << 20, "1gb": 1 << 30, "1.5 GB": 3 << 29, "64k": 64 << 10, "10B": 10, " 2 KiB ": 2048, "1G": 1 << 30,
	} {
		if b, err := ParseBytes(in); err != nil || b != want {
			t.Errorf("%q is %d, %v; want %d", in, b, err, want)
		}
	}
	for _, in := range []string{"", "MB", "-1MB", "1TB", "x", "NaN", "1e30", "Inf", "1 2"} {
		if b, err := ParseBytes(in); err == nil {
			t.Errorf("%q is %d", in, b)
		}
	}
	for b, want := range map[Bytes]string{0: "0B", 1: "1B", 1536: "1536B", 2048: "2KB", 256 << 20: "256MB", 3 << 30: "3GB"} {
		if b.String() != want {
			t.Errorf("%d is %q, want %q", b, b, want)
		}
		if back, err := ParseBytes(b.String()); err != nil || back != b {
			t.Errorf("%q does not come back: %d, %v", b, back, err)
		}
	}
}

func TestSecretNeverShows(t *testing.T) {
	s := NewSecret("hunter2")
	rel := Release{Secrets: map[string]Secret{"KEY": s}}
	text, err := json.Marshal(rel)
	if err != nil {
		t.Fatal(err)
	}
	for what, shown := range map[string]string{
		"%v": fmt.Sprintf("%v", rel), "%+v": fmt.Sprintf("%+v", rel), "%#v": fmt.Sprintf("%#v", rel), "%s": fmt.Sprintf("%s", rel.Secrets), "%q": fmt.Sprintf("%q", s), "%x": fmt.Sprintf("%x", s),
		"JSON": string(text), "error": Errorf(CodeFailed, "with %v", s).Error(), "pointer": fmt.Sprintf("%+v", &s),
	} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, "68756e74657232") {
			t.Errorf("%s shows %s", what, shown)
		}
	}
	if s.Reveal() != "hunter2" || rel.Environment()["KEY"] != "hunter2" {
		t.Error("it is lost where it is needed")
	}
}
