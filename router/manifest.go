package router

import (
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Manifest is a decoded fluxgate.toml: what a push asks for.
type Manifest struct {
	Name    string
	Domains []string
	Source  Source // zero: find out from what the folder holds
	Run     Run
	Scale   map[string]string // settings of the policy; others stay as they are
	Env     map[string]string
}

// ManifestField describes one key of the manifest, for decoding and for the
// reference in docs/.
type ManifestField struct {
	Key     string // dotted
	Type    string
	Default string
	Doc     string
	set     func(*Manifest, any) (limit, remedy string) // empty limit: accepted
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ManifestFields are all keys but those of [scale], which are the
// PolicyFields, and of [env], which are the app's own.
var ManifestFields = append([]ManifestField{
	{"name", "string", "the folder's name", "the app's name: 1 to 40 of a-z, 0-9 and -, starting with a letter", setString(func(m *Manifest) *string { return &m.Name }, nil)},
	{"domains", "list of strings", "[]", "hostnames beside NAME.DOMAIN", func(m *Manifest, v any) (string, string) {
		list, ok := stringList(v)
		if !ok {
			return "a list of hostnames", `write domains = ["app.example.com"]`
		}
		m.Domains = list
		return "", ""
	}},
	{"command", "list of strings", "the image's own", "what the container runs", func(m *Manifest, v any) (string, string) {
		list, ok := stringList(v)
		if !ok || len(list) == 0 {
			return "a list of strings: the program and its arguments", `write command = ["/server", "--verbose"]`
		}
		m.Run.Command = list
		return "", ""
	}},
	{"build.containerfile", "string", "Containerfile, else Dockerfile", "build the folder with this file", setSource(SourceContainerfile)},
	{"build.static", "string", ". if the folder holds index.html", "serve this folder's files", setSource(SourceStatic)},
	{"build.image", "string", "", "run this image", setSource(SourceImage)},
	{"http.port", "integer", "8080", "the one port the app listens on; told to it as $PORT", func(m *Manifest, v any) (string, string) {
		n, ok := v.(int64)
		if !ok || n < 1 || n > 65535 {
			return "a whole number from 1 to 65535", "write port = 8080"
		}
		m.Run.Port = int(n)
		return "", ""
	}},
	{"http.health", "string", "a TCP connection", "path that answers 2xx or 3xx when the app is healthy", setString(func(m *Manifest) *string { return &m.Run.Health }, func(s string) (string, string) {
		if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \r\n#") || len(s) > 1024 {
			return "a path that starts with /", `write health = "/healthz"`
		}
		return "", ""
	})},
	{"http.sticky", "boolean", "false", "a client goes on with the instance that answered it, by a cookie, on every gateway; it moves when that instance is gone or full", func(m *Manifest, v any) (string, string) {
		on, ok := v.(bool)
		if !ok {
			return "true or false", "write sticky = true"
		}
		m.Run.Sticky = on
		return "", ""
	}},
	{"http.timeout", "duration", "60s", "longest wait for the app's first byte", func(m *Manifest, v any) (string, string) {
		s, ok := v.(string)
		d, err := ParseDuration(s)
		if !ok || err != nil || d.D() < 100*time.Millisecond || d.D() > 24*time.Hour {
			return "a duration from 100ms to 24h", `write timeout = "60s"`
		}
		m.Run.Timeout = d
		return "", ""
	}},
	{"resources.cpu", "number", "1", "cores that one instance may use", func(m *Manifest, v any) (string, string) {
		f, ok := number(v)
		if !ok || !(f >= 0.01 && f <= 1024) {
			return "a number of cores from 0.01 to 1024", "write cpu = 0.5"
		}
		m.Run.CPU = f
		return "", ""
	}},
	{"resources.memory", "size", "512MB", "memory that one instance may use; where it is given, a node keeps as much free for each", func(m *Manifest, v any) (string, string) {
		s, ok := v.(string)
		b, err := ParseBytes(s)
		if !ok || err != nil || b < 6<<20 || b > 16<<40 {
			return "a size from 6MB to 16TB", `write memory = "256MB"`
		}
		m.Run.Memory, m.Run.Reserve = b, b
		return "", ""
	}},
}, placementFields...)

// ParseManifest decodes and checks a fluxgate.toml. An unknown key, a wrong
// type, a value outside its limits: all of them are in the one CodeInvalid
// error, each with its field. An empty name is allowed: the caller has another
// source for it.
func ParseManifest(text []byte) (Manifest, error) {
	m := Manifest{Run: DefaultRun(), Scale: map[string]string{}, Env: map[string]string{}}
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		v := Violation{Field: "fluxgate.toml", Limit: "not TOML: " + err.Error(), Remedy: "correct the syntax (https://toml.io)"}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, col := de.Position()
			v.Field = fmt.Sprintf("fluxgate.toml line %d column %d", row, col)
			v.Limit = "not TOML: " + strings.TrimPrefix(de.Error(), "toml: ")
		}
		return m, Invalid("fluxgate.toml", []Violation{v})
	}
	bad := m.decode(tree)
	if m.Name != "" {
		if v := CheckAppName(m.Name); v != nil {
			bad = append(bad, *v)
		}
	}
	for i, d := range m.Domains {
		host, v := ParseDomain(fmt.Sprintf("domains[%d]", i), d)
		if v != nil {
			bad = append(bad, *v)
			continue
		}
		m.Domains[i] = host
	}
	sort.Slice(bad, func(i, j int) bool { return bad[i].Field < bad[j].Field })
	return m, Invalid("fluxgate.toml", bad)
}

