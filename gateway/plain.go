package gateway

import (
	"bytes"
	"net"
	"net/http"
	"strconv"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"
)

var challengePath = []byte("/.well-known/acme-challenge/")

// answerPlain deals with what came over plain HTTP and is not for an app: ACME
// validations, and everything that belongs on HTTPS. It reports whether it has
// answered.
func (e *Edge) answerPlain(x *exchange, name []byte) bool {
	challenge := e.tls != nil && bytes.HasPrefix(x.uri, challengePath)
	if e.opts.PlainHTTP && !challenge {
		return false
	}
	if _, ok := e.table.Load().Lookup(name); !ok {
		x.refuse(notFound)
		return true
	}
	if challenge && e.answerChallenge(x) {
		return true
	}
	if e.opts.PlainHTTP {
		return false
	}
	e.redirect(x, name)
	return true
}

// redirect sends the client to the same address on HTTPS. 308 keeps the method
// and the body.
func (e *Edge) redirect(x *exchange, name []byte) {
	url := append([]byte("https://"), name...)
	if port := e.httpsPort(); port != 443 {
		url = strconv.AppendInt(append(url, ':'), int64(port), 10)
	}
	if x.uri[0] == '/' {
		url = append(url, x.uri...)
	}
	h := &x.ctx.Response.Header
	p := page{fasthttp.StatusPermanentRedirect, "This page is on HTTPS", "Follow the address that begins with https.", 0}
	x.refuse(p)
	h.SetBytesV(fasthttp.HeaderLocation, url)
	h.Del("Cache-Control")
}

func (e *Edge) httpsPort() int {
	if e.opts.HTTPS != nil {
		if a, ok := e.opts.HTTPS.Addr().(*net.TCPAddr); ok {
			return a.Port
		}
	}
	return 443
}

// answerChallenge answers an HTTP-01 validation if it is one of ours.
func (e *Edge) answerChallenge(x *exchange) bool {
	ours := false
	fasthttpadaptor.NewFastHTTPHandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ours = e.tls.answerChallenge(w, r)
	})(x.ctx)
	if !ours {
		x.ctx.Response.Reset()
		return false
	}
	x.ctx.Response.Header.SetBytesKV(headerRequestID, x.id[:])
	return true
}
