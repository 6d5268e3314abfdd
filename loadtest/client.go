package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// client is one user's kept-alive HTTPS connection to one app.
type client struct {
	url  string
	http *http.Client
}

// answer is what a request got.
type answer struct {
	status    int
	firstByte time.Duration // from before the request to the first byte of the answer
	reused    bool          // the connection was there already
	timing    string        // Server-Timing
	body      string
}

// client makes a client of an app; it opens its connection with the first get.
func (g *gateway) client(app string) *client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &client{
		url: fmt.Sprintf("https://%s.localhost:%d/", app, g.https),
		http: &http.Client{
			Timeout: 2 * time.Minute,
			Transport: &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: g.roots, MinVersion: tls.VersionTLS12},
				// The name's address does not depend on the machine's resolver.
				DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return dialer.DialContext(ctx, network, loopback(g.https))
				},
			},
		},
	}
}

func (c *client) get(ctx context.Context) (answer, error) {
	var a answer
	var start time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { a.reused = info.Reused },
		GotFirstResponseByte: func() { a.firstByte = time.Since(start) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return a, err
	}
	start = time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a.status, a.timing, a.body = resp.StatusCode, resp.Header.Get("Server-Timing"), string(body)
	return a, err
}

// woken gets an answer that must have woken the app by the phase (thaw, start,
// create); anything else would be measuring something else.
func (c *client) woken(ctx context.Context, phase string) (answer, error) {
	a, err := c.get(ctx)
	switch {
	case err != nil:
		return a, err
	case a.status != http.StatusOK:
		return a, fmt.Errorf("%s answers %d: %s", c.url, a.status, strings.TrimSpace(a.body))
	case !strings.Contains(a.timing, phase):
		return a, fmt.Errorf("%s was not woken by %s: Server-Timing is %q", c.url, phase, a.timing)
	}
	return a, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// listening returns when a loopback port takes connections.
func listening(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopback(port))
		if err == nil {
			return conn.Close()
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("nothing listens on %s: %w", loopback(port), err)
		}
	}
}