func (m *Manifest) decode(tree map[string]any) []Violation {
	var bad []Violation
	tables := map[string]bool{"scale": true, "env": true}
	var topKeys []string
	for _, f := range ManifestFields {
		if table, _, nested := strings.Cut(f.Key, "."); nested {
			tables[table] = true
		} else {
			topKeys = append(topKeys, f.Key)
		}
	}
	for t := range tables {
		topKeys = append(topKeys, t)
	}
	for _, top := range sortedKeys(tree) {
		v := tree[top]
		if !tables[top] {
			bad = append(bad, m.setField(top, v, topKeys, "")...)
			continue
		}
		table, ok := v.(map[string]any)
		if !ok {
			bad = append(bad, Violation{top, show(v), "a table", fmt.Sprintf("write [%s] and its keys below it", top)})
			continue
		}
		switch top {
		case "scale":
			bad = append(bad, m.decodeScale(table)...)
		case "env":
			bad = append(bad, m.decodeEnv(table)...)
		default:
			var keys []string
			for _, f := range ManifestFields {
				if strings.HasPrefix(f.Key, top+".") {
					keys = append(keys, f.Key)
				}
			}
			if top == "build" && len(table) > 1 {
				bad = append(bad, Violation{"build", strings.Join(sortedKeys(table), ", "), "one of containerfile, static, image", "keep one of them"})
			}
			for _, key := range sortedKeys(table) {
				bad = append(bad, m.setField(top+"."+key, table[key], keys, top+".")...)
			}
		}
	}
	return bad
}

func (m *Manifest) setField(key string, v any, known []string, prefix string) []Violation {
	for _, f := range ManifestFields {
		if f.Key != key {
			continue
		}
		if limit, remedy := f.set(m, v); limit != "" {
			return []Violation{{key, show(v), limit, remedy}}
		}
		return nil
	}
	return []Violation{unknownKey(key, known, "")}
}

func (m *Manifest) decodeScale(table map[string]any) []Violation {
	settings := map[string]string{}
	var bad []Violation
	for key, v := range table {
		switch v := v.(type) {
		case string, int64, float64, bool:
			settings[key] = plain(v)
		default:
			bad = append(bad, Violation{"scale." + key, show(v), "a number, a string, true or false", "see the manifest reference"})
		}
	}
	// Checked against the defaults here, and again against the app's own policy
	// when the push is taken.
	_, more := DefaultPolicy().With(settings, "scale.")
	m.Scale = settings
	return append(bad, more...)
}

