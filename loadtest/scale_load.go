package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// hail is a steady load on many apps over many gateways: each app gets a
// request a second, over plain HTTP, from the gateways in turn.
type hail struct {
	stop  chan struct{}
	group sync.WaitGroup

	mu     sync.Mutex
	sent   int
	failed []failure
}

type failure struct {
	at  time.Time // when it was begun
	app string
	why string
}

// gust is how often requests are let go.
const gust = 10 * time.Millisecond

// hailOn begins the load.
func hailOn(ctx context.Context, apps int, gateways []*gateway) *hail {
	h := &hail{stop: make(chan struct{})}
	clients := make([]*http.Client, len(gateways))
	for i, g := range gateways {
		clients[i] = plainClient(g)
	}
	h.group.Go(func() {
		ticker := time.NewTicker(gust)
		defer ticker.Stop()
		began, next := time.Now(), 0
		for {
			select {
			case <-h.stop:
				return
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			for ; next < int(time.Since(began).Seconds()*float64(apps)); next++ {
				app, client := fmt.Sprintf("app%d", next%apps), clients[(next+next/apps)%len(clients)]
				h.group.Go(func() { h.one(ctx, client, app) })
			}
		}
	})
	return h
}

func (h *hail) one(ctx context.Context, client *http.Client, app string) {
	at := time.Now()
	err := askApp(ctx, client, app)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent++
	if err != nil {
		h.failed = append(h.failed, failure{at, app, err.Error()})
	}
}

// end stops the load and waits for its last answers.
func (h *hail) end() (sent int, failed []failure) {
	close(h.stop)
	h.group.Wait()
	return h.sent, h.failed
}

// plainClient reaches a gateway over plain HTTP, whatever the hostname.
func plainClient(g *gateway) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		MaxIdleConns: 512, MaxIdleConnsPerHost: 512,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, loopback(g.http))
		},
	}}
}

// askApp sends one request to an app and wants its own answer.
func askApp(ctx context.Context, client *http.Client, app string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway/", nil)
	if err != nil {
		return err
	}
	req.Host = app + ".localhost"
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(text) != app+"\n") {
		err = fmt.Errorf("%d %.200s", resp.StatusCode, text)
	}
	return err
}
