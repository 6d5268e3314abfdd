package router

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// maxHost is the longest hostname in text form (RFC 1035 section 2.3.4, less
// the root dot).
const maxHost = 253

// NormalizeHost brings a Host header or SNI name into the form that the Table
// is keyed by: lower case, without port and without the root dot. The result is
// appended to dst (pass a slice with capacity 253 to avoid allocation). It
// reports false for what cannot be a hostname; IP addresses are hostnames here,
// without brackets.
//
// The grammar is RFC 9110 section 7.2 (uri-host [":" port]), restricted to the
// letters, digits, hyphens and underscores that DNS names in use are made of.
func NormalizeHost(dst, host []byte) ([]byte, bool) {
	if len(host) > 0 && host[0] == '[' {
		end := -1
		for i, c := range host {
			if c == ']' {
				end = i
				break
			}
		}
		if end < 0 || !validPort(host[end+1:]) {
			return dst, false
		}
		addr, err := netip.ParseAddr(string(host[1:end]))
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return dst, false
		}
		return append(dst, addr.String()...), true
	}
	for i, c := range host {
		if c == ':' {
			if !validPort(host[i:]) {
				return dst, false
			}
			host = host[:i]
			break
		}
	}
	if n := len(host); n > 0 && host[n-1] == '.' {
		host = host[:n-1]
	}
	if len(host) == 0 || len(host) > maxHost {
		return dst, false
	}
	label := 0
	for i, c := range host {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			label++
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
			label++
		case c == '-':
			if label == 0 || i == len(host)-1 || host[i+1] == '.' {
				return dst, false
			}
			label++
		case c == '.':
			if label == 0 {
				return dst, false
			}
			label = 0
		default:
			return dst, false
		}
		if label > 63 {
			return dst, false
		}
		dst = append(dst, c)
	}
	return dst, label > 0 // else it ended with two dots
}

// validPort accepts "", ":" and ":1234" (RFC 3986 section 3.2.3: port = *DIGIT).
func validPort(s []byte) bool {
	if len(s) == 0 {
		return true
	}
	if s[0] != ':' || len(s) > 6 {
		return false
	}
	for _, c := range s[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// ParseDomain checks a hostname that a user wants for an app and returns its
// stored form: lower case, international names in ASCII (RFC 5891). field names
// it in the violation.
func ParseDomain(field, s string) (string, *Violation) {
	bad := func(limit, remedy string) (string, *Violation) {
		return "", &Violation{field, fmt.Sprintf("%q", s), limit, remedy}
	}
	t := strings.TrimSuffix(strings.TrimSpace(s), ".")
	if strings.Contains(t, "*") {
		return bad("wildcards are not supported", "add each hostname")
	}
	if strings.Contains(t, "/") || strings.Contains(t, ":") {
		return bad("a hostname has no scheme, port or path", `write "app.example.com"`)
	}
	ascii, err := idna.Lookup.ToASCII(t)
	if err != nil {
		return bad("not a hostname", `write "app.example.com"`)
	}
	// A few names have a form in ASCII that is no name itself: no certificate
	// and no client would take it.
	if again, err := idna.Lookup.ToASCII(ascii); err != nil || again != ascii {
		return bad("not a hostname", `write "app.example.com"`)
	}
	host, ok := NormalizeHost(nil, []byte(ascii))
	if !ok || strings.Contains(ascii, "_") {
		return bad("not a hostname", `write "app.example.com"`)
	}
	if _, err := netip.ParseAddr(string(host)); err == nil {
		return bad("an IP address cannot be an app's domain", "use a hostname")
	}
	if !strings.Contains(string(host), ".") {
		return bad("a domain has at least two labels", `write "app.example.com"`)
	}
	return string(host), nil
}

// InternalHost reports whether no public authority can issue a certificate for
// the name: single labels, IP addresses, and the special-use domains of RFC
// 6761, RFC 6762, RFC 8375 and ICANN's .internal.
func InternalHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	i := strings.LastIndexByte(host, '.')
	if i < 0 {
		return true
	}
	switch host[i+1:] {
	case "localhost", "local", "internal", "test", "invalid", "example", "lan", "home", "corp":
		return true
	}
	return strings.HasSuffix(host, ".home.arpa")
}
