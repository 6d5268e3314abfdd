package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// ClientOptions say where a control API is and who asks.
type ClientOptions struct {
	URL     string // https://fluxgate.localhost:8443
	Address string // dialled instead of the URL's host: host:port, or unix:///path for plain HTTP over a socket
	RootPEM []byte // certificates that are trusted beside the system's
	Token   router.Secret
}

// Client calls a control API. Its methods may be called concurrently; their
// errors are *router.Error, as the server meant them or with CodeUnavailable
// where there was no answer.
type Client struct {
	base  *url.URL
	where string // as users know it
	token router.Secret
	http  *http.Client
}

// NewClient makes a client; it connects with the first call.
func NewClient(o ClientOptions) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || (base.Scheme != "https" && base.Scheme != "http") || base.Host == "" || base.User != nil {
		return nil, router.Invalid("the gateway's address", []router.Violation{{
			Field: "url", Value: fmt.Sprintf("%q", o.URL), Limit: "an https:// address without user or password", Remedy: "write https://fluxgate.example.com",
		}})
	}
	base = &url.URL{Scheme: base.Scheme, Host: base.Host, Path: strings.TrimSuffix(base.Path, "/")}
	c := &Client{base: base, where: base.String(), token: o.Token}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: callTimeout + 10*time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   4,
	}
	switch path, socket := strings.CutPrefix(o.Address, "unix://"); {
	case socket:
		c.base.Scheme, c.where, t.Proxy = "http", path, nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
	case o.Address == "" && isLocalhost(base.Hostname()):
		// RFC 6761 section 6.3: these names are this machine, whether or not
		// its resolver knows that.
		o.Address = net.JoinHostPort("127.0.0.1", portOf(base))
		fallthrough
	case o.Address != "":
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, o.Address)
		}
	}
	if len(o.RootPEM) > 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(o.RootPEM) {
			return nil, router.Invalid("the root certificate", []router.Violation{{
				Field: "ca", Limit: "a certificate in PEM form", Remedy: "pass the file that `fluxgate up` printed",
			}})
		}
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Info tells about the platform.
func (c *Client) Info(ctx context.Context) (Info, error) { return get[Info](ctx, c, "/v1/info") }

// Doctor checks what the gateway stands on.
func (c *Client) Doctor(ctx context.Context) (Report, error) {
	return get[Report](ctx, c, "/v1/doctor")
}

// Apps lists all apps.
func (c *Client) Apps(ctx context.Context) ([]App, error) { return get[[]App](ctx, c, "/v1/apps") }

// AppsThatDied lists the apps of which an instance died lately.
func (c *Client) AppsThatDied(ctx context.Context) ([]App, error) {
	return get[[]App](ctx, c, "/v1/apps?died=true")
}

// App is one app.
func (c *Client) App(ctx context.Context, app string) (App, error) {
	return get[App](ctx, c, appPath(app))
}

// DeleteApp removes an app.
func (c *Client) DeleteApp(ctx context.Context, app string) error {
	_, err := send[none](ctx, c, http.MethodDelete, appPath(app), nil)
	return err
}

// Instances lists the instances of an app, or of all apps if it is empty.
func (c *Client) Instances(ctx context.Context, app string) ([]Instance, error) {
	if app == "" {
		return get[[]Instance](ctx, c, "/v1/instances")
	}
	return get[[]Instance](ctx, c, appPath(app, "instances"))
}

// Releases lists an app's releases, newest first.
func (c *Client) Releases(ctx context.Context, app string) ([]Release, error) {
	return get[[]Release](ctx, c, appPath(app, "releases"))
}

// Env lists an app's variables.
func (c *Client) Env(ctx context.Context, app string) ([]Variable, error) {
	return get[[]Variable](ctx, c, appPath(app, "env"))
}

// Domains lists an app's hostnames.
func (c *Client) Domains(ctx context.Context, app string) ([]Domain, error) {
	return get[[]Domain](ctx, c, appPath(app, "domains"))
}

// AddDomain leads one more hostname to an app.
func (c *Client) AddDomain(ctx context.Context, app, host string) ([]Domain, error) {
	return send[[]Domain](ctx, c, http.MethodPost, appPath(app, "domains"), AddDomain{Host: host})
}

// RemoveDomain takes a hostname from an app.
func (c *Client) RemoveDomain(ctx context.Context, app, host string) ([]Domain, error) {
	return send[[]Domain](ctx, c, http.MethodDelete, appPath(app, "domains", host), nil)
}

// Policy is an app's policy.
func (c *Client) Policy(ctx context.Context, app string) ([]Setting, error) {
	return get[[]Setting](ctx, c, appPath(app, "policy"))
}

