package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Problem is the body of every answer that is not a success: an RFC 9457
// problem with two members of our own, code and errors.
type Problem struct {
	Title      string             `json:"title" doc:"The HTTP status in words"`
	Status     int                `json:"status" doc:"The HTTP status"`
	Detail     string             `json:"detail" doc:"What happened and what to do"`
	Code       router.Code        `json:"code" enum:"invalid,not_found,conflict,unauthorized,unavailable,exhausted,failed,internal" doc:"What kind of failure it is, for programs"`
	Errors     []router.Violation `json:"errors,omitempty" doc:"Everything that is wrong with the input"`
	RetryAfter int                `json:"retry_after,omitempty" doc:"Seconds after which to try again"`
}

// Error is the detail and, one a line, what is wrong with the input.
func (p *Problem) Error() string { return p.Cause().Error() }

// GetStatus tells huma the status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType tells huma the media type (RFC 9457 section 3).
func (p *Problem) ContentType(string) string { return problemType }

// GetHeaders tells huma the headers.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="fluxgate"`)
	}
	return h
}

// Cause is the problem as the error that it was.
func (p *Problem) Cause() *router.Error {
	return &router.Error{Code: p.Code, Message: p.Detail, Violations: p.Errors, RetryAfter: time.Duration(p.RetryAfter) * time.Second}
}

const problemType = "application/problem+json"

var statuses = map[router.Code]int{
	router.CodeInvalid:      http.StatusUnprocessableEntity,
	router.CodeNotFound:     http.StatusNotFound,
	router.CodeConflict:     http.StatusConflict,
	router.CodeUnauthorized: http.StatusUnauthorized,
	router.CodeUnavailable:  http.StatusServiceUnavailable,
	router.CodeExhausted:    http.StatusServiceUnavailable,
	router.CodeFailed:       http.StatusFailedDependency,
	router.CodeInternal:     http.StatusInternalServerError,
}

// codeFor is the code of a status that HTTP itself, not a handler, gave.
func codeFor(status int) router.Code {
	switch status {
	case http.StatusUnauthorized:
		return router.CodeUnauthorized
	case http.StatusNotFound:
		return router.CodeNotFound
	case http.StatusConflict:
		return router.CodeConflict
	case http.StatusServiceUnavailable, http.StatusRequestTimeout:
		return router.CodeUnavailable
	}
	if status >= 500 {
		return router.CodeInternal
	}
	return router.CodeInvalid
}

func newProblem(status int, code router.Code, detail string) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
}

// ProblemOf turns any error into a problem. What is not a router.Error is a bug
// or a broken engine: its text is for the log, not for the answer.
func ProblemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var e *router.Error
	switch {
	case errors.As(err, &e):
		status, ok := statuses[e.Code]
		if !ok {
			status = http.StatusInternalServerError
		}
		p = newProblem(status, e.Code, e.Message)
		p.Errors = e.Violations
		p.RetryAfter = int(math.Ceil(e.RetryAfter.Seconds()))
	case errors.Is(err, context.DeadlineExceeded):
		p = newProblem(http.StatusServiceUnavailable, router.CodeUnavailable, "this took longer than the gateway allows; try again, and see `fluxgate doctor` if it happens again")
	case errors.Is(err, context.Canceled):
		p = newProblem(http.StatusServiceUnavailable, router.CodeUnavailable, "this was cancelled: the client went away or the gateway is stopping")
	default:
		p = newProblem(http.StatusInternalServerError, router.CodeInternal, "something went wrong inside the gateway; its log says what")
	}
	return p
}

// writeProblem answers with p where huma is not involved.
func writeProblem(w http.ResponseWriter, p *Problem) {
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// asProblem makes huma's own errors (bad JSON, wrong types, missing and unknown
// members) problems too. It is one of huma's transformers.
func asProblem(_ huma.Context, _ string, body any) (any, error) {
	e, ok := body.(*huma.ErrorModel)
	if !ok {
		return body, nil
	}
	p := newProblem(e.Status, codeFor(e.Status), e.Detail)
	for _, d := range e.Errors {
		p.Errors = append(p.Errors, violationOf(d))
	}
	if len(p.Errors) > 0 {
		p.Detail = "the request is not valid"
	}
	return p, nil
}

// violationOf is a violation for huma's. A value from a body is not repeated:
// it may be a secret, or the whole body.
func violationOf(d *huma.ErrorDetail) router.Violation {
	v := router.Violation{Field: strings.TrimPrefix(d.Location, "body."), Limit: d.Message, Remedy: "see /openapi.json"}
	if !strings.HasPrefix(d.Location, "body") {
		v.Field = d.Location[strings.IndexByte(d.Location, '.')+1:]
		if s, ok := d.Value.(string); ok && len(s) <= 80 {
			v.Value = strconv.Quote(s)
		}
	}
	if v.Field == "body" {
		v.Remedy = "send one JSON object, as /openapi.json describes"
	}
	return v
}
