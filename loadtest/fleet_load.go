package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// shot is one request of a steady load.
type shot struct {
	app    string
	at     time.Time
	took   time.Duration
	status int
	err    error
}

func (s shot) ok() bool { return s.err == nil && s.status == http.StatusOK }

// barrage is a steady load: so many requests a second, whatever becomes of
// them, over the apps in turn.
type barrage struct {
	stop  chan struct{}
	group sync.WaitGroup
	mu    sync.Mutex
	shots []shot
}

// aim is where requests go.
type aim struct {
	client *http.Client
	url    func(app string) string
}

// aimAt makes an aim at an address that speaks HTTPS for *.localhost. fresh: a
// connection of its own for each request.
func aimAt(g *gateway, addr string, fresh bool) aim {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return aim{
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: g.roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: fresh, MaxIdleConnsPerHost: 100,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, addr)
			},
		}},
		url: func(app string) string { return fmt.Sprintf("https://%s.localhost:%d/", app, g.https) },
	}
}

func fire(ctx context.Context, rate int, apps []string, aims ...aim) *barrage {
	b := &barrage{stop: make(chan struct{})}
	b.group.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-b.stop:
				return
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			b.group.Go(func() { b.shoot(ctx, apps[i%len(apps)], aims[i/len(apps)%len(aims)]) })
		}
	})
	return b
}

func (b *barrage) shoot(ctx context.Context, app string, a aim) {
	s := shot{app: app, at: time.Now()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url(app), nil)
	if err == nil {
		var resp *http.Response
		if resp, err = a.client.Do(req); err == nil {
			s.status = resp.StatusCode
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
	s.took, s.err = time.Since(s.at), err
	b.mu.Lock()
	b.shots = append(b.shots, s)
	b.mu.Unlock()
}

func (b *barrage) end() []shot {
	close(b.stop)
	b.group.Wait()
	return b.shots
}

// failures counts what was not answered 200, of the requests that were begun
// within a span.
func failures(shots []shot, from, to time.Time) (n int) {
	for _, s := range shots {
		if !s.at.Before(from) && s.at.Before(to) && !s.ok() {
			n++
		}
	}
	return n
}
