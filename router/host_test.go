package router

import (
	"bytes"
	"strings"
	"testing"
)

func TestNormalizeHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	tests := map[string]struct{ want string }{
		"hello.localhost":                 {"hello.localhost"},
		"HELLO.LocalHost":                 {"hello.localhost"},
		"hello.localhost.":                {"hello.localhost"},
		"hello.localhost:8443":            {"hello.localhost"},
		"hello.localhost.:443":            {"hello.localhost"},
		"hello.localhost:":                {"hello.localhost"},
		"localhost":                       {"localhost"},
		"a_b.example.com":                 {"a_b.example.com"},
		"xn--bcher-kva.de":                {"xn--bcher-kva.de"},
		"127.0.0.1:80":                    {"127.0.0.1"},
		"[::1]":                           {"::1"},
		"[::1]:8443":                      {"::1"},
		"[2001:DB8::0:1]:1":               {"2001:db8::1"},
		long + ".com":                     {long + ".com"},
		"":                                {},
		".":                               {},
		":80":                             {},
		"a..b":                            {},
		".a":                              {},
		"a.b..":                           {},
		"-a.com":                          {},
		"a-.com":                          {},
		"a.com-":                          {},
		"a b":                             {},
		"a\x00b":                          {},
		"a/b":                             {},
		"a@b":                             {},
		"bücher.de":                       {},
		"a:80:90":                         {},
		"a:8x":                            {},
		"a:123456":                        {},
		"a:-1":                            {},
		"::1":                             {},
		"[::1":                            {},
		"[::1]x":                          {},
		"[127.0.0.1]":                     {},
		"[fe80::1%eth0]":                  {},
		"[]":                              {},
		long + "a.com":                    {},
		strings.Repeat("a.", 127) + "b":   {},
		strings.Repeat("a.", 126) + "b":   {strings.Repeat("a.", 126) + "b"},
		strings.Repeat("a.", 126) + "b.":  {strings.Repeat("a.", 126) + "b"},
		strings.Repeat("a.", 126) + "b:1": {strings.Repeat("a.", 126) + "b"},
	}
	for in, test := range tests {
		t.Run(in, func(t *testing.T) {
			got, ok := NormalizeHost(nil, []byte(in))
			if ok != (test.want != "") || ok && string(got) != test.want {
				t.Errorf("%q, %v; want %q", got, ok, test.want)
			}
		})
	}
	if got, ok := NormalizeHost([]byte("x="), []byte("A.b")); !ok || string(got) != "x=a.b" {
		t.Errorf("does not append: %q", got)
	}
	buf, host := make([]byte, 0, maxHost), []byte("Hello.Example.COM:8443")
	if n := testing.AllocsPerRun(100, func() { buf, _ = NormalizeHost(buf[:0], host) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzNormalizeHost(f *testing.F) {
	for _, s := range []string{"a.b:1", "[::1]:8", "A-b.c.", "a..b", "[::ffff:1.2.3.4]", "xn--a", "a:b:c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, host []byte) {
		before := bytes.Clone(host)
		got, ok := NormalizeHost(nil, host)
		if !bytes.Equal(before, host) {
			t.Fatal("the input was changed")
		}
		if !ok {
			return
		}
		if len(got) == 0 || len(got) > maxHost || bytes.ContainsAny(got, "/@? []\r\n\x00") || !bytes.Equal(got, bytes.ToLower(got)) {
			t.Fatalf("%q became %q", host, got)
		}
		if bytes.ContainsRune(got, ':') { // an IPv6 address: its own form has brackets
			got = append(append([]byte("["), got...), ']')
			if again, ok := NormalizeHost(nil, got); !ok || !bytes.Equal(again, got[1:len(got)-1]) {
				t.Fatalf("%q, then %q", got, again)
			}
			return
		}
		if again, ok := NormalizeHost(nil, got); !ok || !bytes.Equal(again, got) {
			t.Fatalf("%q, then %q", got, again)
		}
	})
}

func TestParseDomain(t *testing.T) {
	for in, want := range map[string]string{
		"app.example.com":                "app.example.com",
		" App.Example.COM. ":             "app.example.com",
		"bücher.example.com":             "xn--bcher-kva.example.com",
		"xn--bcher-kva.de":               "xn--bcher-kva.de",
		"example":                        "",
		"":                               "",
		"*.example.com":                  "",
		"https://example.com":            "",
		"example.com:443":                "",
		"example.com/path":               "",
		"192.0.2.1":                      "",
		"::1":                            "",
		"a_b.example.com":                "",
		"-a.example.com":                 "",
		"a..example.com":                 "",
		"a b.example.com":                "",
		strings.Repeat("a", 64) + ".com": "",
	} {
		got, v := ParseDomain("host", in)
		if got != want || (v == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, v)
		}
		if v != nil && (v.Field != "host" || v.Limit == "" || v.Remedy == "") {
			t.Errorf("%q: %+v says too little", in, v)
		}
	}
}

func FuzzParseDomain(f *testing.F) {
	for _, s := range []string{"a.example.com", "BÜCHER.de.", "1.2.3.4", "xn--a.b", "a。b", "İ.com", "ß.de", "0.\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, v := ParseDomain("f", s)
		if v != nil {
			return
		}
		// It must be what a request for it is looked up by.
		if key, ok := NormalizeHost(nil, []byte(host)); !ok || string(key) != host {
			t.Fatalf("%q became %q, but is looked up as %q", s, host, key)
		}
		if again, v := ParseDomain("f", host); v != nil || again != host {
			t.Fatalf("%q, then %q (%v)", host, again, v)
		}
	})
}

func TestInternalHost(t *testing.T) {
	for host, want := range map[string]bool{
		"hello.localhost": true, "localhost": true, "box.local": true, "10.0.0.1": true, "::1": true, "a.test": true, "nas.home.arpa": true, "x.internal": true,
		"example.com": false, "localhost.com": false, "home.arpa.com": false, "arpa.org": false,
	} {
		if got := InternalHost(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

func TestCheckAppName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "hello": true, "my-app-2": true, strings.Repeat("a", 40): true,
		"": false, "A": false, "2048": false, "-a": false, "a-": false, "a_b": false, "a.b": false, "ü": false, strings.Repeat("a", 41): false, "fluxgate": false, "registry": false, "a\n": false,
	} {
		if v := CheckAppName(name); (v == nil) != ok {
			t.Errorf("%q: %v", name, v)
		}
	}
}
