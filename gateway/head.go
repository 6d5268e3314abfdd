package gateway

import (
	"bytes"
	"net"
	"strconv"

	"github.com/valyala/fasthttp"
)

// field is one line of a request's header. Both slices point into the buffer
// that fasthttp read it to.
type field struct{ name, value []byte }

// class is what a proxy does with a header field.
type class uint8

const (
	pass            class = iota // forward as it is
	drop                         // hop-by-hop, or only a proxy that we trust could have said it
	hopConnection                // names further hop-by-hop fields
	hopUpgrade                   // forwarded if the request is an upgrade
	framingLength                // written anew from what the body turned out to be
	framingEncoding              //
	essential                    // forwarded even if Connection names it
)

// dropped are the fields that are not forwarded: hop-by-hop ones (RFC 9110
// section 7.6.1, and the older ones of RFC 2616 section 13.5.1), Expect, which
// we have answered, Proxy, which CGI programs take for a setting, and those by
// which a client could pretend to be another.
var dropped = []string{
	"te", "proxy", "expect", "trailer", "forwarded", "x-real-ip", "keep-alive", "x-client-ip", "x-request-id",
	"true-client-ip", "proxy-connection", "proxy-authenticate", "proxy-authorization", "x-cluster-client-ip",
}

const forwardedPrefix = "x-forwarded-"

// byLength is dropped, by length of the name.
var byLength = func() (t [32][]string) {
	for _, name := range dropped {
		t[len(name)] = append(t[len(name)], name)
	}
	return t
}()

// classify sorts a field by its name.
func classify(name []byte) class {
	switch len(name) {
	case 4:
		if same(name, "host") {
			return essential
		}
	case 7:
		if same(name, "upgrade") {
			return hopUpgrade
		}
	case 10:
		if same(name, "connection") {
			return hopConnection
		}
	case 14:
		if same(name, "content-length") {
			return framingLength
		}
	case 17:
		if same(name, "transfer-encoding") {
			return framingEncoding
		}
	}
	if len(name) < len(byLength) {
		for _, d := range byLength[len(name)] {
			if same(name, d) {
				return drop
			}
		}
	}
	if len(name) >= len(forwardedPrefix) && same(name[:len(forwardedPrefix)], forwardedPrefix) {
		return drop
	}
	return pass
}

// same compares a field's name with one in lower case. An underscore counts as
// a hyphen: CGI and its descendants make one of the other, so X_Forwarded_For
// would be believed as X-Forwarded-For.
func same(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i := range len(lower) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// readHead takes the header apart. It returns why the request must be refused,
// or "": fasthttp has refused most of what is malformed, but accepts some
// messages in which the next server could see another end than we do (RFC 9112
// sections 5.2, 6.1 and 6.3).
func (x *exchange) readHead(h *fasthttp.RequestHeader) string {
	if p := h.Protocol(); string(p) != "HTTP/1.1" && string(p) != "HTTP/1.0" {
		return "This version of HTTP is not spoken here."
	}
	if h.IsConnect() {
		return "This is not a forward proxy."
	}
	length, encoding := false, false
	x.fields, x.nominated = x.fields[:0], x.nominated[:0]
	x.upgrade = nil
	connectionUpgrade := false
	for raw := h.RawHeaders(); len(raw) > 0; {
		line := raw
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			line, raw = raw[:i], raw[i+1:]
		} else {
			raw = nil
		}
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		}
		if len(line) == 0 {
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || line[0] == ' ' || line[0] == '\t' {
			return "A header line is broken."
		}
		f := field{line[:colon], trim(line[colon+1:])}
		if bytes.IndexByte(f.name, ' ') >= 0 || bytes.IndexByte(f.name, '\t') >= 0 || bytes.IndexByte(f.value, '\r') >= 0 {
			return "A header line is broken."
		}
		switch classify(f.name) {
		case pass:
			x.fields = append(x.fields, f)
		case essential:
			// Written anew: with an absolute request target, its host counts.
		case hopConnection:
			connectionUpgrade = x.nominate(f.value) || connectionUpgrade
		case hopUpgrade:
			if x.upgrade == nil {
				x.upgrade = f.value
			}
		case framingLength:
			length = true
		case framingEncoding:
			if encoding = true; !same(f.value, "chunked") {
				return "The encoding of the body is not known."
			}
		case drop:
		}
	}
	if length && encoding {
		return "The length of the body is given in two ways."
	}
	x.length = h.ContentLength()
	if encoding != (x.length == -1) {
		return "The length of the body is not clear."
	}
	x.hasLength = length || (x.length == 0 && expectsBody(h.Method()))
	// h2c would tunnel requests past everything here.
	if !connectionUpgrade || !h.IsHTTP11() || bytes.EqualFold(x.upgrade, []byte("h2c")) {
		x.upgrade = nil
	}
	return ""
}