// SetPolicy changes some of an app's policy.
func (c *Client) SetPolicy(ctx context.Context, app string, set map[string]string) ([]Setting, error) {
	return send[[]Setting](ctx, c, http.MethodPatch, appPath(app, "policy"), PolicyChange{Set: set})
}

// PolicyHistory is who changed an app's policy when, newest first, limit changes
// at most.
func (c *Client) PolicyHistory(ctx context.Context, app string, limit int) ([]router.PolicyEdit, error) {
	return get[[]router.PolicyEdit](ctx, c, appPath(app, "policy", "history")+"?limit="+strconv.Itoa(limit))
}

// Traffic is what was recorded of an app's requests in the last time, 24 hours
// at most.
func (c *Client) Traffic(ctx context.Context, app string, last time.Duration) (Traffic, error) {
	return get[Traffic](ctx, c, appPath(app, "traffic")+"?last="+url.QueryEscape(last.String()))
}

// Why is what happened to an app, newest first: around at, or last where at is
// zero.
func (c *Client) Why(ctx context.Context, app string, at time.Time, limit int) ([]router.Event, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if !at.IsZero() {
		query.Set("at", at.UTC().Format(time.RFC3339Nano))
	}
	return get[[]router.Event](ctx, c, appPath(app, "history")+"?"+query.Encode())
}

// Tokens lists the tokens.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return get[[]Token](ctx, c, "/v1/tokens")
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, name string) (CreatedToken, error) {
	return send[CreatedToken](ctx, c, http.MethodPost, "/v1/tokens", NewToken{Name: name})
}

// DeleteToken removes a token; force allows the one in use.
func (c *Client) DeleteToken(ctx context.Context, id string, force bool) error {
	path := "/v1/tokens/" + url.PathEscape(id)
	if force {
		path += "?force=true"
	}
	_, err := send[none](ctx, c, http.MethodDelete, path, nil)
	return err
}

// CheckPush tells what a push would do, or everything that is wrong with it.
func (c *Client) CheckPush(ctx context.Context, app string, spec PushSpec) (Verdict, error) {
	return send[Verdict](ctx, c, http.MethodPost, appPath(app, "push", "check"), spec)
}

func appPath(app string, rest ...string) string {
	var b strings.Builder
	b.WriteString("/v1/apps/" + url.PathEscape(app))
	for _, r := range rest {
		b.WriteString("/" + url.PathEscape(r))
	}
	return b.String()
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return send[T](ctx, c, http.MethodGet, path, nil)
}

// send sends body as JSON and decodes the answer.
func send[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var out T
	ctx, cancel := context.WithTimeout(ctx, callTimeout+15*time.Second)
	defer cancel()
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return out, err
		}
		reader = bytes.NewReader(text)
	}
	resp, err := c.do(ctx, method, path, "application/json", reader)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, c.broken(ctx, err)
	}
	return out, nil
}

// do sends a request. Where the answer is not a success, it is the error.
func (c *Client) do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, body)
	if err != nil {
		return nil, router.Errorf(router.CodeInvalid, "cannot make the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("User-Agent", "fluxgate")
	if token := c.token.Reveal(); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}

// refusal reads the problem; an answer without one is not from a control API.
func (c *Client) refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	var p Problem
	if strings.HasPrefix(resp.Header.Get("Content-Type"), problemType) && json.Unmarshal(text, &p) == nil && p.Code != "" {
		return p.Cause()
	}
	return &router.Error{Code: codeFor(resp.StatusCode), Message: fmt.Sprintf("%s answered %s, but not as a Fluxgate control API does; check the address", c.where, resp.Status)}
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	var unknown x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	var op *net.OpError
	var e *router.Error
	switch {
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.As(err, &unknown):
		return router.Errorf(router.CodeUnavailable, "the certificate of %s is from an authority that this machine does not know; pass the gateway's root certificate: fluxgate login --ca FILE %s", c.where, c.where)
	case errors.As(err, &wrongHost):
		return router.Errorf(router.CodeUnavailable, "the certificate of %s is for another name (%w); check the address", c.where, wrongHost)
	case errors.As(err, &op) && op.Op == "dial":
		return router.Errorf(router.CodeUnavailable, "no gateway answers at %s (%w); is `fluxgate up` running there?", c.where, op.Err)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return router.Errorf(router.CodeUnavailable, "the gateway at %s did not answer: %w", c.where, err)
}

// broken is for an answer that began and did not end well.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return router.Errorf(router.CodeUnavailable, "the answer of the gateway at %s broke off: %w", c.where, err)
}
