package autoscale

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// probe waits until the instance at addr answers: a TCP connection, or a 2xx
// or 3xx answer where the release names a health path. It tries often at
// first, for most servers listen within a few milliseconds, and ever more
// seldom later. It ends with ctx; the error then says what the last try met.
func probe(ctx context.Context, dial dialer, addr string, run router.Run) error {
	try := func(ctx context.Context) error {
		conn, err := dial(ctx, addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if run.Health != "" {
		client := &http.Client{
			Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) },
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		try = func(ctx context.Context) error { return get(ctx, client, "http://"+addr+run.Health) }
	}
	pause := time.Millisecond
	started := time.Now()
	for {
		tctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := try(tctx)
		cancel()
		if err == nil {
			return nil
		}
		switch since := time.Since(started); {
		case since > 5*time.Second:
			pause = 100 * time.Millisecond
		case since > time.Second:
			pause = 20 * time.Millisecond
		case since > 100*time.Millisecond:
			pause = 5 * time.Millisecond
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// dialer connects to an address on the node of an instance.
type dialer func(ctx context.Context, addr string) (net.Conn, error)

func (c *Controller) dialer(node string) dialer {
	return func(ctx context.Context, addr string) (net.Conn, error) { return c.Runtime.Dial(ctx, node, addr) }
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "fluxgate-probe")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("the health check answers %s", resp.Status)
	}
	return nil
}