// nominate notes the fields that a Connection field names, and reports whether
// Upgrade is among them.
func (x *exchange) nominate(value []byte) (upgrade bool) {
	for len(value) > 0 {
		token := value
		if i := bytes.IndexByte(value, ','); i >= 0 {
			token, value = value[:i], value[i+1:]
		} else {
			value = nil
		}
		switch token = trim(token); {
		case len(token) == 0, same(token, "close"), same(token, "keep-alive"):
		case same(token, "upgrade"):
			upgrade = true
		default:
			x.nominated = append(x.nominated, token)
		}
	}
	return upgrade
}

// isNominated reports whether Connection names the field.
func (x *exchange) isNominated(name []byte) bool {
	for _, n := range x.nominated {
		if bytes.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// appendHead writes the request's header as the instance gets it: the client's
// fields in their order and spelling, then ours.
func (x *exchange) appendHead(dst []byte) []byte {
	h := &x.ctx.Request.Header
	dst = append(dst, h.Method()...)
	dst = append(dst, ' ')
	dst = append(dst, x.uri...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, x.host...)
	dst = append(dst, "\r\n"...)
	for i := range x.fields {
		f := &x.fields[i]
		if len(x.nominated) > 0 && x.isNominated(f.name) {
			continue
		}
		dst = append(dst, f.name...)
		dst = append(dst, ": "...)
		dst = append(dst, f.value...)
		dst = append(dst, "\r\n"...)
	}
	dst = append(dst, x.conn.head...)
	dst = append(dst, "X-Forwarded-Host: "...)
	dst = append(dst, x.host...)
	dst = append(dst, "\r\nX-Forwarded-Port: "...)
	dst = append(dst, x.port()...)
	dst = append(dst, "\r\nX-Request-Id: "...)
	dst = append(dst, x.id[:]...)
	dst = append(dst, "\r\n"...)
	switch {
	case x.length == -1:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case x.hasLength:
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, int64(max(x.length, 0)), 10)
		dst = append(dst, "\r\n"...)
	}
	if x.upgrade != nil {
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: "...)
		dst = append(dst, x.upgrade...)
		dst = append(dst, "\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// appendForwarded writes the lines that are the same for every request of a
// connection.
func appendForwarded(dst []byte, client net.Addr, secure bool) []byte {
	ip := "unknown" // RFC 7239 section 6.2
	if tcp, ok := client.(*net.TCPAddr); ok {
		ip = tcp.IP.String()
	}
	dst = append(dst, "X-Forwarded-For: "...)
	dst = append(dst, ip...)
	dst = append(dst, "\r\nX-Forwarded-Proto: "...)
	if secure {
		return append(dst, "https\r\n"...)
	}
	return append(dst, "http\r\n"...)
}

// port is the port that the client called, as far as its Host field tells.
func (x *exchange) port() []byte {
	for i := len(x.host) - 1; i >= 0 && x.host[i] != ']'; i-- {
		if x.host[i] == ':' && i+1 < len(x.host) {
			return x.host[i+1:]
		}
	}
	if x.conn.tls != nil {
		return portHTTPS
	}
	return portHTTP
}

var portHTTPS, portHTTP = []byte("443"), []byte("80")

// expectsBody reports whether a request of the method without a body says so
// (RFC 9110 section 8.6).
func expectsBody(method []byte) bool {
	switch string(method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}

// trim takes spaces and tabs off both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