func (m *Manifest) decodeEnv(table map[string]any) []Violation {
	var bad []Violation
	for key, v := range table {
		if w := CheckEnvName("env."+key, key); w != nil {
			bad = append(bad, *w)
			continue
		}
		switch v := v.(type) {
		case string, int64, float64, bool:
			m.Env[key] = plain(v)
			if strings.ContainsRune(m.Env[key], 0) {
				bad = append(bad, Violation{"env." + key, "", "text without NUL", "remove the NUL"})
			}
		default:
			bad = append(bad, Violation{"env." + key, show(v), "a string", fmt.Sprintf(`write %s = "…"`, key)})
		}
	}
	return bad
}

// CheckEnvName says what is wrong with the name of an environment variable.
func CheckEnvName(field, name string) *Violation {
	if !envName.MatchString(name) || len(name) > 256 {
		return &Violation{field, "", "a name of A-Z, a-z, 0-9 and _, not starting with a digit", "write it as GREETING"}
	}
	if name == "PORT" {
		return &Violation{field, "", "PORT is set by Fluxgate", "set http.port in fluxgate.toml"}
	}
	return nil
}

func setString(at func(*Manifest) *string, check func(string) (string, string)) func(*Manifest, any) (string, string) {
	return func(m *Manifest, v any) (string, string) {
		s, ok := v.(string)
		if !ok || s == "" {
			return "a string", `write it in quotes: "…"`
		}
		if check != nil {
			if limit, remedy := check(s); limit != "" {
				return limit, remedy
			}
		}
		*at(m) = s
		return "", ""
	}
}

func setSource(kind SourceKind) func(*Manifest, any) (string, string) {
	return func(m *Manifest, v any) (string, string) {
		s, ok := v.(string)
		if !ok || s == "" {
			return "a string", `write it in quotes: "…"`
		}
		if kind == SourceImage {
			if strings.ContainsAny(s, " \t\r\n") || strings.HasPrefix(s, "-") {
				return "an image reference", `write "docker.io/library/nginx:1.27"`
			}
		} else {
			if path.IsAbs(s) || slices.Contains(strings.Split(s, "/"), "..") || strings.ContainsRune(s, 0) {
				return "a path inside the folder", "write it relative to fluxgate.toml"
			}
			s = path.Clean(s)
		}
		m.Source = Source{Kind: kind, Path: s}
		return "", ""
	}
}

func stringList(v any) ([]string, bool) {
	items, ok := v.([]any)
	if !ok {
		return nil, false
	}
	list := make([]string, 0, len(items))
	for _, it := range items {
		s, ok := it.(string)
		if !ok || strings.ContainsRune(s, 0) {
			return nil, false
		}
		list = append(list, s)
	}
	return list, true
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v)
	}
	return 0, false
}

// plain is a scalar as the text a user would write on the command line.
func plain(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return formatFloat(v)
	}
	return fmt.Sprint(v)
}

// show is a value for an error, cut where it is long.
func show(v any) string {
	s := fmt.Sprintf("%v", v)
	if q, ok := v.(string); ok {
		s = strconv.Quote(q)
	}
	if len(s) > 80 {
		s = s[:77] + "…"
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// unknownKey names the nearest known key, where one is near.
func unknownKey(key string, known []string, prefix string) Violation {
	best, dist := "", 3
	for _, k := range known {
		if d := editDistance(key, prefix+k); d < dist {
			best, dist = prefix+k, d
		}
	}
	v := Violation{Field: key, Limit: "there is no such key", Remedy: "remove it, or see the manifest reference"}
	if best != "" {
		v.Remedy = fmt.Sprintf("did you mean %s?", best)
	}
	return v
}

// editDistance is Levenshtein's, over bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
