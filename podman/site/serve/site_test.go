package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

const page = "<html>the page</html>"

var long = strings.Repeat("compress me, please. ", 500)

// testSite is a site on disk, with a file outside of it.
func testSite(t *testing.T) *site {
	t.Helper()
	base := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		name = filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("secret.txt", "secret")
	write("site/index.html", page)
	write("site/404.html", "<html>not here</html>")
	write("site/long.css", long)
	write("site/small.css", "body{}")
	write("site/photo.jpg", long)
	write("site/docs/index.html", "docs")
	write("site/empty/file.txt", "x")
	write("site/.env", "PASSWORD=1")
	write("site/.git/config", "x")
	write("site/.well-known/security.txt", "Contact: us")
	write("site/.well-known/.hidden", "x")
	for link, to := range map[string]string{"out.txt": "../secret.txt", "abs.txt": filepath.Join(base, "secret.txt"), "outdir": "..", "in.html": "docs/index.html"} {
		if err := os.Symlink(to, filepath.Join(base, "site", link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(filepath.Join(base, "site"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return newSite(root)
}

func ask(s http.Handler, method, target string, header ...string) *http.Response {
	r := httptest.NewRequest(method, "http://site"+target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPaths(t *testing.T) {
	s := testSite(t)
	const missing = "<html>not here</html>"
	tests := map[string]struct {
		target string
		status int
		body   string // of a redirect: where to
		kind   string
	}{
		"the index":             {"/", 200, page, "text/html; charset=utf-8"},
		"the index by name":     {"/index.html", 200, page, "text/html; charset=utf-8"},
		"a file":                {"/small.css", 200, "body{}", "text/css; charset=utf-8"},
		"a folder's index":      {"/docs/", 200, "docs", "text/html; charset=utf-8"},
		"a folder":              {"/docs?a=b", 301, "/docs/?a=b", ""},
		"a file as a folder":    {"/small.css/", 301, "/small.css", ""},
		"nothing":               {"/nothing", 404, missing, "text/html; charset=utf-8"},
		"a folder, no index":    {"/empty/", 404, missing, ""},
		"a link within":         {"/in.html", 200, "docs", ""},
		"a link out":            {"/out.txt", 404, missing, ""},
		"an absolute link out":  {"/abs.txt", 404, missing, ""},
		"through a link out":    {"/outdir/secret.txt", 404, missing, ""},
		"a dotfile":             {"/.env", 404, missing, ""},
		"a dotfile, escaped":    {"/%2eenv", 404, missing, ""},
		"below a dotted folder": {"/.git/config", 404, missing, ""},
		"well-known":            {"/.well-known/security.txt", 200, "Contact: us", "text/plain; charset=utf-8"},
		"a dotfile there":       {"/.well-known/.hidden", 404, missing, ""},
		"up":                    {"/../secret.txt", 404, missing, ""},
		"up, escaped":           {"/%2e%2e/secret.txt", 404, missing, ""},
		"up, all escaped":       {"/docs%2f..%2f..%2fsecret.txt", 404, missing, ""},
		"up, the other slash":   {"/..%5csecret.txt", 404, missing, ""},
		"a null":                {"/index.html%00.txt", 404, missing, ""},
		"another host's slash":  {"//docs", 301, "/docs/", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := ask(s, "GET", tt.target)
			got := body(t, resp)
			if tt.status == 301 {
				got = resp.Header.Get("Location")
			}
			if resp.StatusCode != tt.status || got != tt.body {
				t.Errorf("%d %.60q, want %d %.60q", resp.StatusCode, got, tt.status, tt.body)
			}
			if kind := resp.Header.Get("Content-Type"); tt.kind != "" && kind != tt.kind {
				t.Errorf("Content-Type is %q", kind)
			}
			if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Error("types may be guessed")
			}
		})
	}
}

func TestMethods(t *testing.T) {
	s := testSite(t)
	resp := ask(s, "POST", "/")
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow: %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
	for _, target := range []string{"/", "/nothing"} {
		get, head := ask(s, "GET", target), ask(s, "HEAD", target)
		if head.StatusCode != get.StatusCode || body(t, head) != "" || head.Header.Get("Content-Length") != get.Header.Get("Content-Length") {
			t.Errorf("HEAD %s: %d, %v", target, head.StatusCode, head.Header)
		}
	}
}

func TestValidators(t *testing.T) {
	s := testSite(t)
	plain := ask(s, "GET", "/long.css")
	zipped := ask(s, "GET", "/long.css", "Accept-Encoding", "gzip")
	tag, zipTag := plain.Header.Get("ETag"), zipped.Header.Get("ETag")
	if tag == "" || zipTag == "" || tag == zipTag {
		t.Fatalf("tags are %s and, compressed, %s", tag, zipTag)
	}
	if other := ask(s, "GET", "/").Header.Get("ETag"); other == tag {
		t.Error("two files have one tag")
	}
	tests := map[string]struct {
		header []string
		status int
		tag    string
	}{
		"its tag":                  {[]string{"If-None-Match", tag}, 304, tag},
		"any of several":           {[]string{"If-None-Match", `"x", ` + tag}, 304, tag},
		"any":                      {[]string{"If-None-Match", "*"}, 304, tag},
		"a weak one":               {[]string{"If-None-Match", "W/" + tag}, 304, tag},
		"another":                  {[]string{"If-None-Match", `"x"`}, 200, tag},
		"the compressed one's":     {[]string{"If-None-Match", zipTag}, 200, tag},
		"the compressed one":       {[]string{"If-None-Match", zipTag, "Accept-Encoding", "gzip"}, 304, zipTag},
		"not changed since":        {[]string{"If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}, 304, tag},
		"changed since":            {[]string{"If-Modified-Since", "Mon, 01 Jan 2001 00:00:00 GMT"}, 200, tag},
		"the tag goes before time": {[]string{"If-None-Match", `"x"`, "If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}, 200, tag},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := ask(s, "GET", "/long.css", tt.header...)
			if resp.StatusCode != tt.status || resp.Header.Get("ETag") != tt.tag {
				t.Errorf("%d with tag %s, want %d with %s", resp.StatusCode, resp.Header.Get("ETag"), tt.status, tt.tag)
			}
			if tt.status == 304 && body(t, resp) != "" {
				t.Error("304 has a body")
			}
			if resp.Header.Get("Cache-Control") != "no-cache" || resp.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("headers are %v", resp.Header)
			}
		})
	}
}

func TestRanges(t *testing.T) {
	s := testSite(t)
	tag := ask(s, "GET", "/long.css").Header.Get("ETag")
	tests := map[string]struct {
		header []string
		status int
		body   string
	}{
		"the first bytes":            {[]string{"Range", "bytes=0-7"}, 206, "compress"},
		"the last bytes":             {[]string{"Range", "bytes=-9"}, 206, " please. "},
		"never of the compressed":    {[]string{"Range", "bytes=0-7", "Accept-Encoding", "gzip"}, 206, "compress"},
		"of this version":            {[]string{"Range", "bytes=0-7", "If-Range", tag}, 206, "compress"},
		"of another version":         {[]string{"Range", "bytes=0-7", "If-Range", `"x"`}, 200, long},
		"beyond the end":             {[]string{"Range", "bytes=99999-"}, 416, "invalid range: failed to overlap\n"},
		"without a range, all of it": {nil, 200, long},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := ask(s, "GET", "/long.css", tt.header...)
			if got := body(t, resp); resp.StatusCode != tt.status || got != tt.body {
				t.Errorf("%d %.40q, want %d %.40q", resp.StatusCode, got, tt.status, tt.body)
			}
		})
	}
}

func TestCompression(t *testing.T) {
	s := testSite(t)
	tests := map[string]struct {
		target, accept string
		zipped         bool
	}{
		"asked for":             {"/long.css", "gzip, deflate, br", true},
		"anything":              {"/long.css", "*", true},
		"weighted":              {"/long.css", "br;q=1.0, gzip;q=0.5", true},
		"refused":               {"/long.css", "gzip;q=0", false},
		"refused, and the rest": {"/long.css", "*;q=1, gzip;q=0", false},
		"not mentioned":         {"/long.css", "br", false},
		"not asked for":         {"/long.css", "", false},
		"too small":             {"/small.css", "gzip", false},
		"a photo":               {"/photo.jpg", "gzip", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for range 2 { // made, then from memory
				resp := ask(s, "GET", tt.target, "Accept-Encoding", tt.accept)
				got := body(t, resp)
				if zipped := resp.Header.Get("Content-Encoding") == "gzip"; zipped != tt.zipped {
					t.Fatalf("compressed: %v, want %v", zipped, tt.zipped)
				}
				if !tt.zipped {
					continue
				}
				if resp.ContentLength != int64(len(got)) || len(got) >= len(long) {
					t.Errorf("%d bytes announced, %d sent, of %d", resp.ContentLength, len(got), len(long))
				}
				zr, err := gzip.NewReader(strings.NewReader(got))
				if err != nil {
					t.Fatal(err)
				}
				if text, err := io.ReadAll(zr); err != nil || string(text) != long {
					t.Errorf("it unpacks to %.40q, %v", text, err)
				}
			}
		})
	}
}

func TestWithoutAPageForMissingOnes(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if resp := ask(newSite(root), "GET", "/"); resp.StatusCode != 404 || body(t, resp) != "404 page not found\n" {
		t.Errorf("status is %d", resp.StatusCode)
	}
}

func TestLimits(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	tests := map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"version 2":           {fstest.MapFS{"sys/fs/cgroup/memory.max": file("67108864"), "sys/fs/cgroup/cpu.max": file("50000 100000"), "sys/fs/cgroup/pids.max": file("1024"), "sys/fs/cgroup/memory.current": file("4096")}, `{"nonce":"n","memory":67108864,"cpu":0.5,"pids":1024,"used":4096}`},
		"version 2, no limit": {fstest.MapFS{"sys/fs/cgroup/memory.max": file("max"), "sys/fs/cgroup/cpu.max": file("max 100000"), "sys/fs/cgroup/pids.max": file("max")}, `{"nonce":"n","memory":-1,"cpu":-1,"pids":-1}`},
		"version 1": {fstest.MapFS{
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("67108864"), "sys/fs/cgroup/cpu/cpu.cfs_quota_us": file("25000"),
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": file("100000"), "sys/fs/cgroup/pids/pids.max": file("max"),
			"sys/fs/cgroup/memory/memory.usage_in_bytes": file("8192"),
		}, `{"nonce":"n","memory":67108864,"cpu":0.25,"pids":-1,"used":8192}`},
		"nothing to see": {fstest.MapFS{}, `{"nonce":"n"}`},
		"nonsense":       {fstest.MapFS{"sys/fs/cgroup/memory.max": file("lots"), "sys/fs/cgroup/cpu.max": file("1 0")}, `{"nonce":"n"}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(readLimits(tt.files, "n"))
			if err != nil || !bytes.Equal(got, []byte(tt.want)) {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}
