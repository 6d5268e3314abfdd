package gateway

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"math"
	"net"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/fluxgate/fluxgate/router"
)

//go:embed page.html
var pageFiles embed.FS

var pageTemplate = template.Must(template.ParseFS(pageFiles, "page.html"))

// page is an answer of the gateway's own, where the app has none. Its text is
// for people who opened an address: no machinery in it.
type page struct {
	status     int
	title      string
	text       string
	retryAfter time.Duration // 0: no use in trying again soon
}

var (
	notFound = page{
		fasthttp.StatusNotFound, "Nothing is here",
		"There is no app at this address. Check the spelling, or ask whoever gave it to you.", 0,
	}
	noAnswer = page{
		fasthttp.StatusBadGateway, "The app did not answer",
		"The app took the request but broke off before it had answered. Trying again may help.", 0,
	}
	tooSlow = page{
		fasthttp.StatusGatewayTimeout, "The app takes too long",
		"The app did not answer in time. Trying again may help.", 0,
	}
	broken = page{
		fasthttp.StatusInternalServerError, "Something went wrong",
		"The request could not be handled. Trying again may help.", 0,
	}
)

func badRequest(why string) page {
	return page{fasthttp.StatusBadRequest, "The request is not valid", why, 0}
}

func unavailable(title, text string, retryAfter time.Duration) page {
	return page{fasthttp.StatusServiceUnavailable, title, text, retryAfter}
}

// Errors of admission.
var (
	errNoApp    = router.Errorf(router.CodeNotFound, "the app was removed")
	errNoAnswer = errors.New("the app did not answer")
	errStopping = router.Errorf(router.CodeUnavailable, "the gateway is stopping") // others, or the next one, answer at once
)

func errQueueFull(app string) error {
	return router.Errorf(router.CodeExhausted, "too many requests wait for app %s", app)
}

func errWaitedTooLong(t *target, w *waiter) error {
	if w.asleep {
		return errAsleepTooLong(t.app, t.policy.WakeDeadline.D())
	}
	return router.Errorf(router.CodeExhausted, "app %s had no place for %s", t.app, t.policy.QueueDeadline)
}

func errAsleepTooLong(app string, limit time.Duration) error {
	return router.Errorf(router.CodeUnavailable, "app %s did not wake within %s", app, limit)
}

// pageFor is what the client sees of an error.
func (x *exchange) pageFor(err error) page {
	switch {
	case errors.Is(err, errNoAnswer):
		return noAnswer
	case errors.Is(err, errFirstByte):
		return tooSlow
	}
	var re *router.Error
	if !errors.As(err, &re) {
		re = &router.Error{Code: router.CodeInternal}
	}
	// Who refused may know when it can be otherwise; else it is what was measured
	// that tells.
	retry := retryAfter(x.again, re.RetryAfter)
	switch re.Code {
	case router.CodeNotFound:
		return notFound
	case router.CodeExhausted:
		return unavailable("The app is very busy", "More people are here than the app can take at once.", retry)
	}
	if t := x.target; t != nil {
		if crash := t.admission.target.Load().crash; crash.Count > 0 && time.Now().Before(crash.Until) {
			return unavailable("The app is not well", "It has stopped several times in a row. It gets another chance soon.",
				max(retry, time.Until(crash.Until)))
		}
	}
	return unavailable("The app is not awake yet", "It takes longer than usual to start.", retry)
}

// refuseFor answers with the page for an error of the gateway's own making.
func (x *exchange) refuseFor(err error) {
	if errors.Is(err, errClientGone) {
		x.ctx.Response.Reset()
		x.ctx.SetConnectionClose()
		return
	}
	x.edge.log.Debug("request refused", "id", string(x.id[:]), "app", x.target.app, "error", err)
	x.refuse(x.pageFor(err))
}

// refuse answers with a page instead of the app.
func (x *exchange) refuse(p page) {
	// What was read of an answer is not to be mixed with ours.
	x.ctx.Response.Reset()
	if x.edge.draining.Load() {
		x.ctx.SetConnectionClose()
	}
	if x.bodyLeft() || p.status == fasthttp.StatusBadRequest {
		// What follows would be taken for the next request.
		x.ctx.SetConnectionClose()
		x.conn.linger.Store(true)
	}
	p.write(x.ctx, x.id[:])
}

// write fills the response in.
func (p page) write(ctx *fasthttp.RequestCtx, id []byte) {
	h := &ctx.Response.Header
	h.SetStatusCode(p.status)
	h.SetBytesKV(headerRequestID, id)
	h.Set("Cache-Control", "no-store")
	seconds := int(math.Ceil(p.retryAfter.Seconds()))
	if seconds > 0 {
		h.Set("Retry-After", strconv.Itoa(seconds))
	}
	if prefersJSON(ctx.Request.Header.Peek("Accept")) {
		h.SetContentType("application/problem+json")
		body, _ := json.Marshal(struct { // cannot fail
			Title  string `json:"title"`
			Status int    `json:"status"`
			Detail string `json:"detail"`
			ID     string `json:"instance"`
		}{p.title, p.status, p.text, "urn:request:" + string(id)})
		ctx.Response.SetBody(body)
		return
	}
	h.SetContentType("text/html; charset=utf-8")
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, struct {
		Status, Retry   int
		Title, Text, ID string
	}{p.status, seconds, p.title, p.text, string(id)})
	if err != nil {
		b.Reset()
		b.WriteString(p.title)
	}
	ctx.Response.SetBody(b.Bytes())
}

// prefersJSON reports whether an Accept field wants JSON and does not mention
// HTML: browsers always mention it.
func prefersJSON(accept []byte) bool {
	return bytes.Contains(accept, []byte("json")) && !bytes.Contains(accept, []byte("html"))
}

// unreadable answers requests that fasthttp could not read.
func (e *Edge) unreadable(ctx *fasthttp.RequestCtx, err error) {
	var small *fasthttp.ErrSmallBuffer
	var ne net.Error
	p := badRequest("It could not be understood.")
	switch {
	case errors.As(err, &small):
		p = page{fasthttp.StatusRequestHeaderFieldsTooLarge, "The request is too large", "Its header is too long.", 0}
	case errors.As(err, &ne) && ne.Timeout():
		p = page{fasthttp.StatusRequestTimeout, "The request took too long", "It did not arrive in time.", 0}
	}
	if c := clientConn(ctx.Conn()); c != nil {
		c.linger.Store(true)
	}
	var x exchange
	x.newID()
	p.write(ctx, x.id[:])
}
