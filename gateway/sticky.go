package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"

	"github.com/valyala/fasthttp"
)

// stickyCookie names the instance that a client of a sticky app was answered
// by. It is the same on all gateways, and tells nothing but whether two clients
// have the same instance.
const stickyCookie = "fluxgate"

// stickyToken stands for an instance in the cookie.
func stickyToken(instance string) string {
	sum := sha256.Sum256([]byte("sticky " + instance))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// stuck takes a place on the instance that the client's cookie names; nil where
// there is no such instance, or it has no place.
func (t *target) stuck(h *fasthttp.RequestHeader) *upstream {
	token := cookieValue(h.Peek(fasthttp.HeaderCookie), stickyCookie)
	if len(token) == 0 {
		return nil
	}
	for _, u := range t.endpoints {
		if u.token == string(token) {
			if u.acquire(t.limit) {
				return u
			}
			return nil
		}
	}
	return nil
}

// stick gives the client the cookie of the instance that answered, unless it
// sent that one.
func (x *exchange) stick(h *fasthttp.ResponseHeader) {
	token := cookieValue(x.ctx.Request.Header.Peek(fasthttp.HeaderCookie), stickyCookie)
	if x.up.token == string(token) {
		return
	}
	value := stickyCookie + "=" + x.up.token + "; Path=/; HttpOnly; SameSite=Lax"
	if x.conn.tls != nil {
		value += "; Secure"
	}
	h.Add(fasthttp.HeaderSetCookie, value)
}

// cookieValue is the first value of a cookie in a Cookie field (RFC 6265
// section 4.2.1); nil where there is none.
func cookieValue(field []byte, name string) []byte {
	for len(field) > 0 {
		pair, rest, _ := bytes.Cut(field, []byte(";"))
		field = rest
		key, value, ok := bytes.Cut(bytes.TrimSpace(pair), []byte("="))
		if ok && string(key) == name {
			return bytes.Trim(value, `"`)
		}
	}
	return nil
}
