package router

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Never is the Duration that does not pass: "never" in text.
const Never = Duration(math.MaxInt64)

// Auto is the Duration that is decided from what is measured: "auto" in text.
const Auto = Duration(math.MinInt64)

// Duration is a time.Duration that is text ("30s", "10m", "never", "auto") in
// JSON and TOML.
type Duration time.Duration

// D is the time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String is the shortest text that parses back to d: "24h", not "24h0m0s".
func (d Duration) String() string {
	if d == Never {
		return "never"
	}
	if d == Auto {
		return "auto"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err == nil {
		*d = v
	}
	return err
}

// ParseDuration reads a Go duration, a number of days ("7d"), "never" or "auto".
func ParseDuration(s string) (Duration, error) {
	switch s {
	case "never":
		return Never, nil
	case "auto":
		return Auto, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration", s)
		}
		return Duration(time.Duration(n) * 24 * time.Hour), nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration", s)
	}
	return Duration(v), nil
}

// Bytes is a size in bytes that is text ("256MB", "1GiB") in JSON and TOML.
// KB, MB and GB mean powers of 1024 here, as container tools read them.
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   int64
}{
	{"gib", 1 << 30},
	{"mib", 1 << 20},
	{"kib", 1 << 10},
	{"gb", 1 << 30},
	{"mb", 1 << 20},
	{"kb", 1 << 10},
	{"g", 1 << 30},
	{"m", 1 << 20},
	{"k", 1 << 10},
	{"b", 1},
}

// String is the largest unit that divides b.
func (b Bytes) String() string {
	switch {
	case b == 0:
		return "0B"
	case b%(1<<30) == 0:
		return fmt.Sprintf("%dGB", b>>30)
	case b%(1<<20) == 0:
		return fmt.Sprintf("%dMB", b>>20)
	case b%(1<<10) == 0:
		return fmt.Sprintf("%dKB", b>>10)
	}
	return fmt.Sprintf("%dB", int64(b))
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err == nil {
		*b = v
	}
	return err
}

// ParseBytes reads a number with one of the units B, KB, MB, GB, KiB, MiB,
// GiB (any case), or none for bytes.
func ParseBytes(s string) (Bytes, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	unit := int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(t, u.suffix); ok {
			t, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseFloat(t, 64)
	if err != nil || n < 0 || math.IsNaN(n) || n*float64(unit) > 1<<62 {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return Bytes(n * float64(unit)), nil
}

// Secret is text that never shows: it prints as "[secret]" everywhere but in
// Reveal and in the state's own encoding.
type Secret struct{ value string }

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal is the text itself, for the container's environment and the state.
func (s Secret) Reveal() string { return s.value }

// String hides the value.
func (s Secret) String() string { return "[secret]" }

// GoString hides the value.
func (s Secret) GoString() string { return "[secret]" }

// MarshalText hides the value, so that no JSON answer or log can hold it.
func (s Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }
