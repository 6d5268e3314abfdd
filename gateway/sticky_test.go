package gateway

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// stickyApp is an app with so many instances, each of which answers its name.
func stickyApp(t *testing.T, r *rig, sticky bool, ids ...string) router.AppState {
	t.Helper()
	st := record("a")
	st.Releases[0].Run.Sticky = sticky
	for _, id := range ids {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, id)
		}))
		t.Cleanup(srv.Close)
		st.Instances = append(st.Instances, instance(id, router.Ready, strings.TrimPrefix(srv.URL, "http://")))
	}
	r.apply(st)
	return st
}

// ask sends a request with a Cookie field and returns the answer's body and its
// cookie.
func ask(t *testing.T, r *rig, cookie string) (body, set string) {
	t.Helper()
	line := ""
	if cookie != "" {
		line = "Cookie: " + cookie + "\r\n"
	}
	res, body := r.raw("GET / HTTP/1.1\r\nHost: a.localhost\r\n" + line + "\r\n")
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	return body, res.Header.Get("Set-Cookie")
}

func TestSticky(t *testing.T) {
	r, other := newRig(t, nil), newRig(t, nil)
	st := stickyApp(t, r, true, "a-1", "a-2", "a-3")
	other.apply(st)
	first, set := ask(t, r, "")
	cookie, attributes, _ := strings.Cut(set, ";")
	if !strings.HasPrefix(cookie, "fluxgate=") || !strings.Contains(attributes, "HttpOnly") || strings.Contains(set, "a-") {
		t.Fatalf("Set-Cookie: %q", set)
	}
	for i := range 20 {
		for name, gateway := range map[string]*rig{"this gateway": r, "another gateway": other} {
			body, set := ask(t, gateway, fmt.Sprintf("x=%d; %s; y=2", i, cookie))
			if body != first || set != "" {
				t.Fatalf("%s: the client of %s got %s, Set-Cookie %q", name, first, body, set)
			}
		}
	}
	// Its instance is gone: the client moves, and gets the new one's cookie.
	var left []router.Instance
	for _, in := range st.Instances {
		if in.ID != first {
			left = append(left, in)
		}
	}
	st.Instances = left
	r.apply(st)
	second, set := ask(t, r, cookie)
	if second == first || !strings.HasPrefix(set, "fluxgate=") || strings.HasPrefix(set, cookie) {
		t.Errorf("after %s went: %s, Set-Cookie %q", first, second, set)
	}
}

func TestNotSticky(t *testing.T) {
	r := newRig(t, nil)
	stickyApp(t, r, false, "a-1", "a-2")
	seen := map[string]bool{}
	for range 100 {
		body, set := ask(t, r, "fluxgate="+stickyToken("a-1"))
		if set != "" {
			t.Fatalf("Set-Cookie: %q", set)
		}
		seen[body] = true
	}
	if len(seen) != 2 {
		t.Errorf("only %v answered", seen)
	}
}

func TestCookieValue(t *testing.T) {
	for field, want := range map[string]string{
		"":                       "",
		"fluxgate=x":             "x",
		"a=b; fluxgate=x; c=d":   "x",
		"a=b;fluxgate=x":         "x",
		`fluxgate="x"`:           "x",
		"fluxgate=x; fluxgate=y": "x",
		"notfluxgate=x":          "",
		"fluxgate":               "",
		"=x;;;":                  "",
	} {
		if got := string(cookieValue([]byte(field), stickyCookie)); got != want {
			t.Errorf("%q: %q, want %q", field, got, want)
		}
	}
}

func FuzzCookieValue(f *testing.F) {
	f.Add([]byte("a=b; fluxgate=x"))
	f.Fuzz(func(t *testing.T, field []byte) {
		if v := cookieValue(field, stickyCookie); len(v) > len(field) {
			t.Error("longer than the field")
		}
	})
}
